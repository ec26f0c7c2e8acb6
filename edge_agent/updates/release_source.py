"""ReleaseSource: where the updater gets a release's files, verified."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.release.manifest import Manifest, Variant
from shared.wire.target import TargetRelease


@dataclass(frozen=True, slots=True)
class FetchedVariant:
    """One variant of a release on this device's disk."""

    variant: Variant
    artifact_path: Path
    golden_path: Path


@dataclass(frozen=True, slots=True)
class FetchedRelease:
    """A release on this device's disk, every byte checked against the signed metadata."""

    manifest: Manifest
    manifest_digest: str
    variant: Variant  # The one that was kept, or the best one as long as none is
    artifact_path: Path
    golden_path: Path
    others: tuple[FetchedVariant, ...] = ()  # Beside it, as long as none is kept
    tokenizer_path: Path | None = None  # Of a model of texts that has a tokenizer.json

    @property
    def candidates(self) -> tuple[FetchedVariant, ...]:
        """Return every variant that is here, best first."""
        first = FetchedVariant(self.variant, self.artifact_path, self.golden_path)
        return (first, *self.others)


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

        Writes manifest.json there, and of each variant worth trying the model and its golden set.
        `on_progress` gets 0..1.
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

    def keep(self, folder: Path, fetched: FetchedRelease, chosen: FetchedVariant) -> FetchedRelease:
        """Return `fetched` with nothing but `chosen`; the others' files are gone from `folder`.

        May be repeated, also after it was cut short. Raises TransientError `disk.failed`.
        """
        ...
