"""A real SuperLink under a real SuperLinkProcess, with the hub's own authority and device keys."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloud_hub.devices.x509_authority import Authority
from cloud_hub.training.job_folder import NodeStanding, RunStanding, Standing, WantedNode
from cloud_hub.training.process_superlink import SuperLinkProcess, SuperLinkSettings
from shared.clock import SystemClock
from tests.support.waiting import wait_until

START_S_MAX = 30.0
STAND_IN = "tests.support.flower_server"  # SERVER_MODULE for the real one
T = TypeVar("T")


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a key as devices enrol with."""
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(Encoding.PEM, form).decode()


def wanted_node(device: str, key: ec.EllipticCurvePrivateKey) -> WantedNode:
    return WantedNode(device=device, public_key_pem=public_pem(key))


@dataclass
class RunningSuperLink:
    """What a test holds of one."""

    process: SuperLinkProcess
    folder: Path
    ca_path: Path
    stop: threading.Event = field(default_factory=threading.Event)

    def standing(self) -> Standing:
        """Return the standing, once there is one."""
        return _wait(self.process.standing)

    def wait_for_revision(self, revision: int) -> Standing:
        """Return the first standing by which `revision` was carried out."""

        def carried_out() -> Standing | None:
            standing = self.process.standing()
            has_it = standing is not None and standing.wanted_revision >= revision
            return standing if has_it else None

        return _wait(carried_out)

    def wait_for_node(self, device: str, status: str | None = None) -> NodeStanding:
        """Return a registered node (with that status)."""

        def find() -> NodeStanding | None:
            standing = self.process.standing()
            for node in standing.nodes if standing is not None else ():
                if node.device == device and status in (None, node.status):
                    return node
            return None

        return _wait(find)

    def wait_for_run(self, job: str, attempt: int, status: str) -> RunStanding:
        """Return a run that has come to `status`."""

        def find() -> RunStanding | None:
            standing = self.process.standing()
            for run in standing.runs if standing is not None else ():
                if (run.job, run.attempt, run.status) == (job, attempt, status):
                    return run
            return None

        return _wait(find)


def _wait(read: Callable[[], T | None]) -> T:
    value = wait_until(read, seconds_max=START_S_MAX)
    assert value is not None
    return value


@contextmanager
def running_superlink(
    folder: Path, *, port: int = 0, idle_s: float = 120.0, server_module: str = STAND_IN
) -> Iterator[RunningSuperLink]:
    """Run one under `folder`/superlink; it starts as soon as anything is wanted."""
    # The ServerApp that is run is one of ours, and its working folder is its Job's.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    authority = Authority(folder / "pki", host_names=("localhost",), clock=SystemClock())
    process = SuperLinkProcess(
        folder / "superlink",
        ca_path=authority.ca_path,
        certificate_path=authority.server_certificate_path,
        key_path=authority.server_key_path,
        settings=SuperLinkSettings(host="127.0.0.1", port=port, idle_s=idle_s),
        clock=SystemClock(),
        server_module=server_module,
    )
    running = RunningSuperLink(process, folder / "superlink", authority.ca_path)
    thread = threading.Thread(target=process.run, args=(running.stop,), name="superlink")
    thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        thread.join(30.0)
        assert not thread.is_alive()
