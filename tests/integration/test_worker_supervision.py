"""Supervision, with real processes: when the session's own thread, or the system, fails it."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from edge_agent.inference.process_child import WorkerChild
from edge_agent.inference.process_session import MODULES, Backend, WorkerSession
from edge_agent.inference.process_supervision import Supervision, child_starter
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from shared.errors import TransientError
from tests.support.onnx_models import (
    boxes_spec,
    colour_spec,
    write_colour_model,
    write_growing_model,
)
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
LIMITS = WorkerLimits(run_s_max=2.0, steady_s=0.0)
MODEL = MODULES[Backend.ONNXRUNTIME]
NONSENSE = "tests.support.nonsense_worker"


class Starts:
    """Starts real workers, but for the numbers at which it fails as told."""

    def __init__(self, path: Path, *, module: str = MODEL, fails: tuple[int, ...] = ()) -> None:
        """Start nothing."""
        self._start = child_starter(module, path, colour_spec(), limits=LIMITS, threads=1)
        self._fails = fails
        self.pids: list[int] = []

    def __call__(self, number: int) -> WorkerChild:
        """Start one."""
        if number in self._fails:
            raise ValueError(f"nobody foresaw {number}")
        child = self._start(number)
        self.pids.append(child.pid)
        return child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_colour_model(tmp_path / "m.onnx")


def supervised(starts: Starts) -> Supervision:
    return Supervision(starts, colour_spec(), limits=LIMITS, clock=SystemClock())


def test_who_waits_for_the_first_worker_learns_why_the_thread_ended(path: Path) -> None:
    supervision = supervised(Starts(path, fails=(1,)))
    with pytest.raises(TransientError, match="not watched: ValueError: nobody foresaw 1") as caught:
        supervision.start()
    assert caught.value.code == "worker.lost"
    assert supervision.child is None


@pytest.mark.slow
def test_a_worker_that_says_nonsense_is_ended_and_told_of(path: Path) -> None:
    starts = Starts(path, module=NONSENSE)
    supervision = supervised(starts)
    with pytest.raises(TransientError, match="not watched: KeyError: 'inputs'"):
        supervision.start()
    (pid,) = starts.pids  # There was no second one
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_a_failure_later_is_a_death_with_a_cause_and_the_model_comes_back(path: Path) -> None:
    starts = Starts(path, fails=(2,))
    supervision = supervised(starts)
    supervision.start()
    with closing(WorkerSession(supervision)) as session:
        buffer = session.new_input()
        os.kill(starts.pids[0], signal.SIGKILL)
        wait_until(lambda: session.standing.last_cause.startswith("not watched"))
        assert session.standing.last_cause == "not watched: ValueError: nobody foresaw 2"
        session.run(buffer)  # It waits for the next one
        assert session.standing.restarts_count == 2
        assert session.standing.pid == starts.pids[1]


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file of this process grow over 1 kB: a memfd is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_device_without_shared_memory_says_so_and_blames_no_model(path: Path) -> None:
    starts = Starts(path)
    with small_files(), pytest.raises(TransientError, match="no memory to be shared") as caught:
        supervised(starts).start()
    assert caught.value.code == "worker.slots"
    assert "File too large" in str(caught.value)
    assert not psutil.pid_exists(starts.pids[0])


@pytest.mark.slow
def test_shared_memory_that_runs_out_later_costs_an_input_and_nothing_else(path: Path) -> None:
    supervision = supervised(Starts(path))
    supervision.start()
    with closing(WorkerSession(supervision)) as session:
        buffer = session.new_input()
        session.run(buffer)
        with small_files():
            with pytest.raises(TransientError, match="no memory to be shared"):
                session.new_input()
            session.run(buffer)
        session.run(session.new_input())
        assert session.standing.restarts_count == 0


@pytest.mark.slow
def test_outputs_of_another_shape_with_every_run_are_right_and_cost_no_memory(
    tmp_path: Path,
) -> None:
    start_child = child_starter(
        MODEL, write_growing_model(tmp_path / "m.onnx"), boxes_spec(), limits=LIMITS, threads=1
    )
    supervision = Supervision(start_child, boxes_spec(), limits=LIMITS, clock=SystemClock())
    supervision.start()
    with closing(WorkerSession(supervision)) as session:
        buffer = session.new_input()

        def run(counts: range) -> int:
            for count in counts:
                buffer.fill(count)
                (boxes,) = session.run(buffer)
                assert boxes.shape == (1, count, 6)
                assert not boxes.any()
            return session.standing.rss_bytes

        before = run(range(2000))
        assert run(range(2000, 10_000)) - before < 4 << 20
        assert session.standing.restarts_count == 0


@pytest.mark.slow
def test_an_agent_killed_while_its_worker_loads_leaves_none(path: Path) -> None:
    agent = subprocess.Popen([sys.executable, "-c", LOADING, str(path)], cwd=ROOT)
    (worker,) = wait_until(lambda: psutil.Process(agent.pid).children(), seconds_max=20.0)
    agent.kill()  # The worker has not yet asked the kernel for anything
    agent.wait()
    wait_until(lambda: not worker.is_running(), seconds_max=5.0)


LOADING = """
import sys
from pathlib import Path
from edge_agent.inference.process_session import start_worker
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from tests.support.onnx_models import colour_spec
start_worker(Path(sys.argv[1]), colour_spec(), WorkerLimits(), threads=1, clock=SystemClock())
sys.stdin.read()
"""
