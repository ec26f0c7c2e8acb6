"""Reports and receipts on both databases: what is taken, what is not, and what is kept."""

from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from cloud_hub.rollouts import sql_reports, sql_store, sql_timeline
from cloud_hub.rollouts.rollout import RolloutState
from cloud_hub.rollouts.timeline import Entry
from cloud_hub.sql_database import Database
from shared.errors import ContractError, RefusedError
from shared.ids import DeviceId, RolloutId, SessionId
from shared.release.receipt import ReceiptOutcome, verify_receipt
from shared.wire.report import ModelReport, Report, UpdateState
from shared.wire.target import Target
from tests.support.enrolled import received
from tests.support.fleet_simulator import SimulatedDevice
from tests.support.rollout_bench import MODEL, RolloutBench

FIRST, SECOND = SessionId("1" * 16), SessionId("2" * 16)
START_MS = 1_700_000_000_000


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> RolloutBench:
    return RolloutBench(database, tmp_path)


def tell(
    bench: RolloutBench,
    device: DeviceId,
    progress: float,
    *,
    session: SessionId = FIRST,
    sent_ms: int = START_MS,
    at_ms: int | None = None,
    **changes: object,
) -> float:
    """Send a Report that says `progress`; return the progress that is known afterwards."""
    model = ModelReport(
        model=MODEL, state=UpdateState.FETCHING, version=0, progress=progress, **changes
    )
    report = Report(target_revision=0, at_ms=sent_ms if at_ms is None else at_ms, models=(model,))
    bench.controller.on_report(received(device, report, session=session, sent_ms=sent_ms))
    return bench.controller.device_models(device)[0].progress


def test_an_older_report_of_a_session_does_not_overwrite_a_newer_one(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    assert tell(bench, device, 0.5, sent_ms=START_MS) == 0.5
    assert tell(bench, device, 0.1, sent_ms=START_MS - 1) == 0.5
    assert tell(bench, device, 0.1, sent_ms=START_MS) == 0.5  # The same one, sent again
    assert tell(bench, device, 0.6, sent_ms=START_MS, at_ms=START_MS + 1) == 0.6
    assert tell(bench, device, 0.7, sent_ms=START_MS + 1) == 0.7


def test_a_session_that_another_replaced_is_over(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    tell(bench, device, 0.5, session=FIRST)
    # A new session counts even if its clock is behind: the device has started again.
    assert tell(bench, device, 0.1, session=SECOND, sent_ms=START_MS - 99) == 0.1
    assert tell(bench, device, 0.9, session=FIRST, sent_ms=START_MS + 99) == 0.1


def test_a_device_whose_clock_is_set_back_is_heard_again(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    tell(bench, device, 0.5, sent_ms=START_MS + 365 * 86_400_000)
    assert tell(bench, device, 0.6, sent_ms=START_MS) == 0.6


def test_a_model_that_is_named_no_more_is_forgotten(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    tell(bench, device, 0.5)
    empty = Report(target_revision=0, at_ms=START_MS + 1, models=())
    bench.controller.on_report(received(device, empty, session=FIRST, sent_ms=START_MS + 1))
    assert bench.controller.device_models(device) == ()


def test_strangers_and_revoked_devices_are_refused(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    bench.devices.revoke(device)
    for who in (device, DeviceId("dev-stranger")):
        with pytest.raises(RefusedError) as refused:
            tell(bench, who, 0.5)
        assert refused.value.code == "device.not_active"


def test_a_report_that_names_a_model_twice_is_refused(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    model = ModelReport(model=MODEL, state=UpdateState.IDLE, version=0)
    report = Report(target_revision=0, at_ms=START_MS, models=(model, model))
    with pytest.raises(ContractError) as refused:
        bench.controller.on_report(received(device, report))
    assert refused.value.code == "report.duplicate_model"


def test_text_that_a_database_cannot_hold_is_the_devices_fault(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0].device_id
    if bench.database.engine.dialect.name == "sqlite":
        assert tell(bench, device, 0.5, precision="a\x00b") == 0.5
        return
    with pytest.raises(ContractError) as refused:
        tell(bench, device, 0.5, precision="a\x00b")
    assert refused.value.code == "report.unstorable"


def test_a_target_revision_out_of_all_reason_harms_nobody(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    device.revision = 2**53
    device.report()
    bench.fleet.hear(bench.controller)
    bench.start(1)
    bench.step(3)
    assert bench.controller.pending == 0


def test_a_receipt_is_stored_once_and_can_be_verified_from_the_database_alone(
    bench: RolloutBench,
) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    bench.step(3)
    assert bench.controller.count_receipts() == 1
    with bench.database.read() as connection:
        row = connection.execute(sa.select(sql_store.receipts)).one()
    signed = sql_reports.SignedReceipt(payload=row.payload, signature=row.signature)
    receipt = verify_receipt(signed, bench.devices.public_key(device.device_id))
    assert (receipt.device, receipt.version, receipt.outcome) == (
        device.device_id,
        1,
        ReceiptOutcome.SETTLED,
    )
    fact = bench.controller.receipts(device.device_id, model=MODEL)[0]
    assert (fact.release.version, fact.precision, fact.golden_items) == (1, "int8", 4)


def test_a_device_cannot_fill_the_database_with_receipts(
    bench: RolloutBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_reports, "RECEIPTS_PER_DAY_MAX", 3)
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    for _ in range(5):
        sign_again(device)
        bench.step()
    assert bench.controller.count_receipts() == 3
    assert "receipt.too_many" in bench.controller.device_models(device.device_id)[0].receipt_problem
    bench.clock.advance(86_400.0)
    sign_again(device)
    bench.step()
    assert bench.controller.count_receipts() == 4


def sign_again(device: SimulatedDevice) -> None:
    held = device.models[MODEL]
    assert held.settled is not None
    held.receipt = device._sign(held.settled, ReceiptOutcome.SETTLED)


def test_an_undone_receipt_proves_a_release_that_had_settled_before(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    held = device.models[MODEL]
    assert held.settled is not None
    held.receipt = device._sign(held.settled, ReceiptOutcome.UNDONE)
    bench.step()
    assert bench.controller.device_models(device.device_id)[0].proof is ReceiptOutcome.SETTLED


def test_a_receipt_signed_by_a_stranger_under_a_known_payload_is_checked(
    bench: RolloutBench,
) -> None:
    device, other = bench.fleet.enrol(2)
    bench.settle_first()
    stolen = device.models[MODEL].receipt
    assert stolen is not None
    other.models[MODEL].receipt = stolen
    bench.step()
    problem = bench.controller.device_models(other.device_id)[0].receipt_problem
    assert "receipt.signature" in problem


def test_releases_at_uses_the_hubs_clock_when_a_devices_is_ahead(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    held = device.models[MODEL]
    assert held.settled is not None
    ahead_ms = int((bench.clock.now_s() + 1e6) * 1000)
    held.receipt = device._sign(held.settled, ReceiptOutcome.SETTLED, at_ms=ahead_ms)
    bench.step()
    now_ms = int(bench.clock.now_s() * 1000)
    newest = bench.controller.releases_at(device.device_id, now_ms)[0]
    assert newest.at_ms <= now_ms
    assert len(bench.controller.receipts(device.device_id)) == 2


def test_a_timeline_has_an_end_for_devices_but_not_for_the_rollout(
    bench: RolloutBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_timeline, "ENTRIES_MAX", 5)
    device = bench.fleet.enrol(1)[0].device_id
    rollout_id = bench.start(1)

    def add(code: str, who: DeviceId | None) -> None:
        entry = Entry(rollout_id=rollout_id, at_ms=1, code=code, text="x", device_id=who)
        with bench.database.begin() as connection:
            sql_timeline.add_entries(connection, rollout_id, [entry])

    for _ in range(9):
        add("device.updating", device)
    add("rollout.held", None)
    codes = [entry.code for entry in bench.controller.timeline(rollout_id)]
    assert codes[-2:] == ["timeline.full", "rollout.held"]
    assert len(codes) == 7


def test_orders_come_back_from_the_database_as_they_were(bench: RolloutBench) -> None:
    bench.fleet.enrol(3, groups=("yard",))
    order = bench.order(
        1, group="yard", waves=["1", "33.3%", "100%"], notes="größer ✓", keeps_absorbing=True
    )
    rollout = bench.controller.start(order, by="ada")
    read = bench.controller.get(rollout.rollout_id).rollout
    assert read == rollout
    assert read.order == order


def test_a_rollout_that_is_not_there_is_refused_by_name(bench: RolloutBench) -> None:
    with pytest.raises(RefusedError) as refused:
        bench.controller.get(RolloutId("roll-gone"))
    assert refused.value.code == "rollout.unknown"
    with pytest.raises(RefusedError):
        bench.controller.timeline(RolloutId("roll-gone"))


def test_every_target_keeps_the_contract_of_the_wire(bench: RolloutBench) -> None:
    device = bench.fleet.enrol(1)[0]
    bench.settle_first()
    target = device.targets[-1]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(target), type=Target) == target
    rollout = bench.controller.list()[0]
    assert rollout.state is RolloutState.DONE
    assert target.releases[0].rollout == rollout.rollout_id
    assert target.releases[0].trial == rollout.order.trial
