"""Forms of one model: opens them, builds the further ones from fp32, lets each decide items.

1. int8 (static) and int8-qat (from tuned weights) are calibrated on the evaluation set's
   calibration part; int8-dynamic needs none; fp32-pruned comes from the export process.
2. A form that cannot be built, or that the gate's rules for any file refuse, is named with why.

Runs in the examining process only (onnx_examination.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates import gate
from cloud_hub.candidates.evaluation_limits import CALIBRATION_ITEMS_MIN
from cloud_hub.candidates.evaluation_measures import CONFIDENCE_FLOOR, Answers
from cloud_hub.candidates.examination import ExaminationTask, VariantFacts
from cloud_hub.candidates.onnx_evaluation import FOREIGN_ERRORS, evaluate, open_run
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_quantizer import quantize_dynamic, quantize_static
from shared.errors import RefusedError
from shared.model.postprocess import Boxes, anomaly_score, class_scores, detected_boxes
from shared.model.preprocess import place, to_tensor
from shared.model.spec import ImageInput, ModelSpec, Task

Array = NDArray[np.generic]
Run = Callable[[Array], tuple[Array, ...]]


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the model, or the old release, ready to run one item at a time."""

    run: Run
    dtype: str
    spec: ModelSpec

    def tensors(self, items: Array) -> Array:
        """Return items of a set, (n, ...), as the model takes them: (n, ...)."""
        shape = (items.shape[0], *self.spec.input_shape[1:])
        tensors = np.empty(shape, np.dtype(self.dtype))
        for index, item in enumerate(items):
            to_tensor(item, self.spec, dtype=tensors.dtype, out=tensors[index : index + 1])
        return tensors

    def answer_all(self, items: Array) -> Answers:
        """Return what the model says of items of a set, (n, ...), read as a device reads it.

        Raises RefusedError `inference.output`, FOREIGN_ERRORS.
        """
        match self.spec.task:
            case Task.CLASSIFICATION:
                classes = [self._class_of(item) for item in items]
                return Answers(classes=np.array(classes, np.int64))
            case Task.ANOMALY:
                scores = np.array([self._score_of(item) for item in items], np.float64)
                flags = (scores > self.spec.output.threshold).astype(np.int64)
                return Answers(classes=flags, scores=scores)
            case Task.DETECTION:
                pairs = [self._boxes_on(item) for item in items]
                return Answers(
                    reported=tuple(reported for reported, _ in pairs),
                    candidates=tuple(candidates for _, candidates in pairs),
                )

    def _run(self, item: Array) -> tuple[Array, tuple[Array, ...]]:
        batch = to_tensor(item, self.spec, dtype=np.dtype(self.dtype))
        return batch, self.run(batch)

    def _class_of(self, item: Array) -> int:
        return int(class_scores(self._run(item)[1], self.spec).argmax())

    def _score_of(self, item: Array) -> float:
        batch, outputs = self._run(item)
        return anomaly_score(outputs, batch, self.spec)

    def _boxes_on(self, item: Array) -> tuple[Boxes, Boxes]:
        """Return what a device would report of a picture, and the same from the floor on."""
        assert isinstance(self.spec.input, ImageInput), "boxes come from images"
        outputs = self._run(item)[1]
        # The set's pictures have the model's size: shares of the frame are shares of its input.
        whole = place(self.spec.input.width, self.spec.input.height, self.spec.input)
        return (
            detected_boxes(outputs, self.spec, placement=whole),
            detected_boxes(outputs, self.spec, placement=whole, confidence_min=CONFIDENCE_FLOOR),
        )


def open_form(data: bytes, spec: ModelSpec) -> Form:
    """Return a model ready to run. Raises one of FOREIGN_ERRORS."""
    run, dtype = open_run(data)
    return Form(run, dtype, spec)


def build_forms(
    folder: Path, task: ExaminationTask, model_bytes: bytes, calibration: Array
) -> tuple[list[VariantFacts], dict[str, Form]]:
    """Return facts about every further form, and those that can be run.

    The files of each that can be run are written to `folder`.
    """
    built, opened = [], {}
    for name, make in _makers(folder, task, model_bytes, calibration):
        facts, form = _build(name, make, folder, task)
        built.append(facts)
        if form is not None:
            opened[name] = form
    return built, opened


def _makers(
    folder: Path, task: ExaminationTask, model_bytes: bytes, calibration: Array
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield name and maker of each further form."""
    pruned, tuned = folder / files.PRUNED, folder / files.TUNED
    if pruned.exists():
        yield "fp32-pruned", pruned.read_bytes
    if not task.limits.is_int8_built:
        return
    yield "int8", lambda: _static(model_bytes, calibration)
    if tuned.exists():
        yield "int8-qat", lambda: _static(tuned.read_bytes(), calibration)
    yield "int8-dynamic", lambda: quantize_dynamic(model_bytes)


def _static(model_bytes: bytes, calibration: Array) -> bytes:
    if calibration.shape[0] < CALIBRATION_ITEMS_MIN:
        raise RefusedError(
            "quantizer.failed",
            f"The evaluation set leaves {calibration.shape[0]} items to calibrate with; "
            f"{CALIBRATION_ITEMS_MIN} are the least.",
        )
    return quantize_static(model_bytes, calibration)


def _build(
    name: str, make: Callable[[], bytes], folder: Path, task: ExaminationTask
) -> tuple[VariantFacts, Form | None]:
    limits = task.limits
    try:
        inspection = inspect_model(make(), opset_min=limits.opset_min)
    except RefusedError as error:
        return VariantFacts(name=name, error=error.message), None
    data, facts = inspection.model_bytes, inspection.facts
    if name != "fp32-pruned" and facts.precision == "fp32":
        text = "Nothing in the model can be quantized this way."
        return VariantFacts(name=name, error=text, model=facts), None
    settings = gate.GateSettings(opset_min=limits.opset_min)
    reasons = gate.model_reasons(facts, task.spec, settings)
    if reasons:
        return VariantFacts(name=name, error=reasons[0].text, model=facts), None
    ran = evaluate(data, data, task.spec, golden=None, items=limits.golden_items)
    result = VariantFacts(name=name, artifact_bytes=len(data), model=facts, run=ran.facts)
    reasons = gate.run_reasons(ran.facts, task.spec)
    if reasons:
        return VariantFacts(name=name, error=reasons[0].text, model=facts, run=ran.facts), None
    try:
        form = open_form(data, task.spec)
    except FOREIGN_ERRORS as error:
        return VariantFacts(name=name, error=str(error), model=facts, run=ran.facts), None
    (folder / files.variant_model(name)).write_bytes(data)
    (folder / files.variant_golden(name)).write_bytes(ran.golden_bytes)
    return result, form
