"""Cloud Jobs of a real hub process: datasets in, orders, what runs, what came of it.

The task is 8x8 digits and a network of a few thousand parameters: what is tested is what becomes of
a Job, not how good it is.
"""

import gzip
import os
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from cloud_hub.training.executors.process_local import MARK
from tests.support.learning_fleet import HELD, MODEL, NETWORK, SPEC, command
from tests.support.real_fleet import RealHub
from tests.support.waiting import wait_until

DATASET = "handwritten"
STEP_S = 60.0
# Quick, and the same on every day.
RECIPE: Mapping[str, Any] = {
    "epochs": 8, "batch": 32, "learning_rate": 0.03, "is_deterministic": True, "threads": 1,
    "save_every_s": 0.05,
}  # fmt: skip
LONG: Mapping[str, Any] = {**RECIPE, "epochs": 100_000, "evaluate_every": 1000}
ORDER: Mapping[str, Any] = {
    "model": MODEL, "dataset": DATASET, "recipe": RECIPE,
    "device": "cpu", "is_explained": False, "is_released": False,
}  # fmt: skip
# A killed hub's runs are taken over when its lease is over; what failed is soon tried again.
SETTINGS = "tick_s = 0.1\n[training]\nlease_s = 5.0\nretry_s = 2.0\n"
Labels = NDArray[np.int64]


def gray_digits() -> tuple[NDArray[np.uint8], Labels]:
    """Return (n, 8, 8) gray pictures of digits, and their labels (n,)."""
    source = load_digits()
    return (source.images * 15.9).astype(np.uint8), source.target.astype(np.int64)


def write_idx_archive(path: Path, *, count: int | None = None) -> None:
    """Write digits as MNIST is published, in one archive: the last HELD are the test part.

    Args: count: of the training part, from its beginning; None: all.
    """
    pictures, labels = gray_digits()
    train = slice(-HELD) if count is None else slice(count)
    with zipfile.ZipFile(path, "w") as zipped:
        for name, chosen in (("train", train), ("t10k", slice(-HELD, None))):
            for kind, array in (("images", pictures[chosen]), ("labels", labels[chosen])):
                data = idx(array.astype(np.uint8))
                file = f"{name}-{kind}-idx{array.ndim}-ubyte.gz"
                zipped.writestr(file, gzip.compress(data, compresslevel=1))


def idx(array: NDArray[np.uint8]) -> bytes:
    """Return an array as an IDX file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture as a PNG file."""
    return cv2.imencode(".png", picture)[1].tobytes()


class CloudHub(RealHub):
    """`cloud-hub serve`, quick to look after its Jobs, with digits and a network to train."""

    drawn = ""  # The checkpoint with which Jobs begin unless they say otherwise

    def __init__(self, folder: Path, *, settings: str = "", **more: Any) -> None:
        """Args: settings: more of its file, behind SETTINGS, which ends in [training]."""
        super().__init__(folder, settings=f"{SETTINGS}{settings}", **more)
        self._folder = folder

    def set_up(self) -> None:
        """Give it what Jobs need."""
        import_digits(self, self._folder)
        self.drawn = self.add_checkpoint(spec=SPEC, network=NETWORK)

    def order(self, **changes: Any) -> "HubJob":
        """Order a Job; what is not said is as in ORDER."""
        start = {} if "spec" in changes else {"checkpoint": self.drawn}
        return HubJob(self, str(self.post("/cloud-jobs", {**ORDER, **start, **changes})["job_id"]))


def import_digits(
    hub: RealHub, folder: Path, name: str = DATASET, *, count: int | None = None
) -> dict[str, Any]:
    """Import digits as a person does; return what the hub says of it."""
    archive = folder / f"{name}.zip"
    write_idx_archive(archive, count=count)
    imported: dict[str, Any] = command(hub, "datasets", "import", name, str(archive))
    return imported


class HubJob:
    """One cloud Job of a real hub."""

    def __init__(self, hub: RealHub, job_id: str) -> None:
        self.hub = hub
        self.job_id = job_id

    def get(self, part: str = "", **query: int) -> Any:
        return self.hub.get(f"/cloud-jobs/{self.job_id}{part}", **query)

    def run(self, index: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/runs")["runs"][index]
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of its first run of one kind, oldest first."""
        found, after = [], 0
        while page := self.get("/events", after=after)["events"]:
            after = page[-1]["number"]
            found += [one["event"] for one in page if one["event"]["event"] == kind]
        return found

    def log(self) -> str:
        """Return what its first run printed."""
        return (self.folder / "trainer.log").read_text()

    @property
    def folder(self) -> Path:
        """Return its first run's folder."""
        return self.hub.state / "training" / "runs" / f"{self.job_id}-0"

    @property
    def step(self) -> int:
        """Return how far its first run is, as it was last told."""
        return int(self.run()["progress"]["step"])

    def wait(self, condition: Callable[[], Any], *, seconds_max: float = STEP_S) -> Any:
        """Return the first true value of `condition`; a hub that is away is asked again."""

        def ask() -> Any:
            try:
                return condition()
            except httpx.TransportError:
                return None

        try:
            return wait_until(ask, seconds_max=seconds_max)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from error

    def wait_for_saved(self, step: int) -> int:
        """Wait until a state of `step` or later is kept, by the files; return which."""

        def saved() -> int:
            steps = [int(path.stem.removeprefix("state-")) for path in self._states()]
            return max((found for found in steps if found >= step), default=0)

        return int(self.wait(saved))

    def wait_for_end(self, *, seconds_max: float = STEP_S) -> dict[str, Any]:
        """Return the Job once nothing more comes of it."""
        found: dict[str, Any] = self.wait(
            lambda: (job := self.get())["is_settled"] and job, seconds_max=seconds_max
        )
        return found

    def weights(self) -> bytes:
        """Return the weights that came of it, as they are kept."""
        checkpoint = self.get()["result_checkpoint_id"]
        answer = self.hub.ask("GET", f"/checkpoints/{checkpoint}/weights")
        return bytes(answer.content)

    def pids(self) -> list[int]:
        """Return every process of its first run, the one that leads first."""
        return processes_of(self.folder.name)

    def told(self) -> str:
        """Return all that is known of it, for a test that fails."""
        lines = [str(self.get()), str(self.get("/runs")["runs"])]
        paths = (self.folder / "trainer.log", self.folder / "error.json", self.hub.log)
        lines += [f"{path.name}: {path.read_text()[-2500:]}" for path in paths if path.exists()]
        return "\n".join(lines)

    def _states(self) -> list[Path]:
        return list(self.folder.glob("state-*.pt")) if self.folder.is_dir() else []


def require_failed(job: HubJob, code: str, *words: str, seconds_max: float = STEP_S) -> None:
    """Wait for a Job's end; fail unless it failed by this code and says these words."""
    ended = job.wait_for_end(seconds_max=seconds_max)
    found = (ended["state"], ended["outcome"], ended["code"])
    assert found == ("finished", "failed", code), job.told()
    for word in words:
        assert word in ended["text"], f"{word!r} is not in {ended['text']!r}"
    assert job.pids() == []


def require_completed(job: HubJob) -> dict[str, Any]:
    """Return a Job once it has completed and its result is settled."""
    ended = job.wait_for_end()
    assert (ended["state"], ended["outcome"]) == ("finished", "completed"), job.told()
    return ended


def require_every_step_once(job: HubJob, *, starts: int) -> None:
    """Fail unless its attempts, each from where it says, make the whole plan without a gap.

    An attempt begins where the newest state is that was kept before it: what it trains again was
    lost with its forerunner, and nothing else is trained twice.
    """
    begun, saved, told = (job.events(kind) for kind in ("started", "saved", "progressed"))
    assert len(begun) == starts, job.told()
    assert begun[0]["resumed_step"] is None
    for before, after in pairwise(begun):
        kept = [
            event["step"] for event in saved if before["at_ms"] <= event["at_ms"] <= after["at_ms"]
        ]
        # One that was kept in the last instant may not have been told of any more.
        assert after["resumed_step"] >= max(kept), job.told()
        assert after["resumed_step"] > (before["resumed_step"] or 0)
        steps = [event["step"] for event in told if event["at_ms"] > after["at_ms"]]
        assert all(step > after["resumed_step"] for step in steps)
    last = job.run()["progress"]["step"]
    assert begun[0]["steps_total"] == last == told[-1]["step"], job.told()


def processes_of(key: str) -> list[int]:
    """Return every process that says in its environment that it works for a run; oldest first."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
            is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if f"{MARK}={key}@".encode() in environment and not is_dead:
            found.append(int(entry.name))
    return sorted(found)


def running(pids: Sequence[int]) -> list[int]:
    """Return those of some processes that are still there."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextmanager
def cloud_hub(
    folder: Path, *, settings: str = "", env: Mapping[str, str] | None = None
) -> Iterator[CloudHub]:
    """Run a hub; what it trains ends with it."""
    hub = CloudHub(folder, settings=settings)
    hub.env |= env or {}
    try:
        hub.start()
        yield hub
    finally:
        hub.close()
        for run in (hub.state / "training" / "runs").glob("*"):
            for pid in processes_of(run.name):
                kill(pid)
