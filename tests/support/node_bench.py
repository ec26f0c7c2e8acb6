"""NodeBench: a device's real learning process against a real SuperLink, and the way between them.

The test plays the ServerApps over Flower's own Runtime API, so that it can send what ours never
would. What the device sends goes through two relays: one that stands for a bad network, and one
that ends TLS and keeps which requests were made.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
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
    decode_reply,
    encode_task,
)
from shared.model.weights import Weights
from tests.support.learning_digits import first_weights, settings_for, write_digits
from tests.support.recording_proxy import RecordingProxy, client_side, server_side
from tests.support.superlink import RunningSuperLink, make_key, running_superlink, wanted_node
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

DEVICE = "device-1"
TTL_S = 100.0


class PlayedServer:
    """The ServerApp's end of one run."""

    def __init__(self, served: dict[str, object], ca_path: Path, node_id: int) -> None:
        """Args: served: what tests/support/flower_server.py wrote of its task."""
        self._served, self._node_id = served, node_id
        token, address = str(served["token"]), str(served["address"])
        self.grid = HttpGrid(address, False, ca_path.read_bytes(), token=token)
        self._be()
        self.grid.set_run(Run.create_empty(self._number("run")))

    def ask(
        self, task: LearningTask | None, weights: Weights | None = None, *, ttl_s: float = TTL_S
    ) -> str:
        """Send a task (None: what is no task at all); return the message's id."""
        content = RecordDict({"anything": ConfigRecord({"code": "print()"})})
        if task is not None:
            shared = first_weights() if weights is None else weights
            arrays = {name: Array(np.asarray(array)) for name, array in shared.items()}
            content[TASK_RECORD] = ConfigRecord({TASK_RECORD: encode_task(task)})
            content[WEIGHTS_RECORD] = ArrayRecord(arrays)
        self._be()
        message = Message(content, self._node_id, "train", ttl=ttl_s)
        (sent,) = self.grid.push_messages([message])
        return sent

    def answer(self, sent: str) -> Message:
        """Return the answer to a message, once it is there."""
        self._be()
        return wait_until(lambda: list(self.grid.pull_messages([sent])), seconds_max=30)[0]

    def reply(self, task: LearningTask, weights: Weights | None = None) -> LearningReply:
        """Return what the device says to a task."""
        return reply_in(self.answer(self.ask(task, weights)))

    def _be(self) -> None:
        """Speak as this run's task: Flower keeps that for a whole process."""
        TaskIdentity.task_id = self._number("task")
        TaskIdentity.run_id = self._number("run")
        TaskIdentity.node_id = self.grid.node.node_id

    def _number(self, name: str) -> int:
        return int(str(self._served[name]))


class NodeBench:
    """See above. Jobs are "job-1", which runs, and those that a test wants beside it."""

    def __init__(self, superlink: RunningSuperLink, folder: Path, stack: ExitStack) -> None:
        """Args: stack: closes what is opened here."""
        self.superlink, self.folder = superlink, folder
        self.running: list[subprocess.Popen[bytes]] = []
        self.learning.mkdir()
        self._key = make_key()
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "device.key").write_bytes(pem)
        write_digits(folder / "digits.npz")
        self.want("job-1")
        self.server = self.open_run("job-1")
        stack.callback(self.server.grid.close)
        pki = folder / "pki"
        self.recorder = RecordingProxy(
            superlink.standing().device_port,
            near=server_side(pki / "server.crt", pki / "server.key"),
            far=client_side(superlink.ca_path),
            host="127.0.0.1",
            port=0,
        )
        stack.callback(self.recorder.close)
        self.proxy = TcpProxy(self.recorder.port)  # The network's weather
        stack.callback(self.proxy.close)

    @property
    def learning(self) -> Path:
        return self.folder / "learning"

    @property
    def log_text(self) -> str:
        return (self.folder / "node.log").read_text()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the process; return when it is online."""
        with (self.folder / "node.log").open("ab") as log:
            process = subprocess.Popen(
                node_command(self.learning), start_new_session=True, stderr=log, stdout=log
            )
        self.running.append(process)
        wait_until(lambda: self.standing_state() == "online", seconds_max=20)
        return process

    def stop(self) -> None:
        self.running[-1].terminate()
        assert self.running[-1].wait(10) == 0

    def write_order(self, **settings: object) -> None:
        """Write node.json; what is not said of the owner's policy is the bench's."""
        order = NodeOrder(
            device=DEVICE,
            jobs=("job-1", "job-2", "job-9"),
            address=f"localhost:{self.proxy.port}",
            ca_path=str(self.superlink.ca_path),
            key_path=str(self.folder / "device.key"),
            settings=settings_for(
                self.folder / "digits.npz",
                **{"poll_s": 0.2, "hub_silent_s_max": 1.0, **settings},
            ),
            until_ms=2**50,
        )
        path = self.learning / ORDER
        path.with_suffix(".tmp").write_bytes(msgspec.json.encode(order))
        path.with_suffix(".tmp").rename(path)

    def standing(self) -> NodeStanding | None:
        path = self.learning / STANDING
        return msgspec.json.decode(path.read_bytes(), type=NodeStanding) if path.exists() else None

    def standing_state(self) -> str:
        standing = self.standing()
        is_own = standing is not None and standing.pid == self.running[-1].pid
        return standing.state.value if standing is not None and is_own else ""

    def want(self, *jobs: str) -> None:
        """Have these Jobs run, and no other."""
        for job in jobs:
            (self.folder / job).mkdir(exist_ok=True)
        self.superlink.process.want(
            [wanted_node(DEVICE, self._key)],
            [WantedRun(job=job, attempt=1, folder=str(self.folder / job)) for job in jobs],
        )

    def open_run(self, job: str) -> PlayedServer:
        """Return the ServerApp's end of a Job that is wanted."""
        return played_server(self.superlink, job, self.folder, DEVICE)


def played_server(superlink: RunningSuperLink, job: str, folder: Path, device: str) -> PlayedServer:
    """Return the ServerApp's end of a Job that is wanted, towards one of its devices."""
    node = superlink.wait_for_node(device)
    path = folder / job / "served.json"
    wait_until(path.exists, seconds_max=60)
    return PlayedServer(json.loads(path.read_text()), superlink.ca_path, node.node_id)


def reply_in(message: Message) -> LearningReply:
    return decode_reply(str(message.content.config_records[REPLY_RECORD][REPLY_RECORD]))


def update_in(message: Message) -> dict[str, bytes]:
    return {n: a.data for n, a in message.content.array_records[UPDATE_RECORD].items()}


@contextmanager
def running_node(folder: Path, **settings: object) -> Iterator[NodeBench]:
    """Run all of it under `folder`, until the end of the block."""
    with running_superlink(folder) as superlink, ExitStack() as stack:
        bench = NodeBench(superlink, folder, stack)
        bench.write_order(**settings)
        try:
            bench.start()
            yield bench
        finally:
            for process in bench.running:
                if process.poll() is None:
                    process.terminate()
                    process.wait(10)
