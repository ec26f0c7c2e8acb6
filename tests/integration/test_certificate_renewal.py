"""A device's certificate renews itself over the link, against the hub's own service."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from edge_agent.uplink.file_identity import FileIdentity, HubRecord, make_csr
from edge_agent.uplink.renewal import RETRY_S, Renewal
from shared.ids import HUB_ID
from shared.link.link import Connected, Delivery
from shared.link.memory_link import MemoryBroker, MemoryLink
from shared.wire.certificates import CertificateReply, CertificateRequest
from shared.wire.enrolment import RENEW_PATH
from shared.wire.topics import device_filters, hub_filters
from tests.support.enrolled import make_devices, new_csr
from tests.support.joining_hub import JoiningHub, run_joining_hub
from tests.support.manual_clock import ManualClock

DAY_S = 86_400.0


class Fleet:
    """A hub and one device that has joined it, over a broker in memory."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = ManualClock()
        self.devices: DeviceService = make_devices(database, folder, self.clock)
        self.identity = FileIdentity(folder / "identity")
        self._join(folder)
        self.broker = MemoryBroker()
        self.hub = self._link(hub=True)
        self.link = self._link(hub=False)
        self.renewal = Renewal(self.identity, self.link, clock=self.clock)
        self.connects_count = 0
        self.requests_count = 0

    def _join(self, folder: Path) -> None:
        token = self.devices.create_token(ttl_s=600).text
        key = self.identity.key_for_joining()
        enrolment = self.devices.enrol(token, make_csr(key))
        record = HubRecord(
            device_id=enrolment.device_id,
            url="https://localhost:8443",
            broker_host="localhost",
            broker_port=8883,
            ca_fingerprint=token.partition(".")[2],
        )
        self.identity.install(
            record,
            certificate_pem=enrolment.certificate_pem,
            ca_pem=(folder / "pki" / "ca.crt").read_text(),
            root=b"{}",
        )

    def _link(self, *, hub: bool) -> MemoryLink:
        device = self.identity.device_id
        link = MemoryLink(
            self.broker,
            client=HUB_ID if hub else device,
            filters=hub_filters() if hub else device_filters(device),
            clock=self.clock,
            with_last_will=not hub,
        )
        link.start()
        return link

    def step(self, answer: Callable[[CertificateReply], CertificateReply] | None = None) -> None:
        """Let the device act, the hub answer, and the device act on that."""
        self.renewal.step()
        for arrival in self.hub.arrivals(wait_s=0.0):
            if isinstance(arrival, Delivery):
                message = arrival.received.message
                if isinstance(message, CertificateRequest):
                    self.requests_count += 1
                    reply = self.devices.renew(arrival.received.device, message.csr_pem)
                    self.hub.publish(arrival.received.device, answer(reply) if answer else reply)
                self.hub.acknowledge(arrival)
        for arrival in self.link.arrivals(wait_s=0.0):
            if isinstance(arrival, Delivery):
                if isinstance(arrival.received.message, CertificateReply):
                    self.renewal.deliver(arrival.received.message)
                self.link.acknowledge(arrival)
            self.connects_count += isinstance(arrival, Connected)
        self.renewal.step()
        for arrival in self.link.arrivals(wait_s=0.0):
            self.connects_count += isinstance(arrival, Connected)


class SilentLink(MemoryLink):
    """A link that never comes up, as with a certificate that the broker refuses."""

    reconnects_count = 0

    def reconnect(self) -> None:
        self.reconnects_count += 1


@pytest.fixture
def fleet(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    yield Fleet(database, tmp_path)
    database.close()


def test_a_certificate_renews_itself_when_a_third_of_its_life_is_left(fleet: Fleet) -> None:
    before = fleet.identity.certificate_path.read_text()
    fleet.clock.advance(59 * DAY_S)
    fleet.step()
    assert (fleet.requests_count, fleet.connects_count) == (0, 1)
    fleet.clock.advance(1.1 * DAY_S)
    fleet.step()
    assert (fleet.requests_count, fleet.connects_count) == (1, 2), "asked once, connected anew"
    assert fleet.identity.certificate_path.read_text() != before
    fleet.identity.check()
    device = fleet.devices.get(fleet.identity.device_id)
    assert device.certificate_serial == f"{fleet.identity.certificate.serial_number:x}"
    fleet.step()
    assert fleet.requests_count == 1


def test_what_was_lost_is_asked_for_again(fleet: Fleet) -> None:
    fleet.clock.advance(61 * DAY_S)
    fleet.renewal.step()
    list(fleet.hub.arrivals(wait_s=0.0))  # The hub dies with it.
    fleet.clock.advance(RETRY_S - 1)
    fleet.step()
    assert fleet.requests_count == 0
    fleet.clock.advance(1)
    fleet.step()
    assert fleet.requests_count == 1
    fleet.identity.check()
    assert fleet.connects_count == 2


def test_nothing_is_asked_while_the_link_is_down(fleet: Fleet) -> None:
    fleet.clock.advance(61 * DAY_S)
    fleet.broker.kill()
    fleet.renewal.step()
    fleet.broker.restart()
    fleet.step()
    assert fleet.requests_count == 1
    assert not fleet.devices.renew(fleet.identity.device_id, fleet.identity.csr_pem()).code


def test_a_refusal_changes_nothing_and_is_not_repeated_at_once(fleet: Fleet) -> None:
    before = fleet.identity.certificate_path.read_text()
    fleet.clock.advance(61 * DAY_S)
    fleet.devices.revoke(fleet.identity.device_id)
    fleet.step()
    fleet.step()
    assert fleet.requests_count == 1
    assert fleet.identity.certificate_path.read_text() == before
    assert fleet.connects_count == 1


def test_a_certificate_that_is_not_ours_is_not_taken(fleet: Fleet) -> None:
    before = fleet.identity.certificate_path.read_text()
    other = fleet.devices.enrol(fleet.devices.create_token(ttl_s=600).text, new_csr())
    fleet.clock.advance(61 * DAY_S)
    fleet.step(lambda _: CertificateReply(certificate_pem=other.certificate_pem))
    assert fleet.identity.certificate_path.read_text() == before
    assert fleet.connects_count == 1
    fleet.clock.advance(RETRY_S)
    fleet.step(lambda _: CertificateReply(certificate_pem="nonsense"))
    assert fleet.identity.certificate_path.read_text() == before
    fleet.clock.advance(RETRY_S)
    fleet.step()
    assert fleet.identity.certificate_path.read_text() != before


def test_an_answer_that_nobody_asked_for_is_ignored(fleet: Fleet) -> None:
    before = fleet.identity.certificate_path.read_text()
    fleet.clock.advance(50 * DAY_S)
    reply = fleet.devices.renew(fleet.identity.device_id, fleet.identity.csr_pem())
    assert reply.certificate_pem != before
    for _ in range(10):
        fleet.renewal.deliver(reply)
    fleet.renewal.step()
    assert fleet.identity.certificate_path.read_text() == before


@pytest.fixture
def expired(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[tuple[JoiningHub, Renewal]]:
    """A hub, and the renewal of a device that was off for 100 days."""
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    long_ago = ManualClock(time.time() - 100 * DAY_S)
    devices = make_devices(database, tmp_path, long_ago)
    identity = FileIdentity(tmp_path / "identity")
    enrolment = devices.enrol(
        devices.create_token(ttl_s=600).text, make_csr(identity.key_for_joining())
    )
    with run_joining_hub(database, tmp_path) as hub:
        record = HubRecord(
            device_id=enrolment.device_id,
            url=hub.url,
            broker_host="localhost",
            broker_port=8883,
            ca_fingerprint=hub.authority.ca_fingerprint,
        )
        identity.install(
            record,
            certificate_pem=enrolment.certificate_pem,
            ca_pem=hub.authority.ca_pem,
            root=b"{}",
        )
        clock = ManualClock(time.time())
        link = SilentLink(
            MemoryBroker(),
            client=identity.device_id,
            filters=(),
            clock=clock,
            with_last_will=True,
        )
        renewal = Renewal(identity, link, clock=clock)
        yield hub, renewal
    database.close()


@pytest.mark.slow
def test_a_device_that_was_off_until_it_expired_comes_back(
    expired: tuple[JoiningHub, Renewal], tmp_path: Path
) -> None:
    hub, renewal = expired
    identity = FileIdentity(tmp_path / "identity")
    before = identity.certificate
    renewal.step()
    identity.check()
    assert identity.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=89)
    assert hub.devices.is_allowed(identity.device_id, identity.certificate.serial_number)
    assert identity.certificate != before
    assert renewal._link.reconnects_count == 1
    renewal.step()
    assert renewal._link.reconnects_count == 1, "nothing more to do"


@pytest.mark.slow
def test_a_revoked_device_does_not_come_back(
    expired: tuple[JoiningHub, Renewal], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub, renewal = expired
    identity = FileIdentity(tmp_path / "identity")
    before = identity.certificate
    hub.devices.revoke(identity.device_id)
    for _ in range(3):
        renewal.step()
    assert identity.certificate == before
    assert [record.code for record in caplog.records if record.msg == "certificate.expired"] == [
        "device.revoked"
    ]


@pytest.mark.slow
def test_only_the_device_itself_can_renew(
    expired: tuple[JoiningHub, Renewal], tmp_path: Path
) -> None:
    hub, _ = expired
    identity = FileIdentity(tmp_path / "identity")
    with httpx.Client(base_url=hub.url, verify=False, timeout=30.0) as client:
        for device, csr, code in [
            (identity.device_id, new_csr(), "certificate.other_key"),
            ("dev-nobody", identity.csr_pem(), "device.unknown"),
            (identity.device_id, "x", "enrolment.csr_invalid"),
        ]:
            response = client.post(RENEW_PATH, json={"device_id": device, "csr_pem": csr})
            assert response.status_code in (404, 409)
            assert response.json()["code"] == code
