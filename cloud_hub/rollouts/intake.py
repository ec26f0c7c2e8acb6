"""ReportIntake: a device's Report into the database, its receipts checked. One transaction each.

1. Services are asked and signatures checked before the transaction begins: it holds locks.
2. What a Report means for a rollout is not decided here but at the next tick.
3. A receipt that does not hold is written into the timeline of the rollout it would have counted
   in, once for each new reason.
"""

import logging
import threading
from dataclasses import dataclass

import sqlalchemy as sa
from msgspec import UNSET

from cloud_hub.devices.service import DeviceService
from cloud_hub.releases.service import ReleaseService
from cloud_hub.rollouts import sql_fits, sql_reports, sql_targets
from cloud_hub.rollouts.receipts import check_receipt
from cloud_hub.rollouts.sql_reports import Incoming, Proof
from cloud_hub.rollouts.sql_rollouts import find_claims
from cloud_hub.rollouts.sql_timeline import add_entries
from cloud_hub.rollouts.timeline import Entry
from cloud_hub.sql_database import Database
from cloud_hub.training.service import TrainingService
from shared.clock import Clock, now_ms
from shared.errors import ContractError, IntegrityError, RefusedError
from shared.ids import DeviceId, ModelName
from shared.release.manifest import Manifest
from shared.release.receipt import Receipt, ReceiptOutcome
from shared.wire.codec import Received
from shared.wire.fit import FitReport
from shared.wire.report import ModelReport, Report, SignedReceipt

log = logging.getLogger(__name__)

MANIFESTS_MAX = 64  # Kept in memory, most recently used
REPUBLISH_AFTER_MS = 30_000  # A Target younger than this may still be on its way.
NO_RECEIPT = "it sent no receipt"


@dataclass(frozen=True, slots=True)
class _Checked:
    """What came of one model's receipt before the transaction."""

    signed: SignedReceipt | None = None
    receipt: Receipt | None = None  # Verified now, to be stored
    known: Proof | None = None  # Verified and stored before
    problem: str = ""


class ReportIntake:
    """See the rules above. Thread-safe."""

    def __init__(
        self,
        database: Database,
        devices: DeviceService,
        releases: ReleaseService,
        clock: Clock,
        training: TrainingService | None = None,
    ) -> None:
        self._database = database
        self._devices = devices
        self._releases = releases
        self._clock = clock
        self._training = training
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._lock = threading.Lock()  # Guards the dict above.

    def take(self, received: Received) -> bool:
        """Store a Report; return whether it was newer than what was known.

        Raises RefusedError `device.not_active`; ContractError `report.duplicate_model`,
        `report.unstorable`; TransientError `database.unavailable`: nothing was stored.
        """
        report, device_id = received.message, received.device
        assert isinstance(report, Report), "the inbox routes by topic"
        if not self._devices.is_active(device_id):
            raise RefusedError("device.not_active", f"{device_id} is not a device of this fleet.")
        if len({model.model for model in report.models}) != len(report.models):
            raise ContractError("report.duplicate_model", "The Report names a model twice.")
        incoming = Incoming(
            device_id=device_id,
            session_id=received.session_id,
            sent_ms=received.sent_ms,
            received_ms=now_ms(self._clock),
            report=report,
        )
        checked = {model.model: self._check(device_id, model) for model in report.models}
        fits = [fit for model in report.models if (fit := self._fit_of(model)) is not None]
        try:
            with self._database.begin() as connection:
                if not sql_reports.is_newer(connection, incoming):
                    return False
                _store(connection, incoming, checked)
                for fit in fits:
                    sql_fits.put_fit(connection, device_id, fit, received_ms=incoming.received_ms)
                if self._training is not None and isinstance(report.learning, tuple):
                    self._training.on_report(connection, device_id, report.learning)
        except sa.exc.DataError as error:
            text = f"The Report holds what the database cannot: {error.orig}."
            raise ContractError("report.unstorable", text) from error
        return True

    def _check(self, device_id: DeviceId, claim: ModelReport) -> _Checked:
        signed = claim.receipt
        if signed is None or claim.manifest_digest is None:
            return _Checked(problem=NO_RECEIPT if claim.version else "")
        known = self._find_known(device_id, claim, signed)
        if known is not None:
            return _Checked(signed=signed, known=known)
        try:
            manifest = self._manifest(claim)
            key = self._devices.public_key(device_id)
            receipt = check_receipt(claim, signed, device_id=device_id, key=key, manifest=manifest)
        except (IntegrityError, ContractError, RefusedError) as error:
            return _Checked(signed=signed, problem=f"{error.message} [{error.code}]")
        return _Checked(signed=signed, receipt=receipt)

    def _fit_of(self, claim: ModelReport) -> FitReport | None:
        """Return the table a device sent, if it is of a release that there is."""
        if claim.fit is UNSET:
            return None
        try:
            release = self._releases.get(claim.model, claim.fit.version)
        except RefusedError:
            return None
        return claim.fit if release.manifest_digest == claim.fit.manifest_digest else None

    def _find_known(
        self, device_id: DeviceId, claim: ModelReport, signed: SignedReceipt
    ) -> Proof | None:
        with self._database.read() as connection:
            receipt_id = sql_reports.find_receipt(connection, device_id, signed)
            if receipt_id is None:
                return None
            fact = sql_reports.read_receipt(connection, receipt_id)
        assert fact is not None, "receipts are never deleted"
        names = (fact.model, fact.release.version, fact.release.manifest_digest)
        if names != (claim.model, claim.version, claim.manifest_digest):
            return None  # It says it runs something else than it proved: check, and find that.
        return Proof(receipt_id, ReceiptOutcome(fact.outcome))

    def _manifest(self, claim: ModelReport) -> Manifest:
        """Return the manifest of the claimed release; its digest is the one claimed.

        Raises IntegrityError `receipt.release`, RefusedError `release.unknown`.
        """
        digest = claim.manifest_digest
        assert digest is not None
        with self._lock:
            known = self._manifests.get((claim.model, digest))
        if known is not None and known.version == claim.version:
            return known
        release = self._releases.get(claim.model, claim.version)
        if release.manifest_digest != digest:
            raise IntegrityError(
                "receipt.release",
                f"{claim.model} version {claim.version} has another manifest digest than claimed.",
            )
        manifest = self._releases.manifest(claim.model, claim.version)
        with self._lock:
            self._manifests[claim.model, digest] = manifest
            while len(self._manifests) > MANIFESTS_MAX:
                self._manifests.pop(next(iter(self._manifests)))
        return manifest


def _store(connection: sa.Connection, incoming: Incoming, checked: dict[str, _Checked]) -> None:
    device_id = incoming.device_id
    proofs = {model: _to_proof(connection, incoming, found) for model, found in checked.items()}
    before = {m.model: m.receipt_problem for m in sql_reports.read_models(connection, device_id)}
    for model in incoming.report.models:
        problem = proofs[model.model].problem
        is_invalid = checked[model.model].signed is not None and problem != ""
        if is_invalid and before.get(ModelName(model.model)) != problem:
            log.warning(
                "receipt.invalid",
                extra={"device": device_id, "model": model.model, "problem": problem},
            )
            _note_invalid(connection, incoming, model, problem)
    sql_reports.put_report(connection, incoming)
    sql_reports.put_models(connection, incoming, proofs)
    sql_targets.answer_report(
        connection,
        device_id,
        incoming.report.target_revision,
        published_before_ms=incoming.received_ms - REPUBLISH_AFTER_MS,
    )


def _to_proof(connection: sa.Connection, incoming: Incoming, found: _Checked) -> Proof:
    device_id = incoming.device_id
    proof = found.known or Proof(problem=found.problem)
    if found.receipt is not None and found.signed is not None:
        at_ms = incoming.received_ms
        count = sql_reports.count_todays_receipts(connection, device_id, now_ms=at_ms)
        if count >= sql_reports.RECEIPTS_PER_DAY_MAX:
            return Proof(problem=f"It brought {count} receipts within a day [receipt.too_many]")
        receipt_id = sql_reports.add_receipt(
            connection, device_id, found.signed, found.receipt, received_ms=incoming.received_ms
        )
        proof = Proof(receipt_id, found.receipt.outcome)
    if proof.outcome is not ReceiptOutcome.UNDONE or proof.receipt_id is None:
        return proof
    fact = sql_reports.read_receipt(connection, proof.receipt_id)
    digest = fact.release.manifest_digest if fact else ""
    if sql_reports.has_settled_before(connection, device_id, digest):
        # It went through a trial of this release once, and has now proved it again.
        return Proof(proof.receipt_id, ReceiptOutcome.SETTLED)
    return proof


def _note_invalid(
    connection: sa.Connection, incoming: Incoming, model: ModelReport, problem: str
) -> None:
    for rollout_id in find_claims(
        connection, incoming.device_id, ModelName(model.model), model.manifest_digest or ""
    ):
        entry = Entry(
            rollout_id=rollout_id,
            at_ms=incoming.received_ms,
            code="receipt.invalid",
            text=f"Its receipt does not hold, and it is not counted: {problem}",
            device_id=incoming.device_id,
        )
        add_entries(connection, rollout_id, [entry])
