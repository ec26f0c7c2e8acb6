"""Proving: from a slot on the disk to a loaded release that has reproduced its golden outputs.

1. Files are believed only as ReleaseSource.reopen returns them, and only under the digest that
   was asked for.
2. A release that loads but does not reproduce its golden outputs is refused.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.inference.active_model import LoadedRelease
from edge_agent.inference.session import ModelSession
from edge_agent.updates.release_source import FetchedRelease, ReleaseSource
from shared.errors import IntegrityError, RefusedError, TransientError
from shared.model.spec import ModelSpec
from shared.release.golden import GoldenResult, GoldenSet, read_golden_items

LoadSession = Callable[[Path, ModelSpec], ModelSession]
ProveGolden = Callable[[ModelSession, Iterable[GoldenSet]], GoldenResult]


@dataclass(frozen=True, slots=True)
class ProvenRelease:
    """A release that serves or could serve from the next item on."""

    loaded: LoadedRelease
    golden: GoldenResult
    artifact_digest: str


@dataclass(frozen=True, slots=True)
class Prover:
    """Opens, loads and proves releases."""

    source: ReleaseSource
    load_session: LoadSession
    prove_golden: ProveGolden

    def prove(self, model: str, folder: Path, manifest_digest: str | None) -> ProvenRelease:
        """Return the release in `folder`, loaded and proved. None: whichever it is.

        Raises IntegrityError `release.digest`, RefusedError `golden.mismatch`, TransientError
        `disk.failed`, or what loading raises.
        """
        fetched = self._open(model, folder, manifest_digest)
        session = self.load_session(fetched.artifact_path, fetched.manifest.spec)
        loaded = LoadedRelease(
            model=model,
            version=fetched.manifest.version,
            manifest_digest=fetched.manifest_digest,
            precision=fetched.variant.precision,
            session=session,
        )
        return self._run_golden(fetched, loaded)

    def prove_again(self, loaded: LoadedRelease, folder: Path) -> ProvenRelease:
        """Return a loaded release proved once more, its files checked too. Raises as `prove`."""
        return self._run_golden(self._open(loaded.model, folder, loaded.manifest_digest), loaded)

    def _open(self, model: str, folder: Path, manifest_digest: str | None) -> FetchedRelease:
        with _reading(folder):
            fetched = self.source.reopen(folder)
        if manifest_digest not in (None, fetched.manifest_digest):
            raise IntegrityError("release.digest", f"{folder.name} holds another release.")
        if fetched.manifest.model != model:
            raise IntegrityError(
                "release.digest", f"{folder.name} holds the model {fetched.manifest.model}."
            )
        return fetched

    def _run_golden(self, fetched: FetchedRelease, loaded: LoadedRelease) -> ProvenRelease:
        with _reading(fetched.golden_path):
            result = self.prove_golden(loaded.session, read_golden_items(fetched.golden_path))
        if not result.is_within:
            raise RefusedError(
                "golden.mismatch",
                f"Its golden outputs are not reproduced here: they are off by up to "
                f"{result.error_max:.3g}, {result.excess_max:.3g} more than is allowed.",
            )
        return ProvenRelease(loaded, result, fetched.variant.artifact.digest)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A file that is not there was lost; one that cannot be read now may be readable later."""
    try:
        yield
    except FileNotFoundError as error:
        raise IntegrityError("release.digest", f"{path.name} is missing.") from error
    except OSError as error:
        raise TransientError("disk.failed", f"Cannot read {path.name}: {error}.") from error
