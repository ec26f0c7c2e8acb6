"""What can go wrong with a cloud Job: it ends with its reason and remedy, and the next one runs."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud_hub_story import (
    LONG,
    RECIPE,
    CloudHub,
    HubJob,
    cloud_hub,
    import_digits,
    require_completed,
    require_failed,
    running,
)
from tests.support.learning_fleet import MODEL
from tests.support.real_fleet import RealHub
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(300),
]
DISK_BYTES = 64 << 20
MEMORY_BYTES = 5 << 30  # Address space, of which torch alone takes the half
STOP_S = 20.0  # Of trainers that listen, on a busy machine
SPOILT = "spoilt"
# 64x64 pixels, all 1,150 digits at once: a gigabyte behind the first layer.
GREEDY: dict[str, Any] = {
    "spec": {
        "model": MODEL,
        "task": "classification",
        "input": {"kind": "image", "width": 64, "height": 64, "colour": "gray"},
        "output": {"decoder": "logits", "classes": [str(digit) for digit in range(10)]},
    },
    "network": {"architecture": {"kind": "cnn", "channels": [256, 8], "hidden": 8}},
    "recipe": {**RECIPE, "batch": 2048},
}


@dataclass(frozen=True)
class Place:
    """A hub whose runs and whose objects lie on small disks."""

    hub: CloudHub
    runs: SmallDisk
    objects: SmallDisk

    @property
    def packs(self) -> set[Path]:
        """Return the packs of all datasets."""
        found = (self.objects.folder / "datasets" / "packs").rglob("*")
        return {path for path in found if path.is_file()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hub")
    state = folder / "hub"
    state.mkdir(mode=0o700)
    settings = f'stop_s_max = 5.0\nterm_s_max = 3.0\n[releases]\nobjects = "{folder / "objects"}"\n'
    with (
        small_disk(state / "training", size_bytes=DISK_BYTES) as runs,
        small_disk(folder / "objects", size_bytes=DISK_BYTES) as objects,
        cloud_hub(folder, settings=settings) as hub,
    ):
        hub.set_up()
        yield Place(hub, runs, objects)


def test_what_is_wrong_with_one_job_ends_it_and_the_queue_goes_on(
    place: Place, tmp_path: Path
) -> None:
    hub = place.hub
    known = place.packs
    import_digits(hub, tmp_path, SPOILT, count=300)
    first = hub.order(recipe=LONG, is_released=True, processes=2)
    first.wait_for_saved(1)
    spoilt = hub.order(dataset=SPOILT)
    damaged = hub.order()
    hanging = hub.order(timeout_s=1.0)
    greedy = hub.order(**GREEDY)
    good = hub.order()
    for pack in place.packs - known:
        _flip_a_byte(pack)
    spec = damaged.folder / "job.json"
    spec.write_text(spec.read_text().replace('"batch": 32', '"batch": -32'))
    jobs = hub.get("/cloud-jobs")["jobs"]
    assert [job["state"] for job in jobs] == ["queued"] * 5 + ["running"]

    _require_stopped(first)
    require_failed(
        spoilt, "dataset.damaged", "is not what was imported", "import the dataset again"
    )
    require_failed(damaged, "training.spec", "batch", "Correct that key")
    with _memory_of(hub, MEMORY_BYTES):
        [pid] = hanging.wait(hanging.pids)
        os.kill(pid, signal.SIGSTOP)
        require_failed(hanging, "run.timeout", "longer than it may", "timeout_s")
        require_failed(greedy, "training.memory", "Memory ran out", "smaller recipe.batch")
    done = require_completed(good)
    assert done["value"] > 0.9
    # A refusal is final; only what may work the next time is tried again.
    assert [job.run()["attempt"] for job in (spoilt, damaged, hanging, greedy)] == [1] * 4
    hub.check_all()


def test_full_disks_end_the_job_that_meets_them_or_delay_what_came_of_it(place: Place) -> None:
    hub = place.hub
    job = hub.order(recipe=LONG)
    job.wait_for_saved(1)
    place.runs.fill()
    try:
        require_failed(job, "disk.full", "no room left", "Free some space")
    finally:
        place.runs.empty()
    assert job.events("saved"), "what it had said is kept"

    job = hub.order()
    job.wait_for_saved(1)
    place.objects.fill()
    try:
        # What trains needs the object store no more; the Job says what its result waits for.
        delayed = job.wait(lambda: "waits" in (found := job.get())["text"] and found)
        assert (delayed["state"], delayed["outcome"]) == ("finished", "completed")
        assert not delayed["is_settled"]
        assert "The object store failed" in delayed["text"]
        assert "for a folder the disk" in delayed["text"], "the remedy"
    finally:
        place.objects.empty()
    settled = require_completed(job)
    assert settled["code"] == "job.completed"
    assert "object store" not in settled["text"]
    assert job.weights().startswith(b"PK")
    hub.check_all()


def _require_stopped(job: HubJob) -> None:
    """Stop a Job; its processes are gone within seconds, its log and what it learned stay."""
    pids = job.pids()
    assert len(pids) == 3, "torchrun and two ranks"
    # Where memory runs out, the kernel takes these before the hub.
    assert {Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in pids} == {"500\n"}
    job.hub.post(f"/cloud-jobs/{job.job_id}/stop", {"why": "enough"})
    wait_until(lambda: not running(pids), seconds_max=STOP_S)
    stopped = job.wait_for_end()
    assert (stopped["outcome"], stopped["release_version"]) == ("stopped", None), job.told()
    assert "enough" in stopped["text"]
    assert stopped["result_checkpoint_id"] in stopped["text"]
    assert job.pids() == []
    assert job.hub.ask("GET", f"/cloud-jobs/{job.job_id}/runs/0/log").is_success
    assert job.weights().startswith(b"PK")
    assert job.run()["progress"]["step"] > 0


@contextmanager
def _memory_of(hub: RealHub, bytes_max: int) -> Iterator[None]:
    """Let what the hub starts have only so much memory."""
    soft, hard = resource.prlimit(hub.pid, resource.RLIMIT_AS)
    resource.prlimit(hub.pid, resource.RLIMIT_AS, (bytes_max, hard))
    try:
        yield
    finally:
        resource.prlimit(hub.pid, resource.RLIMIT_AS, (soft, hard))


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
