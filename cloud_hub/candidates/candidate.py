"""Candidate: weights not yet allowed anywhere, and Verdict: the gate's answer with its reasons."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from shared.errors import RefusedError
from shared.ids import LineageId, ModelName
from shared.model.spec import ImageInput, ModelSpec

CandidateId = NewType("CandidateId", str)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing the gate found: what was measured, and what the limit is."""

    code: str  # "gate.opset"
    text: str
    measured: str = ""
    limit: str = ""


class Answer(StrEnum):
    """What a paired test says about a new model beside an old one."""

    NOT_WORSE = "not-worse"  # By more than the margin: shown
    WORSE = "worse"  # Shown to be worse, and not shown to be within the margin
    CANNOT_TELL = "cannot-tell"  # Too few items for either
    FIRST = "first"  # There is no old one


class Measure(StrEnum):
    """What is compared item by item, and what a row's bounds are of."""

    ACCURACY = "accuracy"  # The share of items whose class is right
    FLAGS = "flags"  # The share of items flagged rightly, each model by its own threshold
    PICTURE_F1 = "picture-f1"  # The mean over pictures of the F1 of a picture's boxes
    VALUES = "values"  # The mean over items of 1 - error, in usual spans of the true values
    PICTURE_IOU = "picture-iou"  # The mean over pictures of the mean IoU of a picture's classes


@dataclass(frozen=True, slots=True)
class BoxScores:
    """How well a detector's boxes are the true ones, at an overlap of 0.5."""

    picture_f1: float  # Mean over pictures; a picture without boxes on either side has 1
    f1: float  # Over the boxes of all pictures together
    mean_average_precision: float  # Over classes that occur, all confidences


@dataclass(frozen=True, slots=True)
class RocAreas:
    """The chance that an anomalous item scores above a normal one, whatever the threshold."""

    new: float
    old: float | None = None


@dataclass(frozen=True, slots=True)
class ItemScores:
    """How close numbers or masks are to the true ones; see evaluation_scores.py."""

    mean: float  # Of the items' scores, 0..1
    mae: float | None = None  # Of numbers: mean absolute error, in their own unit
    rmse: float | None = None
    span: float | None = None  # Of numbers: the usual span that errors are measured in, their mean


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One form of the model that was built and measured, and why it was or was not published."""

    # "fp32", "fp32-pruned", "int8", "int8-qat", "int8-dynamic", "int8-s8s8", "int8-reduced"
    name: str
    precision: str
    is_chosen: bool
    text: str  # Why, for people
    artifact_bytes: int = 0
    latency_ms: float | None = None  # Median on the hub, one thread, all forms interleaved
    accuracy: float | None = None  # On held-out items; None where there are none, and of detectors
    agreement: float | None = None  # Share of items decided, or boxes found, as by the first form
    boxes: BoxScores | None = None  # Of a detector
    roc_area: float | None = None  # Of a model for anomalies
    scores: ItemScores | None = None  # Of numbers and masks
    is_published: bool = False  # The chosen one, and those a device may try beside it
    calibration: str = ""  # Of static int8: how ranges were found


@dataclass(frozen=True, slots=True)
class SliceRow:
    """Held-out items of one slice (`name` "" is all of them), decided by the new and the old."""

    name: str
    items_count: int
    accuracy_new: float  # Share of items that are right; of pictures: all found, nothing false
    answer: Answer
    accuracy_old: float | None = None  # None: there is no release to compare with
    gained_count: int = 0  # Right now, wrong before
    lost_count: int = 0  # Wrong now, right before
    bound_low: float | None = None  # One-sided 95 % bounds of new - old of what is compared
    bound_high: float | None = None
    margin: float | None = None  # Not worse means bound_low > -margin
    items_needed: int | None = None  # About how many would tell, where these do not
    measure: Measure = Measure.ACCURACY
    boxes_new: BoxScores | None = None  # Of detectors
    boxes_old: BoxScores | None = None
    roc_areas: RocAreas | None = None  # Of models for anomalies, where both kinds of items occur
    scores_new: ItemScores | None = None  # Of numbers and masks
    scores_old: ItemScores | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """On what, and against which release, the candidate was judged."""

    evaluation_digest: str  # Of the evaluation set
    items_count: int  # Held-out items
    calibration_count: int  # Items kept out of it, which set the ranges of int8
    release: str = ""  # "digits:3", or "" for a model's first release
    latency_ms_new: float | None = None
    latency_ms_old: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer. `reasons` are why not; `remarks` are worth knowing and stop nothing.

    The tables are empty where nothing was measured; Verdicts of before there were any lack them.
    """

    is_passed: bool
    reasons: tuple[Reason, ...]
    remarks: tuple[Reason, ...] = ()
    variants: tuple[VariantRow, ...] = ()
    slices: tuple[SliceRow, ...] = ()  # All items first (name ""), then slice by slice
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that asked to become a release, and what the gate said."""

    candidate_id: CandidateId
    model: ModelName
    content_digest: str  # What was uploaded: the same bytes give the same digest
    lineage_id: LineageId
    precision: str
    created_ms: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PassedForm:
    """One form of a model that the gate let through."""

    precision: str
    model_bytes: bytes  # Stripped of paths and texts
    golden_bytes: bytes
    agreement: float | None = None  # With the first form, on held-out items
    calibration: str = ""
    architectures: tuple[str, ...] = ()  # Made for these; none: for any


@dataclass(frozen=True, slots=True)
class PassedCandidate:
    """A candidate the gate let through, with the forms that may be published, best first."""

    candidate: Candidate
    spec: ModelSpec  # Of the forms: a folded model's differs from the one that came in
    forms: tuple[PassedForm, ...]
    trained_input: ImageInput | None = None  # Where preprocessing was folded into the graph
    tokenizer_bytes: bytes | None = None

    @property
    def model_bytes(self) -> bytes:
        """Return the best form."""
        return self.forms[0].model_bytes

    @property
    def golden_bytes(self) -> bytes:
        """Return the best form's golden set."""
        return self.forms[0].golden_bytes


class GateRefusedError(RefusedError):
    """The gate said no (`gate.refused`); `candidate` carries the Verdict with every reason."""

    def __init__(self, candidate: Candidate) -> None:
        """Say the reasons in one sentence."""
        texts = " ".join(reason.text for reason in candidate.verdict.reasons)
        super().__init__("gate.refused", f"The gate refused this model: {texts}")
        self.candidate = candidate
        self.reasons = candidate.verdict.reasons
