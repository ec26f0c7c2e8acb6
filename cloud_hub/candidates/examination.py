"""Examination: what was measured of an uploaded model, before anyone judges it.

These are facts only, made by onnx_examination.py in a process of its own and read by gate.py.
What must not live here: limits, and any opinion about what is good.
"""

import msgspec

from cloud_hub.candidates.candidate import BoxScores, ItemScores, Measure, RocAreas
from shared.model.spec import ModelSpec


class ExaminationLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the examining process may use, and how much it draws itself."""

    memory_bytes_max: int
    seconds_max: int
    opset_min: int
    golden_items: int
    timing_rounds: int = 50
    is_int8_built: bool = True
    is_folded: bool = True  # Preprocessing of pictures goes into the graph where it can
    # Forms for particular processors are not built of smaller models: they gain nothing there
    processor_forms_bytes_min: int = 256 << 10
    calibration_agreement_enough: float = 0.99


class ExaminationTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the examining process is asked; the model and golden bytes lie beside it as files."""

    spec: ModelSpec
    limits: ExaminationLimits
    old_spec: ModelSpec | None = None  # Of the release that would be replaced, if there is one


class TensorFacts(msgspec.Struct, frozen=True):
    """One input or output of the graph; None is an axis whose size is open."""

    name: str
    dtype: str  # numpy's name: "float32"; "" for what is no tensor
    shape: tuple[int | None, ...]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says about itself. `error` is why it could not be read, if it could not."""

    error: str = ""
    checker_error: str = ""
    opset: int = 0  # Of the model as it would be published
    opset_uploaded: int = 0
    opset_error: str = ""  # Why an old opset could not be raised
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    domains: tuple[str, ...] = ()  # Operator domains that no function in the file defines
    external_count: int = 0  # Tensors whose data would lie in another file
    precision: str = "fp32"
    initializer_inputs_removed: int = 0


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What came of running it on its golden inputs."""

    error: str = ""
    items_count: int = 0
    is_golden_given: bool = False
    is_finite: bool = False
    is_deterministic: bool = False
    output_shapes: tuple[tuple[int, ...], ...] = ()  # For one item
    output_misfit: str = ""  # Why a device could not read them as the spec says
    error_max: float = 0.0
    excess_max: float = 0.0
    is_comparable: bool = False  # False where shapes or numbers could not be compared
    run_ms_median: float = 0.0


class BoxFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How a form of a detector and the old release find the boxes on the pictures of one slice.

    The bounds and the p-value are of the mean over pictures of F1 new - old (paired_scores.py).
    """

    new: BoxScores
    old: BoxScores | None = None  # None, as all below: there is no old release
    bound_low: float = -1.0
    bound_high: float = 1.0
    worse_p_value: float = 1.0
    squares_sum: float = 0.0  # Of the differences, picture by picture


class ScoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How close a form's and the old release's numbers or masks are in one slice.

    The bounds and the p-value are of the mean over items of the score new - old (paired_scores.py).
    """

    measure: Measure
    new: ItemScores
    old: ItemScores | None = None  # None, as all below: there is no old release
    bound_low: float = -1.0
    bound_high: float = 1.0
    worse_p_value: float = 1.0
    squares_sum: float = 0.0  # Of the differences, item by item


class PairedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out items of one slice (`name` "" is all), as a form and the old release decide them."""

    name: str
    items_count: int
    right_count: int
    right_old_count: int | None = None  # None: there is no old release
    gained_count: int = 0  # Right now, wrong before
    lost_count: int = 0  # Wrong now, right before
    boxes: BoxFacts | None = None  # Of detectors
    roc_areas: RocAreas | None = None  # Of models for anomalies
    scores: ScoreFacts | None = None  # Of numbers and masks

    @property
    def paired(self) -> BoxFacts | ScoreFacts | None:
        """Return what scores of items in 0..1 say; None where items are right or wrong."""
        return self.boxes or self.scores


class VariantFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the model. `error` is why it could not be built or measured, if it could not."""

    name: str
    error: str = ""
    artifact_bytes: int = 0
    model: ModelFacts = ModelFacts()
    run: RunFacts | None = None
    latency_ms: float | None = None  # Median, interleaved with all others and the old release
    agreement_count: int = 0  # Held-out items (boxes) decided (found) as by the first form
    agreement_total: int | None = None  # Of how many boxes of both; None: of the held-out items
    slices: tuple[PairedCounts, ...] = ()  # All items first; empty where nothing was held out
    calibration: str = ""  # Of static int8: how ranges were found
    architectures: tuple[str, ...] = ()  # Made for these processors; none: for any


class EvaluationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What came of measuring the model's forms beside each other and beside the old release."""

    error: str = ""  # Why the evaluation set cannot judge this model
    items_count: int = 0  # Held out
    calibration_count: int = 0
    variants: tuple[VariantFacts, ...] = ()  # The model as it came first
    old_error: str = ""  # Why the old release could not be measured beside it
    old_latency_ms: float | None = None


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured. `crash` is how the examining process died, if it did."""

    crash: str = ""
    model: ModelFacts = ModelFacts()
    golden_error: str = ""
    spec: ModelSpec | None = None  # Of the forms, where preprocessing was folded into the graph
    fold_error: str = ""  # Why it was not, though it should have been
    run: RunFacts | None = None  # None: what the file says already ruled running it out
    evaluation: EvaluationFacts | None = None  # None: it was not worth measuring
