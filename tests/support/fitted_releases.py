"""Releases of several variants in a real repository, and sessions as fast as a test wants."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_hub.releases.service import ReleaseService
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.session import ModelSession
from edge_agent.updates.release_source import FetchedRelease, FetchedVariant
from edge_agent.updates.repository_source import RepositorySource
from shared.model.spec import ModelSpec
from shared.release.digest import digest_of
from shared.release.golden import encode_golden
from shared.release.manifest import (
    FileEntry,
    Manifest,
    Variant,
    encode_manifest,
    file_path,
    manifest_digest,
    manifest_path,
)
from shared.wire.target import TargetRelease, TrialPolicy
from tests.support.manual_clock import ManualClock
from tests.support.tiny_releases import Kind, artifact_of, golden_of, spec_for

Array = NDArray[np.generic]
INT8_FIRST: Mapping[str, Kind] = {"int8": Kind.BETTER, "fp32": Kind.GOOD}


def publish_variants(
    hub: ReleaseService,
    *,
    version: int,
    kinds: Mapping[str, Kind] = INT8_FIRST,
    agreement: float = 0.99,
) -> TargetRelease:
    """Sign a release with a variant of each kind; return how a Target names it."""
    files: dict[str, bytes] = {}
    variants = []
    for precision, kind in kinds.items():
        artifact = b"not a model" if kind is Kind.UNLOADABLE else artifact_of(kind)
        entries = {}
        for name, data in (
            (f"{precision}.onnx", artifact),
            (f"{precision}.npz", encode_golden(golden_of(artifact, kind))),
        ):
            path = file_path("tones", version, name)
            files[path] = data
            entries[name.rpartition(".")[2]] = FileEntry(
                path=path, digest=digest_of(data), file_bytes=len(data)
            )
        told: dict[str, Any] = {} if precision == "fp32" else {"agreement": agreement}
        variants.append(
            Variant(precision=precision, artifact=entries["onnx"], golden=entries["npz"], **told)
        )
    manifest = Manifest(
        model="tones",
        version=version,
        lineage_id=f"line-{version}",
        created_ms=0,
        spec=spec_for("tones"),
        variants=tuple(variants),
    )
    data = encode_manifest(manifest)
    files[manifest_path("tones", version)] = data
    hub.repository.publish(files, custom={})
    return TargetRelease(
        model="tones",
        version=version,
        manifest_digest=manifest_digest(data),
        rollout=f"roll-{version}",
        trial=TrialPolicy(items_min=30, latency_ratio_max=1000.0),
    )


@dataclass
class Paced:
    """A backend whose sessions take as long a run as `ms` says of the variant's file."""

    clock: ManualClock
    ms: dict[str, float]
    loads: list[str] = field(default_factory=list)
    errors: dict[str, Exception] = field(default_factory=dict)

    def load(self, path: Path, spec: ModelSpec, _threads: int) -> ModelSession:
        """Load a variant, counted."""
        self.loads.append(path.stem)
        if path.stem in self.errors:
            raise self.errors[path.stem]
        inner = load_onnx_session(path, spec)
        return _PacedSession(inner, lambda: self.ms.get(path.stem, 1.0), self.clock)


class _PacedSession:
    def __init__(self, inner: ModelSession, ms: Callable[[], float], clock: ManualClock) -> None:
        self._inner, self._ms, self._clock = inner, ms, clock
        self._lock = threading.Lock()

    @property
    def spec(self) -> ModelSpec:
        return self._inner.spec

    @property
    def runtime(self) -> str:
        return self._inner.runtime

    @property
    def input_dtype(self) -> np.dtype[Any]:
        return self._inner.input_dtype

    def new_input(self) -> Array:
        return self._inner.new_input()

    def run(self, batch: Array) -> tuple[Array, ...]:
        with self._lock:
            self._clock.advance(self._ms() / 1000.0)
        return self._inner.run(batch)

    def close(self) -> None:
        self._inner.close()


class CutSource:
    """A RepositorySource that can lose power around and amid the removal of variants."""

    def __init__(self, source: RepositorySource, cut: Callable[[str], None]) -> None:
        self._source, self._cut = source, cut
        self.fetch, self.reopen = source.fetch, source.reopen

    def keep(self, folder: Path, fetched: FetchedRelease, chosen: FetchedVariant) -> FetchedRelease:
        self._cut("before keep")
        held = {path: path.read_bytes() for path in folder.glob("variant-*")}
        kept = self._source.keep(folder, fetched, chosen)
        gone = {path: data for path, data in held.items() if not path.exists()}
        for path, data in gone.items():
            path.write_bytes(data)
        self._cut("amid keep")  # What stays is written down, the others are still there
        for path in gone:
            path.unlink()
        self._cut("after keep")
        return kept
