"""Training that is killed, alone and under torchrun: it goes on, and comes to the same weights."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen

import msgspec
import pytest

from cloud_hub.training.trainer.run_files import Evaluated, Progressed, Saved, Started
from cloud_hub.training.trainer.spec import Augmentation, DataSource, OptimiserName
from tests.support.training_runs import RunAt, make_run, make_spec, recipe, shapes_dataset
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RECIPE = recipe(
    epochs=24.0,
    batch=16,
    learning_rate=0.01,
    optimiser=OptimiserName.MUON,
    augmentation=Augmentation(shift=0.2, has_flip=True, rotation_degrees=10.0, noise=0.1),
    average_decay=0.95,
    save_every_s=0.05,
)
STEPS = 24 * 11
KILLED_AT = (20, 120)  # Steps; not the ends of epochs
SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    return shapes_dataset(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: DataSource) -> RunAt:
    at = make_run(tmp_path_factory.mktemp("runs") / "unbroken", make_spec(data, recipe=RECIPE))
    assert at.to_its_end() == (0, "")
    return at


@contextmanager
def _started(at: RunAt, *, processes: int = 1) -> Iterator[Popen[str]]:
    process = at.start(processes=processes)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _kill_at(at: RunAt, step: int) -> None:
    with _started(at) as process:
        wait_until(lambda: _saved_step(at) >= step, seconds_max=SECONDS_MAX)
        assert process.poll() is None, "it was done before it could be killed"


def _saved_step(at: RunAt) -> int:
    return max((event.step for event in at.events(Saved)), default=0)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return sorted(found)


def test_a_run_killed_again_and_again_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, data: DataSource, unbroken: RunAt
) -> None:
    spec = make_spec(data, recipe=RECIPE)
    killed = make_run(tmp_path / "killed", spec)
    for step in KILLED_AT:
        _kill_at(killed, step)
    assert killed.to_its_end() == (0, "")
    ours, theirs = killed.result, unbroken.result
    assert ours.weights_digest == theirs.weights_digest
    assert (ours.value, ours.metrics, ours.steps) == (theirs.value, theirs.metrics, STEPS)
    assert ours.test_metrics == theirs.test_metrics
    starts = [event.resumed_step for event in killed.events(Started)]
    assert starts[0] is None
    for resumed, step in zip(starts[1:], KILLED_AT, strict=True):
        assert resumed is not None
        assert resumed >= step
    curves = [
        {event.step: event.metrics for event in at.events(Evaluated)} for at in (killed, unbroken)
    ]
    assert curves[0] == curves[1]
    assert ours.device_seconds > max(e.device_seconds for e in killed.events(Progressed))


def test_two_processes_learn_as_one_and_a_killed_one_ends_both_and_is_made_good(
    tmp_path: Path, data: DataSource, unbroken: RunAt
) -> None:
    spec = make_spec(data, recipe=RECIPE)
    both = make_run(tmp_path / "both", spec)
    with _started(both, processes=2) as torchrun:
        wait_until(lambda: _saved_step(both) > 0, seconds_max=SECONDS_MAX)
        ranks = _children(torchrun.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        assert torchrun.wait(timeout=30.0) != 0
        wait_until(lambda: not _alive(ranks), seconds_max=10.0)
    assert not (both.folder / "result.json").exists()
    code, stderr = both.to_its_end(processes=2)
    assert code == 0, stderr
    first, again = both.events(Started)
    assert first.processes == again.processes == 2
    assert again.resumed_step is not None
    losses = [
        {event.step: event.metrics["loss"] for event in at.events(Evaluated)}
        for at in (both, unbroken)
    ]
    assert losses[0].keys() == losses[1].keys()
    for step, loss in losses[1].items():
        assert losses[0][step] == pytest.approx(loss, rel=0.02, abs=0.002), step


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_processes_whose_torchrun_is_killed_end_by_themselves(
    tmp_path: Path, data: DataSource
) -> None:
    spec = make_spec(data, recipe=msgspec.structs.replace(RECIPE, epochs=10_000.0))
    at = make_run(tmp_path / "run", spec)
    with _started(at, processes=2) as torchrun:
        wait_until(lambda: bool(at.events(Progressed)), seconds_max=SECONDS_MAX)
        ranks = _children(torchrun.pid)
        assert len(ranks) == 2
        torchrun.kill()
        torchrun.wait()
        wait_until(lambda: not _alive(ranks), seconds_max=20.0)
    assert not (at.folder / "result.json").exists()
    assert not (at.folder / "error.json").exists()


def test_a_bad_order_is_told_by_every_number_of_processes(tmp_path: Path, data: DataSource) -> None:
    at = make_run(tmp_path / "run", make_spec(data))
    at.spec_path.write_bytes(b"[]")
    code, _ = at.to_its_end(processes=2)
    assert code != 0
    assert at.error["code"] == "training.spec"
