"""WorkerSession with real processes: what a model, a person or the kernel does to them."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from edge_agent.inference import process_lane
from edge_agent.inference.process_session import WorkerSession, start_worker
from edge_agent.inference.session_loader import is_isolated
from edge_agent.inference.settings import Isolation
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from shared.errors import RefusedError, TransientError
from shared.model.spec import Decoder, ModelSpec
from tests.support.onnx_models import (
    boxes_spec,
    colour_spec,
    echo_spec,
    write_colour_model,
    write_endless_model,
    write_greedy_model,
    write_growing_model,
)
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
STEADY = WorkerLimits(run_s_max=1.0, steady_s=0.0)  # No death is one in a row


@pytest.fixture
def started(tmp_path: Path) -> Iterator[WorkerSession]:
    path = write_colour_model(tmp_path / "m.onnx")
    with closing(start_worker(path, colour_spec(), STEADY, threads=2, clock=SystemClock())) as one:
        yield one


def start(path: Path, spec: ModelSpec, limits: WorkerLimits = STEADY) -> WorkerSession:
    return start_worker(path, spec, limits, threads=2, clock=SystemClock())


def score_spec(samples: int) -> ModelSpec:
    spec = echo_spec(samples)
    output = msgspec.structs.replace(spec.output, decoder=Decoder.SCORE)
    return msgspec.structs.replace(spec, output=output)


def pid_of(session: WorkerSession) -> int:
    return wait_until(lambda: session.standing.pid)


def run_until_answered(session: WorkerSession, batch: np.ndarray) -> list[TransientError]:
    errors: list[TransientError] = []
    while True:
        try:
            session.run(batch)
        except TransientError as error:
            errors.append(error)
            assert len(errors) < 5, errors
        else:
            return errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "killed by SIGKILL, as the kernel does when memory runs out"),
        (signal.SIGSEGV, "crashed with SIGSEGV"),
    ],
)
def test_a_death_is_told_with_its_cause_and_the_next_run_is_answered(
    started: WorkerSession, number: signal.Signals, says: str
) -> None:
    buffer = started.new_input()
    buffer.fill(0.5)
    started.run(buffer)
    first = pid_of(started)
    os.kill(first, number)
    errors = run_until_answered(started, buffer)
    assert all(error.code == "worker.lost" for error in errors)
    wait_until(lambda: started.standing.restarts_count)  # A run may be faster than the signal
    pid_of(started)
    standing = started.standing
    assert standing.pid != first
    assert (standing.restarts_count, standing.last_cause) == (1, says)
    assert all(says in str(error) for error in errors)
    np.testing.assert_allclose(started.run(buffer)[0], np.full((1, 3), 4.0))  # Buffers stay good


@pytest.mark.slow
def test_a_kill_in_the_middle_of_many_runs_costs_only_those_in_flight(
    started: WorkerSession,
) -> None:
    wrong: list[object] = []
    lost: list[str] = []
    answered = [0, 0, 0]
    is_over = threading.Event()

    def ask(number: int) -> None:
        buffer = started.new_input()
        while not is_over.is_set():
            buffer.fill(number)
            try:
                value = started.run(buffer)[0][0, 0]
            except TransientError as error:
                lost.append(str(error))
                continue
            answered[number] += 1
            if value != 8.0 * number:
                wrong.append((number, value))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(answered) > 50)
    os.kill(pid_of(started), signal.SIGKILL)
    wait_until(lambda: started.standing.restarts_count == 1)
    before = list(answered)
    wait_until(lambda: all(now > then + 50 for now, then in zip(answered, before, strict=True)))
    is_over.set()
    for thread in threads:
        thread.join(30.0)
    assert not wrong
    assert len(lost) <= 3  # One for each


@pytest.mark.slow
def test_a_stopped_worker_is_stuck_and_replaced(started: WorkerSession) -> None:
    worker = psutil.Process(pid_of(started))
    worker.suspend()
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)  # A run may be faster
    (error,) = run_until_answered(started, started.new_input())
    assert "stuck for 1 s" in str(error)
    assert started.standing.last_cause == "stuck for 1 s"


@pytest.mark.slow
def test_a_worker_that_is_stopped_while_idle_is_found_by_its_silence(
    started: WorkerSession,
) -> None:
    os.kill(pid_of(started), signal.SIGSTOP)
    wait_until(lambda: started.standing.restarts_count == 1)
    assert run_until_answered(started, started.new_input()) == []


@pytest.mark.slow
def test_a_model_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = write_endless_model(tmp_path / "m.onnx", samples=8)
    before = workers_of_this_process()
    with pytest.raises(RefusedError, match=r"stuck for 0\.6 s") as caught:
        start(path, score_spec(8), WorkerLimits(run_s_max=0.3))
    assert caught.value.code == "worker.stuck"
    assert not workers_of_this_process() - before


@pytest.mark.slow
def test_a_run_that_never_ends_costs_less_than_a_second_and_is_told(tmp_path: Path) -> None:
    path = write_endless_model(tmp_path / "m.onnx", samples=8, is_trap=True)
    with closing(start(path, score_spec(8), WorkerLimits())) as session:  # 5 s by the clock
        batch = np.zeros(session.spec.input_shape, np.float32)
        assert session.run(batch)[0].item() == 0.0
        batch.fill(1.0)
        with pytest.raises(TransientError, match=r"stuck: a run had computed for 0\.\d s"):
            session.run(batch)
        batch.fill(0.0)
        assert run_until_answered(session, batch) == []


def test_a_model_that_wants_64_gb_is_refused(tmp_path: Path) -> None:
    path = write_greedy_model(tmp_path / "m.onnx", samples=8)
    before = workers_of_this_process()
    with pytest.raises(RefusedError) as caught:
        start(path, score_spec(8))
    assert caught.value.code == "worker.memory"
    assert not workers_of_this_process() - before


@pytest.mark.slow
def test_outputs_larger_than_foreseen_come_all_the_same(tmp_path: Path) -> None:
    with closing(start(write_growing_model(tmp_path / "m.onnx"), boxes_spec())) as session:
        buffer = session.new_input()
        for count in (0, 3, 1_000_000, 5):
            buffer.fill(count)
            assert session.run(buffer)[0].shape == (1, count, 6)
            assert not session.run(buffer.copy())[0].any()
        buffer.fill(30_000_000)  # 720 MB
        with pytest.raises(RefusedError) as caught:
            session.run(buffer)
        assert caught.value.code == "inference.output"


def test_more_rows_than_a_fixed_batch_axis_takes_never_reach_the_worker(
    started: WorkerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_lane.words, "run_packet", None)  # Nothing may be sent
    batch = np.zeros((3, *started.spec.input_shape[1:]), np.float32)
    with pytest.raises(RefusedError, match="takes 1 at a time; the batch has 3"):
        started.run(batch)


@pytest.mark.slow
def test_a_model_whose_worker_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx")
    limits = WorkerLimits(deaths_max=2, steady_s=1000.0)
    with closing(start(path, colour_spec(), limits)) as session:
        for _ in range(2):
            os.kill(pid_of(session), signal.SIGKILL)
            wait_until(lambda: session.standing.pid is None)
            if session.standing.restarts_count < 2:
                wait_until(lambda: session.standing.pid or session.standing.restarts_count > 1)
        with pytest.raises(RefusedError, match="died 2 times in a row") as caught:
            session.run(session.new_input())
    assert caught.value.code == "worker.crashed"


@pytest.mark.slow
def test_thirty_deaths_leak_neither_descriptors_nor_memory(started: WorkerSession) -> None:
    buffer = started.new_input()
    me = psutil.Process()

    def die(times: int) -> tuple[int, int, float]:
        for _ in range(times):
            os.kill(pid_of(started), signal.SIGKILL)
            run_until_answered(started, buffer)
        gc.collect()
        return me.num_fds(), threading.active_count(), me.memory_info().rss / 1e6

    after_few, after_many = die(5), die(25)
    assert after_many[:2] == after_few[:2]
    assert after_many[2] - after_few[2] < 20.0  # One worker's share of it would be 40 for each
    assert started.standing.restarts_count == 30


@pytest.mark.slow
def test_sessions_that_are_let_go_of_leave_nothing(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx")
    with ExitStack() as first:
        first.enter_context(closing(start(path, colour_spec())))
    gc.collect()
    before = psutil.Process().num_fds()
    session = start(path, colour_spec())
    buffer = session.new_input()
    session.run(buffer)
    session.run(buffer.copy())
    pid = pid_of(session)
    del session, buffer  # Without close
    gc.collect()
    wait_until(lambda: not psutil.pid_exists(pid))
    wait_until(lambda: psutil.Process().num_fds() == before)


@pytest.mark.slow
def test_a_killed_agent_leaves_no_worker(tmp_path: Path) -> None:
    path = write_endless_model(tmp_path / "m.onnx", samples=8)
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    worker = wait_until(lambda: psutil.Process(agent.pid).children())[0]
    wait_until(lambda: worker.cpu_times().user > 0.3)  # Within the endless run, or about to be
    agent.kill()
    agent.communicate()
    wait_until(lambda: not worker.is_running(), seconds_max=5.0)


AGENT = """
import sys
from pathlib import Path
from edge_agent.inference.process_session import start_worker
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from tests.integration.test_worker_process import score_spec
start_worker(Path(sys.argv[1]), score_spec(8), WorkerLimits(run_s_max=60.0), threads=1,
             clock=SystemClock())
"""


def test_a_worker_takes_no_other_module_and_no_core_dump(started: WorkerSession) -> None:
    limits = Path(f"/proc/{pid_of(started)}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    environment = Path(f"/proc/{pid_of(started)}/environ").read_bytes().split(b"\0")
    names = {entry.split(b"=")[0].decode() for entry in environment if entry}
    assert names <= {
        "PATH", "LC_ALL", "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS", "ORT_DISABLE_TELEMETRY",
    }  # fmt: skip


@pytest.mark.slow
def test_the_agents_process_never_imports_the_runtime(tmp_path: Path) -> None:
    code = (
        "import sys, edge_agent.inference.session_loader; "
        "sys.exit('onnxruntime' in sys.modules or 'openvino' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("isolation", "total_bytes", "expected"),
    [
        (Isolation.AUTO, 511 << 20, False),
        (Isolation.AUTO, 512 << 20, True),
        (Isolation.PROCESS, 128 << 20, True),
        (Isolation.IN_PROCESS, 64 << 30, False),
    ],
)
def test_small_devices_run_models_in_the_agents_process(
    isolation: Isolation, total_bytes: int, expected: bool
) -> None:
    assert is_isolated(isolation, total_bytes) is expected


def workers_of_this_process() -> set[psutil.Process]:
    return {
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE  # Another test's, not waited for
        and any("onnx_worker" in argument for argument in child.cmdline())
    }


def test_a_wait_for_the_next_worker_has_an_end(tmp_path: Path) -> None:
    path = write_colour_model(tmp_path / "m.onnx")
    limits = WorkerLimits(steady_s=1000.0, wait_s_max=0.001, deaths_max=9)
    codes = []
    with closing(start(path, colour_spec(), limits)) as session:
        buffer = session.new_input()
        for _ in range(5):  # On a crowded machine the next one may be there first
            os.kill(wait_until(lambda: session.standing.pid), signal.SIGKILL)
            wait_until(lambda: session.standing.pid is None)
            began_s = time.monotonic()
            try:
                session.run(buffer)
            except TransientError as error:
                assert time.monotonic() - began_s < 1.0
                codes.append(error.code)
    assert "worker.lost" in codes
