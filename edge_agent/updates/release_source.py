"""ReleaseSource: where the updater gets a release's files, verified."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.release.manifest import Manifest, Variant
from shared.wire.target import TargetRelease


@dataclass(frozen=True, slots=True)
class FetchedRelease:
    """A release on this device's disk, every byte checked against the signed metadata."""

    manifest: Manifest
    manifest_digest: str
    variant: Variant
    artifact_path: Path
    golden_path: Path


class ReleaseSource(Protocol):
    """Implementations: repository_source.RepositorySource (TUF over MQTT); the tests' own."""

    def fetch(
        self,
        release: TargetRelease,
        into: Path,
        *,
        on_progress: Callable[[float], None],
        stop: threading.Event,
    ) -> FetchedRelease:
        """Bring `release` into the folder `into` and return it; resumes what is already there.

        Writes manifest.json, model.onnx and golden.npz there. `on_progress` gets 0..1.
        Raises TransientError (link down, no answer, stopped, `tuf.expired`: try again later) or
        IntegrityError `tuf.rollback`, `tuf.signature`, `tuf.unknown_target`, `release.digest`
        (quarantine) or ContractError (manifest not understood: quarantine).
        """
        ...

    def reopen(self, folder: Path) -> FetchedRelease:
        """Return a release that `fetch` brought into `folder` earlier, checked again.

        Raises IntegrityError `release.digest` if any file is not what it was.
        """
        ...
