"""The whole gate: facts about all forms of a model in, a Verdict and what to publish out. Pure.

1. What speaks against any file (gate.py) is judged first, then which form is published
   (variant_choice.py), then that form beside the release it would replace (gate_quality.py).
2. The same for whoever made the model: an upload, a federated aggregate, a retrained one.
"""

from dataclasses import dataclass, replace

from cloud_hub.candidates import gate
from cloud_hub.candidates.candidate import Comparison, Reason, Verdict
from cloud_hub.candidates.evaluation_limits import CALIBRATION_ITEMS_MIN
from cloud_hub.candidates.examination import EvaluationFacts, Examination, VariantFacts
from cloud_hub.candidates.export_files import ParityFacts
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.gate_quality import compare_slices, cost_reasons, quality_reasons
from cloud_hub.candidates.variant_choice import agreement_of, choose, precision_of, published
from shared.model.spec import ModelSpec, Task

UNMEASURED = {
    Task.DETECTION: "how well it finds boxes",
    Task.REGRESSION: "the error of its numbers",
    Task.FORECAST: "the error of its numbers",
    Task.SEGMENTATION: "how well its masks fit",
}


@dataclass(frozen=True, slots=True)
class Background:
    """What the facts alone do not say."""

    evaluation_digest: str = ""  # Empty: the model has no evaluation set
    release: str = ""  # "digits:3": the release it would replace; empty: there is none
    parity: ParityFacts | None = None  # Of an export; an upload has none
    remarks: tuple[Reason, ...] = ()  # Of whoever made the model


@dataclass(frozen=True, slots=True)
class PublishedForm:
    """What is said of one form in its release."""

    name: str  # Of the form
    precision: str
    agreement: float | None = None
    calibration: str = ""
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A Verdict, and the name and precision of the form that may be published."""

    verdict: Verdict
    chosen: str
    precision: str
    forms: tuple[PublishedForm, ...] = ()  # All that may be published, the chosen one first


def judge(
    examination: Examination, spec: ModelSpec, settings: GateSettings, background: Background
) -> Judgement:
    """Return what the gate says of a model and all its forms."""
    verdict = gate.judge(examination, spec, settings)
    remarks = [*_fold_remarks(examination), *background.remarks]
    verdict = replace(verdict, remarks=verdict.remarks + tuple(remarks))
    verdict = _with(verdict, _parity_reasons(background.parity))
    facts, precision = examination.evaluation, examination.model.precision
    if facts is None or not facts.variants:
        return Judgement(verdict, precision, precision, (PublishedForm(precision, precision),))
    chosen, rows = choose(facts, settings.variants)
    forms = published(chosen, facts, settings.variants, lambda one: _is_fit(one, settings))
    names = {one.name for one in forms}
    rows = tuple(replace(row, is_published=row.name in names) for row in rows)
    counted = compare_slices(chosen.slices, settings.quality)
    reasons, remarks = quality_reasons(counted, settings.quality)
    reasons = [*_unfit_reasons(facts, settings, background), *reasons]
    reasons += cost_reasons(facts, chosen, settings.quality)
    remarks = [*_missing_remarks(facts, spec, background), *_flag_remarks(chosen, spec), *remarks]
    verdict = _with(verdict, reasons, remarks)
    verdict = replace(verdict, variants=rows, slices=counted)
    if background.evaluation_digest and facts.items_count:
        verdict = replace(
            verdict,
            comparison=Comparison(
                evaluation_digest=background.evaluation_digest,
                items_count=facts.items_count,
                calibration_count=facts.calibration_count,
                release=background.release,
                latency_ms_new=chosen.latency_ms,
                latency_ms_old=facts.old_latency_ms,
            ),
        )
    described = tuple(_described(one, facts) for one in forms)
    return Judgement(verdict, chosen.name, described[0].precision, described)


def _is_fit(one: VariantFacts, settings: GateSettings) -> bool:
    """Whether a form beside the chosen one is not worse than the release it would replace."""
    return not quality_reasons(compare_slices(one.slices, settings.quality), settings.quality)[0]


def _described(one: VariantFacts, facts: EvaluationFacts) -> PublishedForm:
    return PublishedForm(
        name=one.name,
        precision=precision_of(one, facts.variants[0]),
        agreement=agreement_of(one, facts) if facts.items_count and one.slices else None,
        calibration=one.calibration,
        architectures=one.architectures,
    )


def _fold_remarks(examination: Examination) -> list[Reason]:
    """Return whether the published form takes frames as they are, and why not."""
    if examination.fold_error:
        return [Reason("gate.not_folded", examination.fold_error)]
    if examination.spec is None:
        return []
    text = (
        "Preprocessing was put into the graph: published forms take uint8 BGR frames. Their "
        "outputs were compared with the model as it came."
    )
    return [Reason("gate.folded", text)]


def _with(verdict: Verdict, reasons: list[Reason], remarks: list[Reason] | None = None) -> Verdict:
    return replace(
        verdict,
        is_passed=verdict.is_passed and not reasons,
        reasons=verdict.reasons + tuple(reasons),
        remarks=verdict.remarks + tuple(remarks or ()),
    )


def _parity_reasons(parity: ParityFacts | None) -> list[Reason]:
    if parity is None or parity.is_within:
        return []
    text = "The exported model does not compute what the network it was made from does."
    return [Reason("gate.parity", text, f"off by {parity.error_max:.3g}", parity.limit)]


def _unfit_reasons(
    facts: EvaluationFacts, settings: GateSettings, background: Background
) -> list[Reason]:
    """Return what speaks against a model that could not be judged though it should have been."""
    reasons = []
    if facts.error:
        text = f"{facts.error} Add a set that fits, or remove the old one."
        reasons.append(Reason("gate.evaluation", text))
    if facts.variants[0].error:
        text = f"The model could not be measured on held-out items: {facts.variants[0].error}"
        reasons.append(Reason("gate.evaluation_run", text))
    if facts.old_error and background.evaluation_digest and settings.quality.is_unsure_refused:
        text = (
            f"The model cannot be compared with {background.release}: {facts.old_error} Release "
            "it under another name, or set releases.gate.quality.is_unsure_refused = false once."
        )
        reasons.append(Reason("gate.incomparable", text))
    return reasons


def _missing_remarks(
    facts: EvaluationFacts, spec: ModelSpec, background: Background
) -> list[Reason]:
    """Return what was not measured, said plainly."""
    if not background.evaluation_digest:
        what = UNMEASURED.get(spec.task, "accuracy")
        text = (
            f"The model has no evaluation set: {what} was neither measured nor compared, and "
            "int8 was not built, because nothing could calibrate or judge it."
        )
        return [Reason("gate.not_evaluated", text)]
    if facts.variants[0].model.precision == "fp32" and (
        facts.calibration_count < CALIBRATION_ITEMS_MIN
    ):
        text = "Too few items to calibrate int8 with: it was not built."
        measured = str(facts.calibration_count)
        return [Reason("gate.not_calibrated", text, measured, f">= {CALIBRATION_ITEMS_MIN}")]
    return []


def _flag_remarks(chosen: VariantFacts, spec: ModelSpec) -> list[Reason]:
    """Return what is compared of a model for anomalies, which depends on its threshold."""
    areas = chosen.slices[0].roc_areas if chosen.slices else None
    if areas is None:
        return []
    text = (
        f"Compared are flags: a score above {spec.output.threshold:g}, the spec's threshold, says "
        "anomalous. The area under the ROC curve does not depend on it."
    )
    before = "" if areas.old is None else f"{areas.old:.3f} -> "
    return [Reason("gate.flags", text, f"area {before}{areas.new:.3f}")]
