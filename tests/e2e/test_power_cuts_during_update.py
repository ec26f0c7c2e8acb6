"""Power cut at every act of an update: real process death, real files, real ONNX, real loop.

Each scenario is first lived through whole, to learn its acts; then once for every act, dying right
there. What is left on the disk is started twice more: offline, following what is on the disk, and
with the Target delivered again.
"""

import json
import multiprocessing
import random
import shutil
from pathlib import Path

import msgspec
import pytest

from edge_agent.updates.file_journal import FileJournal
from edge_agent.updates.journal import Journal
from shared.wire.target import Target, TargetRelease
from tests.support.release_peer import ReleasePeer
from tests.support.tiny_releases import Kind, publish
from tests.support.updater_process import POWER_CUT, Seen, live

pytestmark = pytest.mark.slow

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.support.updater_process"])
PROCESS_S_MAX = 60.0


class Device:
    """One device's disk, and the processes that live on it one after another."""

    def __init__(self, folder: Path, store: Path, target: bytes) -> None:
        self.state = folder / "state"
        self._seen = folder / "seen.json"
        self._store = store
        self._target = target
        folder.mkdir(parents=True, exist_ok=True)

    def dies(self, cut_at: int, *, is_online: bool = True) -> bool:
        """Live one process until its `cut_at`-th act; return whether it came that far."""
        return self._live(cut_at, is_online=is_online) == POWER_CUT

    def lives(self, *, is_online: bool) -> Seen:
        """Live one process to its rest; return what it saw."""
        assert self._live(0, is_online=is_online) == 0
        return Seen(**json.loads(self._seen.read_text()))

    def journal(self) -> Journal | None:
        """Return what the disk says."""
        return FileJournal(self.state / "journal").read("tones")

    def _live(self, cut_at: int, *, is_online: bool) -> int | None:
        target = self._target if is_online else b""
        process = PROCESSES.Process(
            target=live,
            args=(str(self.state), str(self._store), target, cut_at, str(self._seen)),
        )
        process.start()
        process.join(PROCESS_S_MAX)
        assert not process.is_alive(), "it does not come to rest"
        code = process.exitcode
        process.close()
        return code


class Story:
    """A device with release 1 (or none) that is asked to run release 2."""

    def __init__(self, folder: Path, kind: Kind, *, is_first: bool = False) -> None:
        self.store = folder / "store"
        self._folder = folder
        self._count = 0
        self.old = 0 if is_first else 1
        self._base = folder / "base"
        base = Device(self._base, self.store, self._target(1, Kind.GOOD))
        if is_first:
            base.state.mkdir(parents=True)
        else:
            assert base.lives(is_online=True).settled == 1
        self._wish = self._target(2, kind)

    def device(self) -> Device:
        """Return a fresh device at the beginning of the story."""
        self._count += 1
        folder = self._folder / f"device-{self._count}"
        shutil.copytree(self._base, folder)
        return Device(folder, self.store, self._wish)

    def _target(self, version: int, kind: Kind) -> bytes:
        release: TargetRelease = publish(self.store, version=version, kind=kind)
        return msgspec.json.encode(Target(revision=version, issued_ms=0, releases=(release,)))


STORIES = {
    "first": (Kind.GOOD, True, {2}),
    "better": (Kind.BETTER, False, {1, 2}),
    "damaged": (Kind.DAMAGED, False, {1}),
    "unproved": (Kind.UNPROVED, False, {1}),
}


@pytest.fixture(params=STORIES)
def told(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Story, set[int]]:
    kind, is_first, ends = STORIES[request.param]
    return Story(tmp_path, kind, is_first=is_first), ends


def check_rest(device: Device, story: Story, ends: set[int], seen: Seen, why: str) -> None:
    """Check what must be true whenever a process has come to rest."""
    assert seen.serving_at_start == seen.settled_at_start, why
    assert seen.gaps_count == 0, why
    assert seen.state in ("idle", "refused"), why
    assert seen.serving == seen.settled, why
    assert seen.receipt_version == seen.serving, why
    assert seen.serving in ends | {story.old}, why
    assert not list((device.state / "journal").glob(".*.tmp")), why
    journal = device.journal()
    settled = journal.settled if journal else None
    if settled is not None:
        opened = ReleasePeer(story.store).reopen(device.state / "releases/tones" / settled.slot)
        assert opened.manifest_digest == settled.manifest_digest, why


def check_end(story: Story, ends: set[int], seen: Seen, why: str) -> None:
    """Check where a device must have come to that got its Target after all cuts."""
    assert seen.serving in ends, why
    if seen.serving == 2:
        assert (seen.failure, seen.receipt_outcome) == (None, "settled"), why
    else:
        assert seen.failure in ("trial.died", "trial.disagreement", "golden.mismatch"), why


def test_a_cut_at_any_act_ends_on_one_whole_release(told: tuple[Story, set[int]]) -> None:
    story, ends = told
    whole = story.device().lives(is_online=True)
    assert whole.serving == max(ends)
    assert len(whole.points) > 20
    for cut_at, point in enumerate(whole.points, start=1):
        why = f"cut at act {cut_at}, {point}"
        device = story.device()
        assert device.dies(cut_at), why
        left = device.journal()
        offline = device.lives(is_online=False)
        if left is not None and left.state in ("trial", "undoing") and story.old:
            assert (offline.serving, offline.receipt_outcome) == (story.old, "undone"), why
            assert offline.failure == (left.failure.code if left.failure else "trial.died"), why
        check_rest(device, story, ends, offline, why)
        online = device.lives(is_online=True)
        check_rest(device, story, ends, online, why)
        check_end(story, ends, online, why)


def test_cuts_on_cuts_end_on_one_whole_release(told: tuple[Story, set[int]]) -> None:
    story, ends = told
    whole = story.device().lives(is_online=True)
    chance = random.Random(20260)
    for _ in range(12):
        device = story.device()
        cuts = [chance.randint(1, len(whole.points)) for _ in range(3)]
        for cut_at in cuts:
            device.dies(cut_at, is_online=chance.random() < 0.5)
        why = f"cuts at acts {cuts}"
        online = device.lives(is_online=True)
        check_rest(device, story, ends, online, why)
        if story.old:
            check_end(story, ends, online, why)
        else:
            # Three deaths in proof and trial: the first release may have been given up.
            assert online.serving == 2 or online.failure in ("proof.died", "trial.died"), why
