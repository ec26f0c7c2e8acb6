"""Queries on what devices said: their newest Reports, the models in them, and receipts.

1. An older Report does not overwrite a newer one. Within one session the time it was sent decides;
   a session that another one replaced is over. A sent time that falls by more than CLOCK_STEP_MS
   within a session is a device whose clock was set right, not an old message.
2. A receipt is stored once, however often it is sent, and never deleted. A device may bring
   RECEIPTS_PER_DAY_MAX new ones in 24 hours: what is kept for ever must not grow without end.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from cloud_hub.rollouts.device_model import DeviceModel, ReportedFailure
from cloud_hub.rollouts.rollout import ReleaseRef
from cloud_hub.rollouts.sql_store import device_models, device_reports, receipts
from cloud_hub.rollouts.timeline import ReceiptFact
from cloud_hub.sql_database import upsert
from shared.ids import DeviceId, ModelName, RolloutId, SessionId
from shared.release.digest import digest_of
from shared.release.receipt import Receipt, ReceiptOutcome
from shared.wire.report import ModelReport, PipelineReport, Report, SignedReceipt, UpdateState

CLOCK_STEP_MS = 10 * 60 * 1000
RECEIPTS_PER_DAY_MAX = 200
DAY_MS = 86_400_000
_PIPELINES = msgspec.json.Decoder(tuple[PipelineReport, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One Report as it came in."""

    device_id: DeviceId
    session_id: SessionId
    sent_ms: int
    received_ms: int
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What the hub knows of a device's newest Report, its models apart."""

    device_id: DeviceId
    at_ms: int  # By the device's clock
    received_ms: int
    target_revision: int
    pipelines: tuple[PipelineReport, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of the receipt in one ModelReport: an id and outcome, or the problem with it."""

    receipt_id: int | None = None
    outcome: ReceiptOutcome | None = None
    problem: str = ""


def is_newer(connection: sa.Connection, incoming: Incoming) -> bool:
    """Return whether a Report is to be taken; its device's row is held until the end."""
    query = sa.select(device_reports).where(device_reports.c.device_id == incoming.device_id)
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        return True
    if incoming.session_id == row.previous_session_id:
        return False
    if incoming.session_id != row.session_id:
        return True
    if incoming.sent_ms < row.sent_ms - CLOCK_STEP_MS:
        return True
    return (incoming.sent_ms, incoming.report.at_ms) > (row.sent_ms, row.at_ms)


def put_report(connection: sa.Connection, incoming: Incoming) -> None:
    """Store a Report's own row."""
    query = sa.select(device_reports).where(device_reports.c.device_id == incoming.device_id)
    known = connection.execute(query).one_or_none()
    previous = ""
    if known is not None:
        is_same = known.session_id == incoming.session_id
        previous = known.previous_session_id if is_same else known.session_id
    row = {
        "device_id": incoming.device_id,
        "session_id": incoming.session_id,
        "previous_session_id": previous,
        "sent_ms": incoming.sent_ms,
        "at_ms": incoming.report.at_ms,
        "received_ms": incoming.received_ms,
        "target_revision": incoming.report.target_revision,
        "pipelines_json": msgspec.json.encode(incoming.report.pipelines).decode(),
    }
    columns = [name for name in row if name != "device_id"]
    upsert(connection, device_reports, row, key=["device_id"], update=columns)


def put_models(connection: sa.Connection, incoming: Incoming, proofs: Mapping[str, Proof]) -> None:
    """Store what a Report says of each model, and forget models that it does not name any more."""
    named = [model.model for model in incoming.report.models]
    owned = device_models.c.device_id == incoming.device_id
    connection.execute(sa.delete(device_models).where(owned, device_models.c.model.not_in(named)))
    rows = [
        _model_row(incoming, model, proofs.get(model.model, Proof()))
        for model in incoming.report.models
    ]
    columns = [c.name for c in device_models.columns if not c.primary_key]
    upsert(connection, device_models, rows, key=["device_id", "model"], update=columns)


def read_models(connection: sa.Connection, device_id: DeviceId) -> tuple[DeviceModel, ...]:
    """Return what a device's newest Report says of each model."""
    query = (
        sa.select(device_models)
        .where(device_models.c.device_id == device_id)
        .order_by(device_models.c.model)
    )
    return tuple(to_device_model(row) for row in connection.execute(query))


def read_all_models(connection: sa.Connection) -> tuple[DeviceModel, ...]:
    """Return what every device's newest Report says of each model."""
    query = sa.select(device_models).order_by(device_models.c.device_id, device_models.c.model)
    return tuple(to_device_model(row) for row in connection.execute(query))


def read_report(connection: sa.Connection, device_id: DeviceId) -> DeviceReport | None:
    """Return a device's newest Report, its models apart."""
    query = sa.select(device_reports).where(device_reports.c.device_id == device_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return DeviceReport(
        device_id=device_id,
        at_ms=row.at_ms,
        received_ms=row.received_ms,
        target_revision=row.target_revision,
        pipelines=_PIPELINES.decode(row.pipelines_json),
    )


def find_receipt(
    connection: sa.Connection, device_id: DeviceId, signed: SignedReceipt
) -> int | None:
    """Return the id of this very receipt, if it was verified and stored before."""
    query = sa.select(receipts.c.id).where(
        receipts.c.device_id == device_id,
        receipts.c.payload_digest == digest_of(signed.payload),
        receipts.c.payload == signed.payload,
    )
    return connection.execute(query).scalar_one_or_none()


def count_todays_receipts(connection: sa.Connection, device_id: DeviceId, *, now_ms: int) -> int:
    """Return how many receipts a device has brought in the last 24 hours."""
    query = sa.select(sa.func.count()).where(
        receipts.c.device_id == device_id, receipts.c.received_ms > now_ms - DAY_MS
    )
    return connection.execute(query).scalar_one()


def add_receipt(
    connection: sa.Connection,
    device_id: DeviceId,
    signed: SignedReceipt,
    receipt: Receipt,
    *,
    received_ms: int,
) -> int:
    """Store a verified receipt, if it is new; return its id."""
    row = {
        "device_id": device_id,
        "model": receipt.model,
        "version": receipt.version,
        "manifest_digest": receipt.manifest_digest,
        "artifact_digest": receipt.artifact_digest,
        "precision": receipt.precision,
        "runtime": receipt.runtime,
        "config_digest": receipt.config_digest,
        "boot_id": receipt.boot_id,
        "golden_items": receipt.golden_items,
        "golden_error_max": receipt.golden_error_max,
        "outcome": receipt.outcome.value,
        "rollout_id": receipt.rollout,
        "at_ms": receipt.at_ms,
        "received_ms": received_ms,
        "effective_ms": min(receipt.at_ms, received_ms),
        "payload_digest": digest_of(signed.payload),
        "payload": signed.payload,
        "signature": signed.signature,
    }
    upsert(connection, receipts, row, key=["device_id", "payload_digest"], update=[])
    receipt_id = find_receipt(connection, device_id, signed)
    assert receipt_id is not None
    return receipt_id


def has_settled_before(
    connection: sa.Connection, device_id: DeviceId, manifest_digest: str
) -> bool:
    """Return whether a device ever proved that it settled a release."""
    query = sa.select(receipts.c.id).where(
        receipts.c.device_id == device_id,
        receipts.c.manifest_digest == manifest_digest,
        receipts.c.outcome == ReceiptOutcome.SETTLED.value,
    )
    return connection.execute(query.limit(1)).first() is not None


def count_receipts(connection: sa.Connection, rollout_id: RolloutId | None = None) -> int:
    """Return how many receipts were verified, of one rollout or ever."""
    query = sa.select(sa.func.count()).select_from(receipts)
    if rollout_id is not None:
        query = query.where(receipts.c.rollout_id == rollout_id)
    return connection.execute(query).scalar_one()


def read_receipts(
    connection: sa.Connection,
    device_id: DeviceId,
    *,
    model: ModelName | None = None,
    limit: int = 100,
) -> tuple[ReceiptFact, ...]:
    """Return a device's newest receipts first."""
    query = sa.select(receipts).where(receipts.c.device_id == device_id)
    if model is not None:
        query = query.where(receipts.c.model == model)
    query = query.order_by(receipts.c.effective_ms.desc(), receipts.c.id.desc()).limit(limit)
    return tuple(_to_fact(row) for row in connection.execute(query))


def read_receipt(connection: sa.Connection, receipt_id: int) -> ReceiptFact | None:
    """Return one receipt."""
    row = connection.execute(sa.select(receipts).where(receipts.c.id == receipt_id)).one_or_none()
    return None if row is None else _to_fact(row)


def read_releases_at(
    connection: sa.Connection, device_id: DeviceId, at_ms: int
) -> tuple[ReceiptFact, ...]:
    """Return for each model the newest receipt that held at `at_ms`."""
    rank = (
        sa.func.row_number()
        .over(
            partition_by=receipts.c.model,
            order_by=(receipts.c.effective_ms.desc(), receipts.c.id.desc()),
        )
        .label("rank")
    )
    held = (
        sa.select(receipts.c.id, rank)
        .where(receipts.c.device_id == device_id, receipts.c.effective_ms <= at_ms)
        .subquery()
    )
    newest = sa.select(held.c.id).where(held.c.rank == 1)
    query = sa.select(receipts).where(receipts.c.id.in_(newest)).order_by(receipts.c.model)
    return tuple(_to_fact(row) for row in connection.execute(query))


def to_device_model(row: sa.Row[tuple[object, ...]]) -> DeviceModel:
    """Return a row of device_models as a value."""
    failure = None
    if row.failure_code is not None:
        failure = ReportedFailure(
            release=ReleaseRef(row.failure_version, row.failure_digest),
            rollout=row.failure_rollout,
            code=row.failure_code,
            text=row.failure_text,
            undo_ms=row.failure_undo_ms,
        )
    return DeviceModel(
        device_id=DeviceId(row.device_id),
        model=ModelName(row.model),
        state=UpdateState(row.state),
        version=row.version,
        manifest_digest=row.manifest_digest,
        precision=row.precision,
        target_version=row.target_version,
        rollout=row.rollout_id,
        progress=row.progress,
        trial_items=row.trial_items,
        failure=failure,
        proof=None if row.proof is None else ReceiptOutcome(row.proof),
        receipt_id=row.receipt_id,
        receipt_problem=row.receipt_problem,
        reported_ms=row.reported_ms,
    )


def _model_row(incoming: Incoming, model: ModelReport, proof: Proof) -> dict[str, object]:
    failure = model.failure
    return {
        "device_id": incoming.device_id,
        "model": model.model,
        "state": model.state.value,
        "version": model.version,
        "manifest_digest": model.manifest_digest,
        "precision": model.precision,
        "target_version": model.target_version,
        "rollout_id": model.rollout,
        "progress": model.progress,
        "trial_items": model.trial_items,
        "failure_version": failure.version if failure else None,
        "failure_digest": failure.manifest_digest if failure else None,
        "failure_rollout": failure.rollout if failure else None,
        "failure_code": failure.code if failure else None,
        "failure_text": failure.text if failure else None,
        "failure_undo_ms": failure.undo_ms if failure else None,
        "proof": proof.outcome.value if proof.outcome else None,
        "receipt_id": proof.receipt_id,
        "receipt_problem": proof.problem,
        "reported_ms": incoming.received_ms,
    }


def _to_fact(row: sa.Row[tuple[object, ...]]) -> ReceiptFact:
    return ReceiptFact(
        receipt_id=row.id,
        device_id=DeviceId(row.device_id),
        model=ModelName(row.model),
        release=ReleaseRef(row.version, row.manifest_digest),
        artifact_digest=row.artifact_digest,
        precision=row.precision,
        runtime=row.runtime,
        golden_items=row.golden_items,
        golden_error_max=row.golden_error_max,
        outcome=row.outcome,
        rollout=row.rollout_id,
        at_ms=row.effective_ms,
    )
