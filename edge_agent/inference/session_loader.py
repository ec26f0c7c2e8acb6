"""Which kind of session a device's models get: a process of their own, or the agent's.

What must not live here: what either does.
"""

import os
from collections.abc import Callable
from pathlib import Path

from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.process_session import Backend, start_worker
from edge_agent.inference.procfs_memory import memory_total_bytes
from edge_agent.inference.session import ModelSession
from edge_agent.inference.settings import InferenceSettings, Isolation
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import Clock
from shared.model.spec import ModelSpec

ISOLATION_BYTES_MIN = 512 * 1024 * 1024  # A worker costs some 40 MB: too much for a device below

SessionLoader = Callable[[Path, ModelSpec], ModelSession]


def session_loader(
    settings: InferenceSettings, clock: Clock, *, backend: Backend = Backend.ONNXRUNTIME
) -> SessionLoader:
    """Return what loads a model on this device as `settings` say.

    Args: backend: what runs it; in the agent's own process it is onnxruntime whatever is said.
    """
    if not is_isolated(settings.isolation, memory_total_bytes()):
        return load_onnx_session
    limits = WorkerLimits(bytes_max=settings.worker_bytes_max, run_s_max=settings.run_s_max)
    threads = settings.lanes or os.cpu_count() or 1

    def load(path: Path, spec: ModelSpec) -> ModelSession:
        return start_worker(path, spec, limits, threads=threads, clock=clock, backend=backend)

    return load


def is_isolated(isolation: Isolation, total_bytes: int) -> bool:
    """Whether models run in processes of their own on a device with so much memory."""
    match isolation:
        case Isolation.PROCESS:
            return True
        case Isolation.IN_PROCESS:
            return False
        case Isolation.AUTO:
            return total_bytes >= ISOLATION_BYTES_MIN
