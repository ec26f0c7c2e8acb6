"""DeviceService on real databases: joining, renewing, revoking, presence."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_hub.devices.device import DeviceState
from cloud_hub.devices.presence import PresenceState
from cloud_hub.devices.service import DeviceService
from cloud_hub.sql_database import Database
from edge_agent.uplink.file_identity import common_name, make_csr
from shared.errors import ContractError, IsthmusError, RefusedError, TransientError
from shared.ids import HUB_ID, DeviceId, new_session_id
from tests.support.enrolled import (
    HARDWARE,
    birth,
    death,
    enrol,
    heartbeat,
    make_devices,
    new_csr,
)
from tests.support.manual_clock import ManualClock

DAY_S = 86_400.0
NOBODY = DeviceId("dev-nobody")


@dataclass
class Cutter:
    """Stands for a broker: notes whom it was told to cut, and what the CRL said by then."""

    crl_path: Path
    cut_ids: list[DeviceId] = field(default_factory=list)
    revoked_counts: list[int] = field(default_factory=list)
    failures_left: int = 0

    def cut(self, device_id: DeviceId) -> None:
        if self.failures_left:
            self.failures_left -= 1
            raise TransientError("broker.cut", "The broker does not answer.")
        self.cut_ids.append(device_id)
        self.revoked_counts.append(len(list(x509.load_pem_x509_crl(self.crl_path.read_bytes()))))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def devices(database: Database, tmp_path: Path, clock: ManualClock) -> DeviceService:
    return make_devices(database, tmp_path, clock)


def refusal(act: object, *args: object, **more: object) -> str:
    assert callable(act)
    with pytest.raises((RefusedError, ContractError)) as raised:
        act(*args, **more)
    return raised.value.code


def test_a_device_joins_under_the_name_and_groups_of_its_token(
    devices: DeviceService, clock: ManualClock
) -> None:
    token = devices.create_token(name="Gate 3", groups=("north", "cameras"), ttl_s=600)
    csr = new_csr()
    enrolment = devices.enrol(token.text, csr, hardware=HARDWARE)
    device = devices.get(enrolment.device_id)
    certificate = x509.load_pem_x509_certificate(enrolment.certificate_pem.encode())
    assert common_name(certificate) == device.device_id
    assert certificate.public_key() == x509.load_pem_x509_csr(csr.encode()).public_key()
    assert device.certificate_serial == f"{certificate.serial_number:x}"
    assert device.certificate_expires_ms == int((clock.now_s() + 90 * DAY_S) * 1000)
    assert (device.name, device.groups) == ("Gate 3", ("cameras", "north"))
    assert (device.state, device.presence) == (DeviceState.ENROLLED, PresenceState.UNKNOWN)
    assert device.hardware == HARDWARE
    assert devices.public_key(device.device_id) == certificate.public_key()
    assert devices.list_devices() == [device]


def test_a_token_lets_one_device_in(devices: DeviceService) -> None:
    token = devices.create_token(ttl_s=600)
    device = devices.enrol(token.text, new_csr()).device_id
    assert devices.get(device).name == device
    assert refusal(devices.enrol, token.text, new_csr()) == "enrolment.token_used"
    assert len(devices.list_devices()) == 1


def test_joining_again_with_the_same_token_and_key_gives_the_same_answer(
    devices: DeviceService, clock: ManualClock
) -> None:
    token, csr = devices.create_token(ttl_s=600), new_csr()
    first = devices.enrol(token.text, csr)
    clock.advance(3600)  # The token has expired meanwhile; what it gave has not.
    assert devices.enrol(token.text, csr) == first
    devices.revoke(first.device_id)
    assert refusal(devices.enrol, token.text, csr) == "enrolment.token_used"


def test_a_wrong_an_expired_and_a_foreign_token_are_told_apart(
    devices: DeviceService, clock: ManualClock
) -> None:
    token = devices.create_token(ttl_s=600).text
    secret, _, fingerprint = token.partition(".")
    assert (
        refusal(devices.enrol, f"{'0' * 48}.{fingerprint}", new_csr()) == "enrolment.token_unknown"
    )
    assert refusal(devices.enrol, f"{secret}.{'0' * 64}", new_csr()) == "enrolment.other_hub"
    assert refusal(devices.enrol, secret, new_csr()) == "enrolment.token_invalid"
    assert refusal(devices.enrol, token, "nonsense") == "enrolment.csr_invalid"
    clock.advance(600)
    assert refusal(devices.enrol, token, new_csr()) == "enrolment.token_expired"
    assert devices.list_devices() == []


def test_the_secret_is_not_in_the_database(devices: DeviceService, database: Database) -> None:
    secret = devices.create_token(ttl_s=600).text.partition(".")[0]
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM join_tokens").all()
    assert len(rows) == 1
    assert secret not in str(rows)


def test_of_many_at_once_with_one_token_one_joins(
    devices: DeviceService, database: Database
) -> None:
    token = devices.create_token(ttl_s=600).text
    requests = [new_csr() for _ in range(8)]
    barrier = threading.Barrier(len(requests))
    outcomes: list[str] = []

    def attempt(csr: str) -> None:
        barrier.wait()
        try:
            outcomes.append(devices.enrol(token, csr).device_id)
        except IsthmusError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=attempt, args=(csr,)) for csr in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[-7:] == ["enrolment.token_used"] * 7
    assert [device.device_id for device in devices.list_devices()] == sorted(outcomes)[:1]


def test_a_certificate_is_renewed_for_the_same_key_only(
    devices: DeviceService, clock: ManualClock
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = devices.enrol(devices.create_token(ttl_s=600).text, make_csr(key))
    clock.advance(10 * DAY_S)
    early = devices.renew(first.device_id, make_csr(key))
    assert early.certificate_pem == first.certificate_pem, "asked too early: the one it has"
    clock.advance(55 * DAY_S)
    assert devices.renew(first.device_id, new_csr()).code == "certificate.other_key"
    renewed = devices.renew(first.device_id, make_csr(key))
    assert renewed.code is None
    certificate = x509.load_pem_x509_certificate(renewed.certificate_pem.encode())
    assert common_name(certificate) == first.device_id
    device = devices.get(first.device_id)
    assert device.certificate_serial == f"{certificate.serial_number:x}"
    assert device.certificate_expires_ms == int((clock.now_s() + 90 * DAY_S) * 1000)
    assert devices.renew(first.device_id, make_csr(key)) == renewed, "a lost reply is sent again"
    old = x509.load_pem_x509_certificate(first.certificate_pem.encode())
    assert devices.is_allowed(first.device_id, old.serial_number)
    assert devices.is_allowed(first.device_id, certificate.serial_number)


def test_no_certificate_for_the_revoked_the_unknown_and_the_broken(
    devices: DeviceService,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    device = devices.enrol(devices.create_token(ttl_s=600).text, make_csr(key)).device_id
    devices.revoke(device)
    assert devices.renew(device, make_csr(key)).code == "device.revoked"
    assert devices.renew(NOBODY, make_csr(key)).code == "device.unknown"
    assert devices.renew(device, "x").code == "enrolment.csr_invalid"


def test_revoking_ends_everything_the_certificate_opened(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    cutter = Cutter(tmp_path / "pki" / "crl.pem")
    devices = make_devices(database, tmp_path, clock, cutter=cutter)
    device, other = enrol(devices), enrol(devices)
    serial = int(devices.get(device).certificate_serial, 16)
    assert devices.is_active(device)
    assert devices.is_allowed(device, serial)
    revoked = devices.revoke(device)
    assert (revoked.state, revoked.presence) == (DeviceState.REVOKED, PresenceState.OFFLINE)
    assert not devices.is_active(device)
    assert not devices.is_allowed(device, serial)
    assert (cutter.cut_ids, cutter.revoked_counts) == ([device], [1])
    assert devices.select() == (other,)
    assert devices.is_active(other)
    again = devices.revoke(device)
    assert again == revoked, "since when does not change"
    with pytest.raises(ContractError, match="does not belong"):
        devices.on_presence(birth(device, new_session_id()))


def test_a_revocation_by_another_process_is_seen_in_time(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    cutter = Cutter(tmp_path / "pki" / "crl.pem")
    here = make_devices(database, tmp_path, clock, cutter=cutter)
    there = make_devices(database, tmp_path, clock)
    device = enrol(here)
    assert here.is_active(device)
    there.revoke(device)
    clock.advance(2.1)
    assert not here.is_active(device)
    here.tick()
    here.tick()
    assert cutter.cut_ids == [device]


def test_a_cut_that_fails_is_done_again(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    cutter = Cutter(tmp_path / "pki" / "crl.pem", failures_left=2)
    devices = make_devices(database, tmp_path, clock, cutter=cutter)
    device = enrol(devices)
    devices.revoke(device)
    assert not devices.is_active(device)
    for _ in range(4):
        devices.tick()
    assert cutter.cut_ids == [device]


def test_a_hub_that_died_before_the_cut_does_it_after_its_restart(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    first = make_devices(database, tmp_path, clock)
    device = enrol(first)
    first.revoke(device)
    (tmp_path / "pki" / "crl.pem").unlink()
    second = make_devices(database, tmp_path, clock)
    cutter = Cutter(tmp_path / "pki" / "crl.pem")
    second.attach_cutter(cutter)
    second.tick()
    second.tick()
    assert (cutter.cut_ids, cutter.revoked_counts) == ([device], [1])


def test_a_certificate_is_its_own_devices_alone(devices: DeviceService) -> None:
    first, second = enrol(devices), enrol(devices)
    serial = int(devices.get(first).certificate_serial, 16)
    assert not devices.is_allowed(second, serial)
    assert not devices.is_allowed(first, serial + 1)
    assert not devices.is_allowed(HUB_ID, serial)
    assert not devices.is_active(HUB_ID)


def test_renaming_and_groups(devices: DeviceService) -> None:
    device, other = enrol(devices, groups=("north",)), enrol(devices, groups=("south",))
    assert devices.rename(device, "Gate 3").name == "Gate 3"
    assert devices.set_groups(device, ["south", "beta", "beta"]).groups == ("beta", "south")
    assert devices.select("south") == tuple(sorted([device, other]))
    assert devices.select("north") == ()
    assert devices.group_counts() == {"beta": 1, "south": 2}
    assert devices.set_groups(device, []).groups == ()
    assert refusal(devices.rename, NOBODY, "x") == "device.unknown"
    assert refusal(devices.set_groups, NOBODY, ["x"]) == "device.unknown"
    assert refusal(devices.set_groups, device, ["No!"]) == "id.group"
    assert refusal(devices.get, NOBODY) == "device.unknown"
    assert refusal(devices.public_key, NOBODY) == "device.unknown"
    assert refusal(devices.revoke, NOBODY) == "device.unknown"


def test_presence_from_birth_to_silence(devices: DeviceService, clock: ManualClock) -> None:
    device, session = enrol(devices), new_session_id()
    devices.on_presence(birth(device, session))
    online = devices.get(device)
    assert (online.presence, online.session_id) == (PresenceState.ONLINE, session)
    assert (online.agent_version, online.boot_id, online.hardware) == ("0.1.0", "boot", HARDWARE)
    clock.advance(40)
    devices.on_heartbeat(heartbeat(device, session))
    beating = devices.get(device)
    assert beating.last_seen_ms == int(clock.now_s() * 1000)
    assert (beating.uptime_s, beating.outbox_rows, beating.outbox_dropped) == (10, 3, 1)
    clock.advance(45)
    assert devices.expire_presence() == ()
    clock.advance(1)
    assert devices.expire_presence() == (device,)
    assert devices.expire_presence() == ()
    assert devices.get(device).presence is PresenceState.UNKNOWN
    devices.on_presence(death(device, session))
    assert devices.get(device).presence_reason == "connection lost"


def test_a_heartbeat_that_waits_never_outlives_a_death(
    devices: DeviceService, clock: ManualClock
) -> None:
    device, session = enrol(devices), new_session_id()
    devices.on_presence(birth(device, session))
    devices.on_heartbeat(heartbeat(device, session))
    devices.on_presence(death(device, session))
    devices.tick()
    assert devices.get(device).presence is PresenceState.OFFLINE
    devices.on_heartbeat(heartbeat(device, session))
    assert devices.get(device).presence is PresenceState.ONLINE


def test_a_heartbeat_of_an_ended_session_keeps_nobody_alive(
    devices: DeviceService, clock: ManualClock
) -> None:
    device, before, now = enrol(devices), new_session_id(), new_session_id()
    devices.on_presence(birth(device, before))
    devices.on_presence(birth(device, now))
    clock.advance(40)
    devices.on_heartbeat(heartbeat(device, before))
    clock.advance(10)
    assert devices.expire_presence() == (device,)
    devices.on_heartbeat(heartbeat(device, now))
    assert devices.get(device).session_id == now


def test_many_heartbeats_are_written_together(
    devices: DeviceService, database: Database, clock: ManualClock
) -> None:
    sessions = {enrol(devices): new_session_id() for _ in range(5)}
    for device, session in sessions.items():
        devices.on_presence(birth(device, session))
    writes: list[str] = []
    sa.event.listen(database.engine, "commit", lambda _: writes.append("commit"))
    for _ in range(10):
        clock.advance(10)
        for device, session in sessions.items():
            devices.on_heartbeat(heartbeat(device, session))
    assert writes == []
    devices.tick()
    assert all(one.presence is PresenceState.ONLINE for one in devices.list_devices())
    assert {one.last_seen_ms for one in devices.list_devices()} == {int(clock.now_s() * 1000)}


def test_a_late_death_of_the_session_before_is_ignored(devices: DeviceService) -> None:
    device, before, now = enrol(devices), new_session_id(), new_session_id()
    devices.on_presence(birth(device, before))
    devices.on_presence(birth(device, now))
    devices.on_presence(death(device, before))
    assert devices.get(device).presence is PresenceState.ONLINE


def test_a_restarted_hub_neither_forgets_nor_resurrects(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    first = make_devices(database, tmp_path, clock)
    alive, gone = enrol(first), enrol(first)
    births = {one: birth(one, new_session_id()) for one in (alive, gone)}
    for one in (alive, gone):
        first.on_presence(births[one])
    clock.advance(3600)  # The hub is down for an hour, and so is `gone`.
    second = make_devices(database, tmp_path, clock)
    assert second.expire_presence() == (), "the hub does not hold its absence against them"
    for one in (alive, gone):
        second.on_presence(births[one])  # The broker's retained copy
    clock.advance(30)
    second.on_heartbeat(heartbeat(alive, births[alive].session_id))
    clock.advance(16)
    assert second.expire_presence() == (gone,)
    second.on_presence(births[gone])  # The link to the broker came back once more
    assert second.get(gone).presence is PresenceState.UNKNOWN
    assert second.get(alive).presence is PresenceState.ONLINE


def test_a_jumping_wall_clock_expires_nobody(devices: DeviceService, clock: ManualClock) -> None:
    device = enrol(devices)
    devices.on_presence(birth(device, new_session_id()))
    clock.jump(86_400)
    assert devices.expire_presence() == ()


def test_the_revocation_list_is_refreshed_daily_and_old_tokens_forgotten(
    devices: DeviceService, database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    devices.create_token(ttl_s=600)
    devices.revoke(enrol(devices))

    def crl() -> x509.CertificateRevocationList:
        return x509.load_pem_x509_crl((tmp_path / "pki" / "crl.pem").read_bytes())

    before = crl()
    devices.tick()
    assert crl() == before
    clock.advance(89 * DAY_S)
    devices.tick()
    assert crl().last_update_utc > before.last_update_utc
    assert len(list(crl())) == 1
    clock.advance(2 * DAY_S)
    devices.tick()
    assert len(list(crl())) == 0, "what has expired by itself needs no listing"
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM join_tokens").scalar() == 0
