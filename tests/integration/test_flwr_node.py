"""The device's learning process against a real SuperLink and a real ServerApp."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from cloud_hub.devices.x509_authority import Authority
from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.job_folder import JobPlan, WantedNode, WantedRun
from cloud_hub.training.order import JobOrder
from cloud_hub.training.process_superlink import SuperLinkProcess, SuperLinkSettings
from edge_agent.training.node_files import ORDER, STANDING, NodeOrder, NodeStanding
from shared.clock import SystemClock
from shared.model.weights import encode_weights
from tests.support.flower_calls import call, signed_headers
from tests.support.learning_digits import (
    METHOD,
    NETWORK,
    SPEC,
    first_weights,
    settings_for,
    write_digits,
)
from tests.support.recording_proxy import RecordingProxy, client_side, server_side
from tests.support.superlink import make_key, public_pem
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
DEVICES = ("device-1", "device-2")
NEEDED = {
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "pull-object",
    "confirm-message-received",
    "push-messages",
    "push-object",
}


@contextmanager
def _superlink(folder: Path) -> Iterator[tuple[SuperLinkProcess, Authority]]:
    authority = Authority(folder / "pki", host_names=("localhost",), clock=SystemClock())
    process = SuperLinkProcess(
        folder / "superlink",
        ca_path=authority.ca_path,
        certificate_path=authority.server_certificate_path,
        key_path=authority.server_key_path,
        settings=SuperLinkSettings(host="127.0.0.1", port=0),
        clock=SystemClock(),
    )
    stop = threading.Event()
    thread = threading.Thread(target=process.run, args=(stop,))
    thread.start()
    try:
        yield process, authority
    finally:
        stop.set()
        thread.join(30.0)
        assert not thread.is_alive()


def _write_node(folder: Path, device: str, key_pem: bytes, port: int, ca_path: Path) -> Path:
    learning = folder / device / "learning"
    learning.mkdir(parents=True)
    key_path = folder / device / "device.key"
    key_path.write_bytes(key_pem)
    write_digits(folder / device / "digits.npz")
    order = NodeOrder(
        device=device,
        jobs=("job-1",),
        address=f"localhost:{port}",
        ca_path=str(ca_path),
        key_path=str(key_path),
        settings=settings_for(folder / device / "digits.npz", poll_s=0.2),
        until_ms=2**50,
    )
    (learning / ORDER).write_bytes(msgspec.json.encode(order))
    return learning


def _relay(folder: Path, port: int) -> RecordingProxy:
    """Return a relay to the SuperLink's port for devices, which keeps what they ask."""
    pki = folder / "pki"
    return RecordingProxy(
        port,
        near=server_side(pki / "server.crt", pki / "server.key"),
        far=client_side(pki / "ca.crt"),
        host="127.0.0.1",
        port=0,
    )


def _standing(learning: Path) -> NodeStanding | None:
    try:
        return msgspec.json.decode((learning / STANDING).read_bytes(), type=NodeStanding)
    except OSError:
        return None


def test_two_devices_learn_together(tmp_path: Path) -> None:
    keys = {device: make_key() for device in DEVICES}
    job = tmp_path / "jobs" / "job-1"
    job.parent.mkdir()
    with _superlink(tmp_path) as (process, authority):
        files = JobFiles(job)
        plan = JobPlan(
            job="job-1",
            order=JobOrder(
                model="digits",
                devices=DEVICES,
                rounds=2,
                method=METHOD,
                deadline_s=60.0,
                gather_s=60.0,
            ),
            spec=SPEC,
            network=NETWORK,
            devices=DEVICES,
            standing_path=str(tmp_path / "superlink" / "standing.json"),
        )
        files.create(plan, encode_weights(first_weights()))
        nodes = [WantedNode(device=d, public_key_pem=public_pem(k)) for d, k in keys.items()]
        process.want(nodes, [WantedRun(job="job-1", attempt=1, folder=str(job))])
        standing = wait_until(
            lambda: (s := process.standing()) and len(s.nodes) == 2 and s.device_port and s,
            seconds_max=60,
        )
        assert standing
        folders, running = [], []
        relay = _relay(tmp_path, standing.device_port)
        try:
            for device, key in keys.items():
                pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
                learning = _write_node(tmp_path, device, pem, relay.port, authority.ca_path)
                folders.append(learning)
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "edge_agent.training.flwr_node", str(learning)]
                    )
                )
            result = wait_until(files.read_result, seconds_max=80)
            assert result is not None
            assert (result.code, result.rounds_done) == ("job.completed", 2), result.text
            for learning in folders:
                wait_until(
                    lambda folder=learning: (s := _standing(folder)) and s.rounds_count >= 2,  # type: ignore[misc]
                    seconds_max=5,
                )
            accepted = [e for e in files.read_events() if e.code == "update.accepted"]
            assert len(accepted) == 4
            assert all(e.numbers["samples_count"] > 200 for e in accepted)
        finally:
            for node in running:
                node.terminate()
            codes = [node.wait(6) for node in running]
            relay.close()
        assert codes == [0, 0]
        # In a whole Job they asked for nothing that could be executed.
        asked = {line.removeprefix("POST /v1/fleet/") for line in relay.requests()}
        assert asked - {"get-run"} == NEEDED  # It is asked after only while a training takes long
        # Two Rounds and the measuring at the end, of two devices.
        assert relay.requests().count("POST /v1/fleet/push-messages") == 6


def test_flowers_app_is_not_to_be_had_and_who_asks_for_it_is_seen(tmp_path: Path) -> None:
    key = make_key()
    with _superlink(tmp_path) as (process, authority):
        node = WantedNode(device="device-1", public_key_pem=public_pem(key))
        process.want([node], [])
        standing = wait_until(
            lambda: (s := process.standing()) and s.nodes and s.device_port and s, seconds_max=60
        )
        assert standing
        relay = _relay(tmp_path, standing.device_port)
        try:
            with httpx.Client(verify=client_side(authority.ca_path), timeout=30.0) as client:
                url = f"https://localhost:{relay.port}/v1/fleet/"
                activate = ActivateNodeRequest(
                    public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30.0
                )
                is_let_in = call(client, f"{url}activate-node", activate, signed_headers(key))
                fab = call(client, f"{url}get-fab", GetFabRequest(), signed_headers(key))
        finally:
            relay.close()
    assert (is_let_in.status_code, fab.status_code) == (200, 404)
    assert relay.requests() == ["POST /v1/fleet/activate-node", "POST /v1/fleet/get-fab"]
