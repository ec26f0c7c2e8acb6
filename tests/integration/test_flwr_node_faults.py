"""The device's learning process in trouble: bad messages and networks, kills, restarts.

The SuperLink and the learning process are real; the test itself plays the ServerApp over Flower's
own Runtime API, so that it can send what ours never would.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.training.node_files import ORDER, STANDING, NodeOrder, NodeStanding
from edge_agent.training.process_node import node_command
from shared.learning.task import LocalMethod
from tests.support.learning_digits import first_weights, settings_for, task_for
from tests.support.node_bench import NodeBench, reply_in, running_node, update_in
from tests.support.superlink import make_key
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("flwr_node_faults"),
]
LONG = LocalMethod(epochs=1000)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeBench]:
    with running_node(tmp_path_factory.mktemp("faults")) as started:
        yield started


def test_what_is_no_task_of_ours_is_refused_with_its_code_and_the_process_lives(
    bench: NodeBench,
) -> None:
    weights = first_weights()
    failed = bench.server.answer(bench.server.ask(None))
    assert "task.invalid" in str(failed.error.reason)
    assert bench.server.reply(task_for(weights, job="job-3")).refusal_code == "task.job"
    wrong = task_for(weights, base_digest="0" * 64)
    assert bench.server.reply(wrong).refusal_code == "task.digest"
    too_long = task_for(weights, method=LONG, seconds_max=0.5, round=7)
    assert bench.server.reply(too_long).refusal_code == "training.too_long"
    assert bench.running[-1].poll() is None


def test_a_killed_process_rejoins_at_once_and_answers_again_without_training(
    bench: NodeBench,
) -> None:
    task = task_for(first_weights(), round=3)
    first = bench.server.answer(bench.server.ask(task))
    assert not reply_in(first).is_repeated
    killed = bench.running[-1]
    children = psutil.Process(killed.pid).children(recursive=True)
    assert children
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(5)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    bench.start()  # Far sooner than the lease of its former life ends (60 s)
    again = bench.server.answer(bench.server.ask(task))
    assert reply_in(again).is_repeated
    assert update_in(again) == update_in(first)
    assert not psutil.Process(bench.running[-1].pid).children()


def test_it_ends_with_the_process_that_started_it_in_the_middle_of_a_training(
    bench: NodeBench,
) -> None:
    bench.stop()
    text = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True).wait()"
    starter = subprocess.Popen([sys.executable, "-c", text, *node_command(bench.learning)])
    try:
        node = wait_until(lambda: psutil.Process(starter.pid).children(), seconds_max=10)[0]
        wait_until(
            lambda: (s := bench.standing()) and (s.pid, s.state.value) == (node.pid, "online"),
            seconds_max=20,
        )
        bench.server.ask(task_for(first_weights(), method=LONG, round=4, seconds_max=90.0))
        below = wait_until(
            lambda: len(found := node.children(recursive=True)) == 2 and found, seconds_max=20
        )
    finally:
        starter.kill()
        starter.wait(5)
    assert below
    _, alive = psutil.wait_procs([node, *below], timeout=10)
    assert not alive
    bench.start()


def test_a_superlink_that_is_killed_is_found_again(bench: NodeBench) -> None:
    pid = bench.superlink.process.pid
    assert pid is not None
    answered_ms = bench.superlink.standing().at_ms
    os.kill(pid, signal.SIGKILL)
    bench.recorder._to_port = wait_until(
        lambda: (s := bench.superlink.process.standing()) and s.pid != pid and s.device_port,
        seconds_max=30,
    )
    wait_until(
        lambda: (
            bench.standing_state() == "online"
            and (s := bench.standing())
            and s.answered_ms > max(answered_ms, bench.superlink.standing().at_ms - 1000)
        ),
        seconds_max=15,
    )
    assert bench.running[-1].poll() is None


def test_a_ca_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    learning = tmp_path / "learning"
    learning.mkdir()
    key = make_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "device.key").write_bytes(key)
    order = NodeOrder(
        device="device-1",
        jobs=("job-1",),
        address="localhost:1",
        ca_path=str(tmp_path / "absent.pem"),
        key_path=str(tmp_path / "device.key"),
        settings=settings_for(tmp_path / "digits.npz"),
        until_ms=2**50,
    )
    (learning / ORDER).write_bytes(msgspec.json.encode(order))
    assert subprocess.run(node_command(learning), check=False).returncode == 1
    standing = msgspec.json.decode((learning / STANDING).read_bytes(), type=NodeStanding)
    assert "absent.pem" in standing.text
