"""The device's learning process in trouble: bad messages and networks, kills, restarts.

The SuperLink and the learning process are real; the test itself plays the ServerApp over Flower's
own Runtime API, so that it can send what ours never would.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from cloud_hub.training.job_folder import WantedRun
from edge_agent.training.node_files import ORDER, STANDING, NodeOrder, NodeStanding
from edge_agent.training.process_node import node_command
from shared.learning.task import (
    REPLY_RECORD,
    TASK_RECORD,
    UPDATE_RECORD,
    WEIGHTS_RECORD,
    LearningReply,
    LearningTask,
    LocalMethod,
    decode_reply,
    encode_task,
)
from tests.support.learning_digits import first_weights, settings_for, task_for, write_digits
from tests.support.superlink import RunningSuperLink, make_key, running_superlink, wanted_node
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("flwr_node_faults"),
]
LONG = LocalMethod(epochs=1000)


@dataclass
class Bench:
    """A SuperLink with one run, one device behind a proxy, and the ServerApp's end of the run."""

    superlink: RunningSuperLink
    folder: Path
    proxy: TcpProxy
    grid: HttpGrid
    node_id: int
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def learning(self) -> Path:
        return self.folder / "learning"

    def start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(node_command(self.learning), start_new_session=True)
        self.running.append(process)
        wait_until(lambda: self.standing_state() == "online", seconds_max=20)
        return process

    def stop(self) -> None:
        self.running[-1].terminate()
        assert self.running[-1].wait(10) == 0

    def standing(self) -> NodeStanding | None:
        path = self.learning / STANDING
        return msgspec.json.decode(path.read_bytes(), type=NodeStanding) if path.exists() else None

    def standing_state(self) -> str:
        standing = self.standing()
        is_own = standing is not None and standing.pid == self.running[-1].pid
        return standing.state.value if standing is not None and is_own else ""

    def ask(self, task: LearningTask | None) -> str:
        content = RecordDict({"anything": ConfigRecord({"code": "print()"})})
        if task is not None:
            arrays = {n: Array(np.asarray(a)) for n, a in first_weights().items()}
            content[TASK_RECORD] = ConfigRecord({TASK_RECORD: encode_task(task)})
            content[WEIGHTS_RECORD] = ArrayRecord(arrays)
        (sent,) = self.grid.push_messages([Message(content, self.node_id, "train", ttl=100.0)])
        return sent

    def answer(self, sent: str) -> Message:
        found = wait_until(lambda: list(self.grid.pull_messages([sent])), seconds_max=30)
        return found[0]

    def reply(self, task: LearningTask) -> LearningReply:
        return reply_in(self.answer(self.ask(task)))


def reply_in(message: Message) -> LearningReply:
    return decode_reply(str(message.content.config_records[REPLY_RECORD][REPLY_RECORD]))


def update_in(message: Message) -> dict[str, bytes]:
    return {n: a.data for n, a in message.content.array_records[UPDATE_RECORD].items()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "job-1").mkdir()
    (folder / "learning").mkdir()
    key = make_key()
    with running_superlink(folder) as superlink:
        run = WantedRun(job="job-1", attempt=1, folder=str(folder / "job-1"))
        superlink.process.want([wanted_node("device-1", key)], [run])
        node = superlink.wait_for_node("device-1")
        served_path = folder / "job-1" / "served.json"
        wait_until(served_path.exists, seconds_max=60)
        served = json.loads(served_path.read_text())
        proxy = TcpProxy(superlink.standing().device_port)
        (folder / "device.key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        write_digits(folder / "digits.npz")
        settings = settings_for(folder / "digits.npz", poll_s=0.2, hub_silent_s_max=1.0)
        order = NodeOrder(
            device="device-1",
            jobs=("job-1",),
            address=f"localhost:{proxy.port}",
            ca_path=str(superlink.ca_path),
            key_path=str(folder / "device.key"),
            settings=settings,
            until_ms=2**50,
        )
        (folder / "learning" / ORDER).write_bytes(msgspec.json.encode(order))
        grid = HttpGrid(
            served["address"], False, superlink.ca_path.read_bytes(), token=served["token"]
        )
        grid.set_run(Run.create_empty(served["run"]))
        TaskIdentity.task_id = served["task"]
        TaskIdentity.run_id, TaskIdentity.node_id = served["run"], grid.node.node_id
        made = Bench(superlink, folder, proxy, grid, node.node_id)
        try:
            made.start()
            yield made
        finally:
            for process in made.running:
                if process.poll() is None:
                    process.terminate()
                    process.wait(10)
            grid.close()
            proxy.close()


def test_what_is_no_task_of_ours_is_refused_with_its_code_and_the_process_lives(
    bench: Bench,
) -> None:
    weights = first_weights()
    failed = bench.answer(bench.ask(None))
    assert "task.invalid" in failed.error.reason
    assert bench.reply(task_for(weights, job="job-2")).refusal_code == "task.job"
    wrong = task_for(weights, base_digest="0" * 64)
    assert bench.reply(wrong).refusal_code == "task.digest"
    too_long = task_for(weights, method=LONG, seconds_max=0.5, round=7)
    assert bench.reply(too_long).refusal_code == "training.too_long"
    assert bench.running[-1].poll() is None


def test_a_killed_process_rejoins_at_once_and_answers_again_without_training(bench: Bench) -> None:
    task = task_for(first_weights(), round=3)
    first = bench.answer(bench.ask(task))
    assert not reply_in(first).is_repeated
    killed = bench.running[-1]
    children = psutil.Process(killed.pid).children(recursive=True)
    assert children
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(5)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    bench.start()  # Far sooner than the lease of its former life ends (60 s)
    again = bench.answer(bench.ask(task))
    assert reply_in(again).is_repeated
    assert update_in(again) == update_in(first)
    assert not psutil.Process(bench.running[-1].pid).children()


def test_it_ends_with_the_process_that_started_it_in_the_middle_of_a_training(bench: Bench) -> None:
    bench.stop()
    text = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True).wait()"
    starter = subprocess.Popen([sys.executable, "-c", text, *node_command(bench.learning)])
    try:
        node = wait_until(lambda: psutil.Process(starter.pid).children(), seconds_max=10)[0]
        wait_until(
            lambda: (s := bench.standing()) and (s.pid, s.state.value) == (node.pid, "online"),
            seconds_max=20,
        )
        bench.ask(task_for(first_weights(), method=LONG, round=4, seconds_max=90.0))
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


def test_a_superlink_that_is_killed_is_found_again(bench: Bench) -> None:
    pid = bench.superlink.process.pid
    assert pid is not None
    answered_ms = bench.superlink.standing().at_ms
    os.kill(pid, signal.SIGKILL)
    bench.proxy._to_port = wait_until(
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
