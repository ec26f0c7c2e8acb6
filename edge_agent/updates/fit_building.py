"""A device's Fitter put together: its backends, lanes, limits and hardware.

1. onnxruntime is always there. openvino is tried beside it where it is installed, on x86 and with
   models in processes of their own; it is chosen by measurement only.
2. A worker's memory is what its process holds; in the agent's own process it is what loading added.
"""

import importlib.util
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from edge_agent.inference.golden_proof import prove_golden
from edge_agent.inference.process_session import Backend as Runtime
from edge_agent.inference.process_session import WorkerSession
from edge_agent.inference.procfs_memory import memory_total_bytes
from edge_agent.inference.session import ModelSession
from edge_agent.inference.session_loader import is_isolated, session_loader
from edge_agent.inference.settings import InferenceSettings
from edge_agent.updates.fitting import Backend, Fitter
from edge_agent.updates.repository_source import WorthTrying
from edge_agent.updates.variants import Acceptance, worth_trying
from shared.clock import Clock
from shared.model.spec import ModelSpec
from shared.pipeline.pipeline import PipelineLimits
from shared.release.manifest import Manifest, Variant
from shared.wire.fit import fingerprint_of
from shared.wire.presence import Hardware
from shared.wire.target import TargetRelease

X86 = ("x86_64", "AMD64")


def build_fitter(
    settings: InferenceSettings,
    limits: Callable[[str], PipelineLimits],
    hardware: Hardware,
    clock: Clock,
    *,
    bytes_max: int = 1 << 62,
) -> Fitter:
    """Return what measures releases on this device.

    Args: limits: of a model, the strictest of the pipelines that use it (inference/fit.strictest).
    """
    lanes = settings.lanes or os.cpu_count() or 1
    return Fitter(
        backends=backends_of(settings, clock),
        prove_golden=prove_golden,
        limits=limits,
        threads=tuple(dict.fromkeys((1, lanes))),
        fingerprint=fingerprint_of(hardware),
        clock=clock,
        memory_of=worker_memory,
        acceptance=Acceptance(PipelineLimits(), bytes_max, machine=platform.machine()),
    )


def what_to_bring(limits: Callable[[str], PipelineLimits], *, bytes_max: int) -> WorthTrying:
    """Return which variants of a release this device brings, for RepositorySource."""

    def bring(manifest: Manifest, release: TargetRelease) -> tuple[Variant, ...]:
        acceptance = Acceptance(limits(manifest.model), bytes_max, machine=platform.machine())
        return worth_trying(manifest, release, acceptance)

    return bring


def backends_of(settings: InferenceSettings, clock: Clock) -> Mapping[str, Backend]:
    """Return what may run models here, by name; the one to fall back on first."""
    runtimes = [Runtime.ONNXRUNTIME]
    can_openvino = (
        platform.machine() in X86
        and is_isolated(settings.isolation, memory_total_bytes())
        and importlib.util.find_spec("openvino") is not None
    )
    if can_openvino:
        runtimes.append(Runtime.OPENVINO)
    return {runtime.value: _backend(settings, runtime, clock) for runtime in runtimes}


def _backend(settings: InferenceSettings, runtime: Runtime, clock: Clock) -> Backend:
    def load(path: Path, spec: ModelSpec, threads: int) -> ModelSession:
        own = msgspec.structs.replace(settings, lanes=threads)
        return session_loader(own, clock, backend=runtime)(path, spec)

    return load


def worker_memory(session: ModelSession) -> int | None:
    """Return what a session's process holds; None for one in this process."""
    return session.standing.rss_bytes if isinstance(session, WorkerSession) else None
