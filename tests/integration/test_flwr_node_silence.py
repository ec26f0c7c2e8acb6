"""The network is gone for longer than everything that waits: request, message, pause, lease.

An outage of 90 s at the settings that devices have (a lease of 60 s, requests of 30 s) goes through
the same states as this one at the shortest: 20 s is the least lease that Flower grants. One device
for each way in which a network can be gone, all at once; each is cut off while it trains.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cloud_hub.training.job_folder import WantedRun
from edge_agent.training.file_ledger import Ledger, open_ledger
from edge_agent.training.file_replies import FileReplies
from edge_agent.training.flwr_node import RETRY_S_MAX
from edge_agent.training.node_files import ORDER, REPLIES, STANDING, NodeOrder, NodeStanding
from edge_agent.training.process_node import node_command
from edge_agent.training.settings import PrivacySettings
from shared.learning.task import LocalMethod, LocalPrivacy
from shared.model.weights import encode_weights
from tests.support.learning_digits import first_weights, settings_for, task_for, write_digits
from tests.support.node_bench import PlayedServer, played_server, reply_in
from tests.support.superlink import RunningSuperLink, make_key, running_superlink, wanted_node
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.xdist_group("flwr_node_faults"),
]
WAYS = ("black-hole", "end-of-file", "refused")
JOB = "job-1"
LEASE_S = 20.0
REQUEST_S_MAX = 1.0
MESSAGE_S = 15.0  # The message expires while the network is gone
ONLINE_S_MAX = RETRY_S_MAX + 15.0


@dataclass
class Device:
    """One learning process, and its way to the hub."""

    way: str
    folder: Path
    key: ec.EllipticCurvePrivateKey
    proxy: TcpProxy
    process: "subprocess.Popen[bytes]"
    server: PlayedServer

    @property
    def learning(self) -> Path:
        return self.folder / "learning"

    @property
    def replies(self) -> FileReplies:
        return FileReplies(self.learning / REPLIES)

    def ledger(self) -> Ledger:
        return open_ledger(self.learning, self.folder / "device.key", PrivacySettings())

    def standing(self) -> NodeStanding:
        return msgspec.json.decode((self.learning / STANDING).read_bytes(), type=NodeStanding)

    def is_training(self) -> bool:
        node = psutil.Process(self.process.pid)
        return any(zygote.children() for zygote in node.children())

    def lose_network(self) -> None:
        match self.way:
            case "black-hole":
                self.proxy.set(is_frozen=True)
            case "end-of-file":
                self.proxy.set(is_ending=True)
            case _:  # What is open is reset.
                self.proxy.close()

    def find_network(self, port: int) -> None:
        if self.way == "refused":
            self.proxy = TcpProxy(port, port=self.proxy.port)
        else:
            self.proxy.set()
            self.proxy.cut()


def start(
    superlink: RunningSuperLink,
    folder: Path,
    way: str,
    key: ec.EllipticCurvePrivateKey,
    stack: ExitStack,
) -> Device:
    """Start a device's learning process; return when it is online."""
    learning = folder / way / "learning"
    learning.mkdir(parents=True)
    key_path = folder / way / "device.key"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key_path.write_bytes(pem)
    write_digits(folder / way / "digits.npz", count=150)
    proxy = TcpProxy(superlink.standing().device_port)
    order = NodeOrder(
        device=way,
        jobs=(JOB,),
        address=f"localhost:{proxy.port}",
        ca_path=str(superlink.ca_path),
        key_path=str(key_path),
        settings=settings_for(
            folder / way / "digits.npz",
            poll_s=0.2,
            hub_silent_s_max=REQUEST_S_MAX,
            lease_s=LEASE_S,
        ),
        until_ms=2**50,
    )
    (learning / ORDER).write_bytes(msgspec.json.encode(order))
    with (folder / way / "node.log").open("ab") as log:
        process = subprocess.Popen(
            node_command(learning), start_new_session=True, stdout=log, stderr=log
        )
    device = Device(
        way, folder / way, key, proxy, process, played_server(superlink, JOB, folder, way)
    )
    stack.callback(lambda: device.proxy.close())
    stack.callback(process.wait, 10)
    stack.callback(process.terminate)
    stack.callback(device.server.grid.close)
    superlink.wait_for_node(way, "online")
    return device


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tuple[RunningSuperLink, list[Device]]]:
    (tmp_path / JOB).mkdir()
    with running_superlink(tmp_path) as superlink, ExitStack() as stack:
        keys = {way: make_key() for way in WAYS}
        superlink.process.want(
            [wanted_node(way, key) for way, key in keys.items()],
            [WantedRun(job=JOB, attempt=1, folder=str(tmp_path / JOB))],
        )
        yield superlink, [start(superlink, tmp_path, way, key, stack) for way, key in keys.items()]


def test_what_was_computed_is_neither_lost_nor_paid_for_twice(
    bench: tuple[RunningSuperLink, list[Device]],
) -> None:
    superlink, devices = bench
    task = task_for(
        first_weights(),
        privacy=LocalPrivacy(clip_norm=1.0, noise_multiplier=2.0),
        method=LocalMethod(epochs=30),
    )
    asked: dict[str, str] = {}
    for device in devices:
        asked[device.way] = device.server.ask(task, ttl_s=MESSAGE_S)
        wait_until(device.is_training, seconds_max=20)
        device.lose_network()
    gone_s = time.monotonic()

    computed = {
        device.way: wait_until(lambda d=device: d.replies.find(task), seconds_max=30)  # type: ignore[misc]
        for device in devices
    }
    for device in devices:
        superlink.wait_for_node(device.way, "offline")
    longest_s = max(LEASE_S, MESSAGE_S, REQUEST_S_MAX, RETRY_S_MAX)
    wait_until(lambda: time.monotonic() > gone_s + longest_s, seconds_max=longest_s)
    for device in devices:
        assert device.process.poll() is None, device.way
        assert device.standing().text, "it says what is wrong"
        assert device.server.answer(asked[device.way]).has_error(), "nobody waits for that any more"
        device.find_network(superlink.standing().device_port)

    for device in devices:
        wait_until(
            lambda d=device: superlink.wait_for_node(d.way).status == "online",  # type: ignore[misc]
            seconds_max=ONLINE_S_MAX,
        )
    again = {device.way: device.server.ask(task) for device in devices}
    for device in devices:
        answer, known = device.server.answer(again[device.way]), computed[device.way]
        assert known is not None
        assert reply_in(answer).is_repeated, device.way
        told = {n: a.numpy() for n, a in answer.content.array_records["update"].items()}
        assert encode_weights(told) == encode_weights(known.update), device.way
        assert reply_in(answer).epsilon_spent == known.reply.epsilon_spent
        assert device.ledger().content().count == 1, device.way
        assert not device.is_training()
        assert device.process.poll() is None, "and all that in one life of its process"
