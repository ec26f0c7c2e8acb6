"""Bodies about Candidates and their Verdicts: what the hub answers. Values only."""

from typing import Self

from pydantic import Field

from cloud_hub.api.bodies import AnswerBody
from cloud_hub.api.verdict_words import slice_text
from cloud_hub.candidates.candidate import Answer, Candidate, Measure, SliceRow, Verdict


class ReasonOut(AnswerBody):
    """One thing the gate found: what was measured, and what the limit is."""

    code: str
    text: str
    measured: str
    limit: str


class BoxScoresOut(AnswerBody):
    """How well a detector's boxes are the true ones, at an overlap of 0.5."""

    picture_f1: float = Field(description="Mean over pictures of the F1 of a picture's boxes")
    f1: float = Field(description="Over the boxes of all pictures together")
    mean_average_precision: float = Field(description="Over classes that occur, all confidences")


class RocAreasOut(AnswerBody):
    """The chance that an anomalous item scores above a normal one, whatever the threshold."""

    new: float
    old: float | None


class ItemScoresOut(AnswerBody):
    """How close numbers or masks are to the true ones."""

    mean: float = Field(description="Of the items: 1 - error in usual spans, or the mean IoU")
    mae: float | None = Field(description="Of numbers: mean absolute error")
    rmse: float | None = Field(description="Of numbers")
    span: float | None = Field(description="Of numbers: the usual span of the true values")


class VariantOut(AnswerBody):
    """One form of the model, measured, and why it was or was not published."""

    name: str = Field(examples=["int8-qat"])
    precision: str
    is_chosen: bool
    text: str
    artifact_bytes: int
    latency_ms: float | None
    accuracy: float | None = Field(description="Share of items that are right; null of detectors")
    agreement: float | None = Field(
        description="Share of items decided, or boxes found, as by the first form"
    )
    boxes: BoxScoresOut | None = Field(description="Of a detector")
    roc_area: float | None = Field(description="Of a model for anomalies")
    scores: ItemScoresOut | None = Field(description="Of numbers and masks")
    is_published: bool = Field(description="The chosen one, and those a device may try beside it")
    calibration: str = Field(description="Of static int8: how ranges were found, else empty")


class SliceOut(AnswerBody):
    """Held-out items of one slice, decided by the new model and the old one: a paired test."""

    name: str = Field(description="Empty: all items")
    items_count: int
    measure: Measure = Field(description="What is compared, and what the bounds are of")
    accuracy_new: float = Field(
        description="Share of items that are right; of pictures with boxes: all found, none "
        "false; of numbers: within 5 % of the usual span; of masks: mean IoU of 0.5"
    )
    accuracy_old: float | None
    boxes_new: BoxScoresOut | None = Field(description="Of a detector")
    boxes_old: BoxScoresOut | None
    roc_areas: RocAreasOut | None = Field(description="Of a model for anomalies")
    scores_new: ItemScoresOut | None = Field(description="Of numbers and masks")
    scores_old: ItemScoresOut | None
    answer: Answer
    gained_count: int = Field(description="Right now, wrong before")
    lost_count: int = Field(description="Wrong now, right before")
    bound_low: float | None = Field(description="One-sided 95 % bound of the change")
    bound_high: float | None
    margin: float | None = Field(description="Not worse means bound_low > -margin")
    items_needed: int | None
    sentence: str

    @classmethod
    def of(cls, row: SliceRow) -> Self:
        """Return a slice in the form of the API."""
        return cls(
            name=row.name,
            items_count=row.items_count,
            measure=row.measure,
            accuracy_new=row.accuracy_new,
            accuracy_old=row.accuracy_old,
            boxes_new=BoxScoresOut.model_validate(row.boxes_new) if row.boxes_new else None,
            boxes_old=BoxScoresOut.model_validate(row.boxes_old) if row.boxes_old else None,
            roc_areas=RocAreasOut.model_validate(row.roc_areas) if row.roc_areas else None,
            scores_new=ItemScoresOut.model_validate(row.scores_new) if row.scores_new else None,
            scores_old=ItemScoresOut.model_validate(row.scores_old) if row.scores_old else None,
            answer=row.answer,
            gained_count=row.gained_count,
            lost_count=row.lost_count,
            bound_low=row.bound_low,
            bound_high=row.bound_high,
            margin=row.margin,
            items_needed=row.items_needed,
            sentence=slice_text(row),
        )


class ComparisonOut(AnswerBody):
    """On what, and against which release, the candidate was judged."""

    evaluation_digest: str
    items_count: int
    calibration_count: int
    release: str = Field(description='"digits:3"; empty for a model\'s first')
    latency_ms_new: float | None
    latency_ms_old: float | None


class VerdictOut(AnswerBody):
    """The gate's answer: reasons are why not, remarks stop nothing."""

    is_passed: bool
    reasons: tuple[ReasonOut, ...]
    remarks: tuple[ReasonOut, ...]
    variants: tuple[VariantOut, ...]
    slices: tuple[SliceOut, ...] = Field(description="All items first, then slice by slice")
    comparison: ComparisonOut | None

    @classmethod
    def of(cls, verdict: Verdict) -> Self:
        """Return a Verdict in the form of the API."""
        comparison = verdict.comparison
        return cls(
            is_passed=verdict.is_passed,
            reasons=tuple(ReasonOut.model_validate(reason) for reason in verdict.reasons),
            remarks=tuple(ReasonOut.model_validate(remark) for remark in verdict.remarks),
            variants=tuple(VariantOut.model_validate(variant) for variant in verdict.variants),
            slices=tuple(SliceOut.of(row) for row in verdict.slices),
            comparison=ComparisonOut.model_validate(comparison) if comparison else None,
        )


class CandidateOut(AnswerBody):
    """A model that asked to become a release, and what the gate said."""

    candidate_id: str
    model: str
    precision: str
    lineage_id: str
    created_ms: int
    verdict: VerdictOut

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """Return a Candidate in the form of the API."""
        return cls(
            candidate_id=candidate.candidate_id,
            model=candidate.model,
            precision=candidate.precision,
            lineage_id=candidate.lineage_id,
            created_ms=candidate.created_ms,
            verdict=VerdictOut.of(candidate.verdict),
        )


class CandidatesOut(AnswerBody):
    """Candidates, newest first, refused ones too."""

    candidates: tuple[CandidateOut, ...]
