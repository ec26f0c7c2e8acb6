"""ReleasePeer: the far side of ReleaseSource, a folder of published releases brought in pieces."""

import threading
from collections.abc import Callable
from pathlib import Path

from edge_agent.updates.release_source import FetchedRelease, FetchedVariant
from shared.errors import IntegrityError, TransientError
from shared.release.digest import digest_of
from shared.release.manifest import decode_manifest, manifest_digest
from shared.wire.target import TargetRelease

PIECE_BYTES = 600
NAMES = ("manifest.json", "model.onnx", "golden.npz")


class ReleasePeer:
    """Implements ReleaseSource. `store` is what tests/support/tiny_releases.py published."""

    def __init__(self, store: Path, *, cut: Callable[[str], None] = lambda _name: None) -> None:
        self.errors: list[Exception] = []  # Each is raised once, in the middle of a fetch
        self.is_stalled = False  # No piece comes; a fetch waits to be stopped
        self.stalled = threading.Event()  # Set when a fetch waits
        self.reopen_errors: list[Exception] = []  # Each is raised once, when a slot is opened
        self.unreachable: set[str] = set()  # Models whose releases nobody answers for
        self.stop: threading.Event | None = None  # What the newest fetch was given
        self.fetches: list[str] = []  # Manifest digests asked for
        self.bytes_sent = 0
        self._store = store
        self._cut = cut

    def fetch(
        self,
        release: TargetRelease,
        into: Path,
        *,
        on_progress: Callable[[float], None],
        stop: threading.Event,
    ) -> FetchedRelease:
        if release.model in self.unreachable:
            raise TransientError("link.down", "There is no answer.")
        self.fetches.append(release.manifest_digest)
        self.stop = stop
        folder = self._store / release.manifest_digest
        if not folder.is_dir():
            raise IntegrityError("tuf.unknown_target", "The hub knows no such release.")
        for index, name in enumerate(NAMES):
            self._bring(folder / name, into / name, stop)
            on_progress((index + 1) / len(NAMES))
        return self.reopen(into)

    def reopen(self, folder: Path) -> FetchedRelease:
        if self.reopen_errors:
            raise self.reopen_errors.pop(0)
        data = _read(folder / "manifest.json")
        digest = manifest_digest(data)
        manifest = decode_manifest(data)
        variant = manifest.variants[0]
        for name, entry in (("model.onnx", variant.artifact), ("golden.npz", variant.golden)):
            if digest_of(_read(folder / name)) != entry.digest:
                raise IntegrityError("release.digest", f"{name} is not what was signed.")
        return FetchedRelease(
            manifest=manifest,
            manifest_digest=digest,
            variant=variant,
            artifact_path=folder / "model.onnx",
            golden_path=folder / "golden.npz",
        )

    def keep(self, folder: Path, fetched: FetchedRelease, chosen: FetchedVariant) -> FetchedRelease:
        assert chosen == fetched.candidates[0], "a release here has one variant"
        return self.reopen(folder)

    def _bring(self, source: Path, to: Path, stop: threading.Event) -> None:
        data = source.read_bytes()
        if to.exists() and digest_of(to.read_bytes()) == digest_of(data):
            return
        partial = to.with_suffix(".part")
        have = partial.stat().st_size if partial.exists() else 0
        with partial.open("ab") as file:
            for start in range(have, len(data), PIECE_BYTES):
                self._wait_for_piece(stop)
                self._cut("amid fetch")
                piece = data[start : start + PIECE_BYTES]
                file.write(piece)
                file.flush()
                self.bytes_sent += len(piece)
                if self.errors:
                    raise self.errors.pop(0)
        partial.replace(to)

    def _wait_for_piece(self, stop: threading.Event) -> None:
        if self.is_stalled:
            self.stalled.set()
            stop.wait(30.0)
        if stop.is_set():
            raise TransientError("transfer.stopped", "The fetch was stopped.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError("release.digest", f"{path.name} is missing.") from error
