"""A device joins a hub over real HTTPS, and is told what is wrong when it cannot."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from cloud_hub.api.enrolment import FAILURES_MAX, FailureLimit
from cloud_hub.devices.x509_authority import Authority
from cloud_hub.sql_database import Database
from edge_agent.uplink.file_identity import FileIdentity, HubRecord, make_csr
from edge_agent.uplink.http_enrolment import fetch_introduction, parse_hub_url, request_join
from edge_agent.uplink.joining import join
from shared.errors import (
    ContractError,
    IntegrityError,
    IsthmusError,
    RefusedError,
    TransientError,
)
from shared.wire.enrolment import CA_PATH, JOIN_PATH, JoinRequest
from tests.support.enrolled import HARDWARE, new_csr
from tests.support.https_server import serve_https
from tests.support.joining_hub import ROOT, JoiningHub, run_joining_hub
from tests.support.manual_clock import ManualClock


def nobody_looks(_fingerprint: str) -> tuple[str, ...]:
    raise AssertionError("the address was given")


def join_at(
    url: str, token: str, identity: FileIdentity, *, clock: ManualClock | None = None,
    again: bool = False,
) -> HubRecord:  # fmt: skip
    return join(
        url, token, identity, find_hub=nobody_looks, hardware=HARDWARE, clock=clock, again=again
    )


@pytest.fixture
def plain_database(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "hub.db"
    path.write_bytes(migrated_sqlite_file.read_bytes())
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.close()


@pytest.fixture
def hub(plain_database: Database, tmp_path: Path) -> Iterator[JoiningHub]:
    with run_joining_hub(plain_database, tmp_path) as running:
        yield running


@pytest.fixture
def identity(tmp_path: Path) -> FileIdentity:
    return FileIdentity(tmp_path / "identity")


def test_a_device_joins(hub: JoiningHub, identity: FileIdentity) -> None:
    record = join_at(hub.url, hub.token(), identity)
    identity.check()
    assert record == identity.hub
    assert (record.url, record.broker_host, record.broker_port) == (hub.url, "127.0.0.1", 8883)
    assert (record.hub_name, record.hub_version) == ("Test hub", "0.1.0")
    assert identity.root == ROOT
    device = hub.devices.get(identity.device_id)
    assert device.hardware == HARDWARE
    assert hub.devices.is_allowed(device.device_id, identity.certificate.serial_number)
    assert hub.devices.public_key(device.device_id) == identity.key.public_key()


@pytest.mark.slow
def test_an_unknown_a_used_and_an_expired_token_are_told_apart(
    plain_database: Database, tmp_path: Path, identity: FileIdentity
) -> None:
    clock = ManualClock()
    with run_joining_hub(plain_database, tmp_path, clock=clock) as hub:
        unknown = f"{'0' * 48}.{hub.authority.ca_fingerprint}"
        used, expired = hub.token(), hub.token(ttl_s=60)
        hub.devices.enrol(used, new_csr())
        clock.advance(61)
        for token, code in [
            (unknown, "enrolment.token_unknown"),
            (used, "enrolment.token_used"),
            (expired, "enrolment.token_expired"),
        ]:
            with pytest.raises(RefusedError, match="cloud-hub token create") as raised:
                join_at(hub.url, token, identity, clock=clock)
            assert raised.value.code == code
    assert not identity.is_joined


@pytest.mark.slow
def test_a_hub_with_another_authority_never_sees_the_token(
    hub: JoiningHub, plain_database: Database, tmp_path: Path, identity: FileIdentity
) -> None:
    token = hub.token()
    with (
        run_joining_hub(plain_database, tmp_path / "foreign") as foreign,
        pytest.raises(IntegrityError, match="Somebody may be between") as raised,
    ):
        join_at(foreign.url, token, identity)
    assert raised.value.code == "enrolment.wrong_ca"
    assert not identity.key_path.exists()
    join_at(hub.url, token, identity)


@pytest.mark.slow
def test_who_shows_our_authority_but_is_not_of_it_never_sees_the_token(
    hub: JoiningHub, plain_database: Database, tmp_path: Path, identity: FileIdentity
) -> None:
    token = hub.token()
    with (
        run_joining_hub(
            plain_database, tmp_path / "foreign", shown_ca_pem=hub.authority.ca_pem
        ) as foreign,
        pytest.raises(IntegrityError, match="Somebody may be between") as raised,
    ):
        join_at(foreign.url, token, identity)
    assert raised.value.code == "enrolment.wrong_certificate"
    assert not identity.is_joined
    join_at(hub.url, token, identity)


def test_a_hub_under_a_name_it_does_not_know_is_refused(
    plain_database: Database, tmp_path: Path, identity: FileIdentity
) -> None:
    with (
        run_joining_hub(plain_database, tmp_path, host="127.0.0.2") as hub,
        pytest.raises(IntegrityError, match="host_names") as raised,
    ):
        join_at(hub.url, hub.token(), identity)
    assert raised.value.code == "enrolment.wrong_host"


@pytest.mark.slow
@pytest.mark.parametrize(("ahead_s", "side"), [(7200.0, "2:00:00 .*ahead"), (-400.0, "behind")])
def test_a_clock_far_off_is_named_before_the_token_is_spent(
    plain_database: Database, tmp_path: Path, identity: FileIdentity, ahead_s: float, side: str
) -> None:
    hub_clock, device_clock = ManualClock(), ManualClock()
    device_clock.jump(ahead_s)
    with run_joining_hub(plain_database, tmp_path, clock=hub_clock) as hub:
        token = hub.token()
        with pytest.raises(RefusedError, match=side) as raised:
            join_at(hub.url, token, identity, clock=device_clock)
        assert raised.value.code == "clock.far_off"
        assert "timedatectl" in raised.value.remedy
        device_clock.jump(-ahead_s + 240)
        assert join_at(hub.url, token, identity, clock=device_clock).device_id


def test_nobody_there_is_said_so(identity: FileIdentity) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, not listening: connections are refused.
        with pytest.raises(TransientError, match="Connection refused") as raised:
            join_at(f"127.0.0.1:{taken.getsockname()[1]}", f"{'0' * 48}.{'0' * 64}", identity)
    assert raised.value.code == "enrolment.hub_unreachable"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "answer", "status"),
    [
        (CA_PATH, "hello", 200),
        (CA_PATH, '{"ca_pem": "nonsense", "now_ms": 0}', 200),
        (CA_PATH, "x" * 600_000, 200),
        (CA_PATH, "", 500),
        ("/", "hello", 200),
    ],
    ids=["text", "no certificate", "huge", "broken", "another site"],
)
def test_another_server_is_recognised(
    tmp_path: Path, identity: FileIdentity, path: str, answer: str, status: int
) -> None:
    authority = Authority(tmp_path / "pki", host_names=("localhost",))
    app = FastAPI()
    app.get(path)(lambda: PlainTextResponse(answer, status_code=status))
    with (
        serve_https(
            app,
            certificate=authority.server_certificate_path,
            key=authority.server_key_path,
        ) as port,
        pytest.raises(ContractError) as raised,
    ):
        join_at(f"localhost:{port}", f"{'0' * 48}.{authority.ca_fingerprint}", identity)
    assert raised.value.code == "enrolment.not_a_hub"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_server_without_tls_is_recognised(answer: bytes, identity: FileIdentity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises((ContractError, TransientError)) as raised:
            join_at(f"127.0.0.1:{server.getsockname()[1]}", f"{'0' * 48}.{'0' * 64}", identity)
        thread.join()
    assert raised.value.code in ("enrolment.not_a_hub", "enrolment.hub_unreachable")


def test_joining_twice_needs_to_be_meant(hub: JoiningHub, identity: FileIdentity) -> None:
    first = join_at(hub.url, hub.token(), identity)
    key = identity.key.public_key()
    with pytest.raises(RefusedError, match="--again") as raised:
        join_at(hub.url, hub.token(), identity)
    assert raised.value.code == "identity.joined"
    with pytest.raises(RefusedError):
        join_at(hub.url, f"{'0' * 48}.{hub.authority.ca_fingerprint}", identity, again=True)
    identity.check()
    assert identity.hub == first, "what fails costs nothing"
    hub.devices.revoke(identity.device_id)
    second = join_at(hub.url, hub.token(), identity, again=True)
    identity.check()
    assert second.device_id != first.device_id
    assert identity.key.public_key() != key
    assert hub.devices.is_active(identity.device_id)


def test_a_device_that_lost_the_answer_joins_again_as_the_same(
    hub: JoiningHub, identity: FileIdentity
) -> None:
    token, address = hub.token(), parse_hub_url(hub.url)
    request = JoinRequest(token=token, csr_pem=make_csr(identity.key_for_joining()))
    lost = request_join(address, request, ca_pem=fetch_introduction(address).ca_pem)
    assert not identity.is_joined
    assert join_at(hub.url, token, identity).device_id == lost.device_id
    assert len(hub.devices.list_devices()) == 1


# A device whose power is cut just before the n-th time that a file takes its place.
JOIN_UNTIL_CUT = """
import os, sys
from pathlib import Path
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.joining import join

url, token, folder, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def cut(act):
    def count(*args):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return act(*args)
    return count

Path.replace, Path.hardlink_to = cut(Path.replace), cut(Path.hardlink_to)
join(url, token, FileIdentity(Path(folder)), find_hub=None, again=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("was_joined", [False, True])
def test_a_power_cut_at_any_write_is_survived(
    hub: JoiningHub, tmp_path: Path, was_joined: bool
) -> None:
    for left in range(1, 20):
        identity = FileIdentity(tmp_path / f"identity-{left}")
        if was_joined:
            join_at(hub.url, hub.token(), identity)
        before, token = len(hub.devices.list_devices()), hub.token()
        arguments = [hub.url, token, str(identity.key_path.parent), str(left)]
        status = subprocess.run([sys.executable, "-c", JOIN_UNTIL_CUT, *arguments]).returncode
        if status == 0:
            break
        assert status == 9
        if identity.is_joined:
            FileIdentity(identity.key_path.parent).check()  # The old identity, whole.
        fresh = FileIdentity(identity.key_path.parent)
        join_at(hub.url, token, fresh, again=was_joined)
        fresh.check()
        assert len(hub.devices.list_devices()) == before + 1
    assert left == (7 if was_joined else 6), "each file was cut once"


def test_requests_are_read_strictly(hub: JoiningHub) -> None:
    good = {"token": hub.token(), "csr_pem": new_csr()}
    hardware = {"machine": "x", "board": "y", "cores_count": 1, "memory_bytes": 1}
    with httpx.Client(base_url=hub.url, verify=False, timeout=30.0) as client:
        for change in (
            {"extra": 1},
            {"token": None},
            {"csr_pem": "x" * 9000},
            {"hardware": hardware | {"cores_count": True}},
            {"hardware": hardware | {"cores_count": -1}},
        ):
            response = client.post(JOIN_PATH, json=good | change)
            assert (response.status_code, response.json()["code"]) == (400, "request.invalid")
        assert client.post(JOIN_PATH, content=b"x" * (2 << 20)).status_code == 413
        assert client.post(JOIN_PATH, json=good | {"hardware": hardware}).status_code == 201


def test_who_fails_too_often_must_wait(hub: JoiningHub) -> None:
    with httpx.Client(base_url=hub.url, verify=False, timeout=30.0) as client:
        wrong = {"token": f"{'0' * 48}.{hub.authority.ca_fingerprint}", "csr_pem": new_csr()}
        statuses = [client.post(JOIN_PATH, json=wrong).status_code for _ in range(FAILURES_MAX + 1)]
        assert statuses == [409] * FAILURES_MAX + [429]
        good = {"token": hub.token(), "csr_pem": new_csr()}
        assert client.post(JOIN_PATH, json=good).json()["code"] == "enrolment.too_many_failures"
        assert client.get(CA_PATH).status_code == 200


def test_the_wait_ends_and_is_each_address_own() -> None:
    clock = ManualClock()
    limit = FailureLimit(clock)
    for _ in range(FAILURES_MAX):
        limit.require_free("192.0.2.1")
        limit.note_failure("192.0.2.1")
    with pytest.raises(IsthmusError, match=r"Wait 6[01] seconds"):
        limit.require_free("192.0.2.1")
    limit.require_free("192.0.2.2")
    clock.advance(60)
    limit.require_free("192.0.2.1")
    limit.note_failure("192.0.2.1")
    limit.require_free("192.0.2.1")
