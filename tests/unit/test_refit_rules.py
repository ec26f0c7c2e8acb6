"""What changed limits mean to a table that was measured, and how a change of variant is kept."""

import msgspec
import pytest
from msgspec import UNSET

from edge_agent.inference.fit import choose
from edge_agent.updates.journal import (
    WITHDRAWN_CODE,
    Journal,
    RefitStep,
    SettledRelease,
    Slot,
    begin_refit,
    condemn,
    failure_for,
    move,
    refuse,
    settle,
)
from edge_agent.updates.machine import Effect, Event
from edge_agent.updates.refit import Refit, rejudge
from shared.pipeline.pipeline import PipelineLimits
from shared.wire.fit import FitReport, FitRow, FitStanding
from shared.wire.report import SignedReceipt, UpdateState
from shared.wire.target import TargetRelease

DIGEST = "1" * 64
LIMITS = PipelineLimits()
STRICT = PipelineLimits(agreement_min=0.995)
BOTH = frozenset({"fp32", "int8"})


def row(precision: str, ms: float, *, agreement: float | None = None, mib: int = 50) -> FitRow:
    return FitRow(
        precision=precision,
        backend="onnxruntime",
        threads=1,
        artifact_bytes=1000,
        run_ms_p50=ms,
        run_ms_p95=ms,
        items_per_s=1000.0 / ms,
        runs_count=10,
        rss_bytes=mib << 20,
        agreement=agreement,
    )


FP32, INT8 = row("fp32", 10.0, mib=90), row("int8", 4.0, agreement=0.99)


def table(*rows: FitRow, standing: FitStanding = FitStanding.MEASURED) -> FitReport:
    chosen = choose(rows, LIMITS)
    return FitReport(
        version=1,
        manifest_digest=DIGEST,
        fingerprint="a" * 16,
        rows=rows,
        choice=chosen.choice,
        reasons=chosen.reasons,
        standing=standing,
    )


WHOLE = table(INT8, FP32)
PART = table(INT8, standing=FitStanding.CONFIRMED)
WIDE = PipelineLimits(rss_bytes_max=1 << 30)
UNTRUE = PipelineLimits(agreement_min=0.9)  # Admits what the defaults do not
THREE = frozenset({"fp32", "int8", "int8-dynamic"})
CASES = {
    "nothing that matters": (WHOLE, WIDE, BOTH, Refit.KEEP),
    "the choice is not true enough": (WHOLE, STRICT, {"fp32"}, Refit.SWITCH),
    "the choice is not worth it": (WHOLE, PipelineLimits(speedup_min=3.0), BOTH, Refit.SWITCH),
    "only what was not chosen is too slow": (
        WHOLE,
        PipelineLimits(latency_ms_p95_max=5.0),
        BOTH,
        Refit.KEEP,
    ),
    "everything is too slow": (WHOLE, PipelineLimits(latency_ms_p95_max=3.0), BOTH, Refit.NONE),
    "everything is too large": (WHOLE, PipelineLimits(rss_bytes_max=1 << 20), BOTH, Refit.NONE),
    "a confirmed choice that holds": (PART, WIDE, BOTH, Refit.KEEP),
    "a confirmed choice that does not": (PART, STRICT, {"fp32"}, Refit.MEASURE),
    "a confirmed choice that has to gain more": (
        PART,
        PipelineLimits(speedup_min=3.0),
        BOTH,
        Refit.MEASURE,
    ),
    "a variant more is admitted": (WHOLE, UNTRUE, THREE, Refit.MEASURE),
    "never measured": (None, STRICT, BOTH, Refit.MEASURE),
}


@pytest.mark.parametrize("name", CASES)
def test_a_settled_table_is_judged_anew(name: str) -> None:
    report, limits, admitted, expected = CASES[name]
    rejudged = rejudge(report, limits, admitted=admitted, admitted_before=BOTH)
    assert rejudged.refit is expected
    assert bool(rejudged.why) is (expected is not Refit.KEEP)


def test_a_switch_carries_the_same_rows_with_the_other_choice() -> None:
    rejudged = rejudge(WHOLE, STRICT, admitted={"fp32"}, admitted_before=BOTH)
    assert rejudged.report is not None
    assert rejudged.report.rows == WHOLE.rows
    assert rejudged.report.chosen == FP32
    assert "99.5% are needed" in " ".join(rejudged.report.reasons)
    back = rejudge(rejudged.report, LIMITS, admitted=BOTH, admitted_before={"fp32"})
    assert (back.refit, back.report and back.report.chosen) == (Refit.SWITCH, INT8)


def test_a_variant_that_was_left_out_all_along_is_no_reason_to_measure() -> None:
    rejudged = rejudge(WHOLE, LIMITS, admitted=THREE, admitted_before=THREE)
    assert rejudged.refit is Refit.KEEP


def test_the_same_limits_never_change_anything() -> None:
    for report in (WHOLE, PART):
        assert rejudge(report, LIMITS, admitted=BOTH, admitted_before=BOTH).refit is Refit.KEEP


# What is written down

RELEASE = TargetRelease(model="tones", version=1, manifest_digest=DIGEST, rollout="roll-1")
SETTLED = SettledRelease(slot=Slot.A, version=1, manifest_digest=DIGEST, rollout="roll-1")
RECEIPT = SignedReceipt(payload=b"p", signature=b"s")
IDLE = Journal(model="tones", settled=SETTLED, receipt=RECEIPT, receipt_rollout="roll-1")


def begun(fit: FitReport | None = WHOLE) -> Journal:
    journal, effect = begin_refit(IDLE, RELEASE, RefitStep(limits=STRICT, fit=fit), why="changed")
    assert (journal.state, effect) == (UpdateState.FETCHING, Effect.FETCH)
    return journal


def on_trial() -> Journal:
    staged = move(begun(), Event.FETCHED)[0]
    return move(staged, Event.PROVED)[0]


def test_a_change_of_variant_is_brought_beside_what_has_settled() -> None:
    journal = begun()
    assert journal.attempt is not None
    assert (journal.attempt.slot, journal.settled) == (Slot.B, SETTLED)
    hint = journal.attempt.release.fit_hint
    assert hint is not UNSET
    assert hint.precision == "int8"
    measured = begun(fit=None).attempt
    assert measured is not None
    assert measured.release.fit_hint is UNSET


def test_a_change_that_is_refused_is_no_failure_of_the_release() -> None:
    failure = failure_for(RELEASE, "golden.mismatch", "It is off.")
    journal, _ = refuse(move(begun(), Event.FETCHED)[0], Event.PROOF_FAILED, failure)
    assert (journal.failure, journal.quarantine, journal.receipt) == (None, (), RECEIPT)
    assert journal.refused_refit is not None
    assert journal.refused_refit.limits == STRICT
    assert journal.refused_refit.why == "It is off. [golden.mismatch]"


@pytest.mark.parametrize(("code", "is_remembered"), [("trial.slow", True), (WITHDRAWN_CODE, False)])
def test_a_trial_of_a_change_ends_without_a_failure(code: str, is_remembered: bool) -> None:
    event = Event.WORSE if is_remembered else Event.WITHDRAWN
    journal, effect = condemn(on_trial(), event, failure_for(RELEASE, code, "Slow."))
    assert (journal.state, effect, journal.failure) == (UpdateState.UNDOING, Effect.GO_BACK, None)
    assert journal.attempt is not None
    assert journal.attempt.refit is not None
    assert bool(journal.attempt.refit.why) is is_remembered


def test_settling_forgets_what_was_refused() -> None:
    before = msgspec.structs.replace(on_trial(), refused_refit=RefitStep(limits=LIMITS, why="x"))
    settled = msgspec.structs.replace(SETTLED, slot=Slot.B)
    journal, _ = settle(before, settled, RECEIPT)
    assert (journal.refused_refit, journal.settled) == (None, settled)


def test_a_journal_of_a_change_is_read_as_it_was_written() -> None:
    journal = begun()
    assert msgspec.json.decode(msgspec.json.encode(journal), type=Journal) == journal
