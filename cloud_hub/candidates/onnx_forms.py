"""Forms of one model: opens them, builds the further ones from fp32, lets each decide items.

1. int8 (static) and int8-qat (from tuned weights) are calibrated on the evaluation set's
   calibration part (onnx_calibration.py); int8-dynamic needs none; fp32-pruned comes from the
   export process. All take what the first form takes: its preprocessing folded in, or not.
2. A form that cannot be built, or that the gate's rules for any file refuse, is named with why.
3. No form is begun that could not be judged within the process's time: the model would be lost
   with it.
4. int8-reduced (x86 without VNNI) and int8-s8s8 (Arm) are built where static int8 was and the model
   is no smaller than `processor_forms_bytes_min`, and only while judging them leaves the process
   within TIME_SHARE_MAX of its time: they are extras.

Runs in the examining process only (onnx_examination.py).
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates import gate
from cloud_hub.candidates.evaluation_measures import CONFIDENCE_FLOOR, Answers, agreement
from cloud_hub.candidates.examination import ExaminationTask, VariantFacts
from cloud_hub.candidates.onnx_calibration import AGREEMENT_ITEMS_MAX, Calibrated, calibrate
from cloud_hub.candidates.onnx_evaluation import FOREIGN_ERRORS, evaluate, open_run
from cloud_hub.candidates.onnx_folding import fold
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_quantizer import quantize_dynamic, quantize_static
from shared.errors import RefusedError
from shared.model.postprocess import (
    Boxes,
    anomaly_score,
    class_scores,
    detected_boxes,
    estimated_values,
    segmented,
)
from shared.model.preprocess import Tokenize, compared_with, place, to_tensor
from shared.model.spec import ImageInput, ModelSpec, Task, TextInput, Tokenizer
from shared.model.tokenizers_text import load_tokenizer

Array = NDArray[np.generic]
Run = Callable[[Array], tuple[Array, ...]]

X86 = ("x86_64", "AMD64", "i686")  # platform.machine()
ARM = ("aarch64", "arm64", "armv7l")
PROCESSOR_FORMS = ("int8-reduced", "int8-s8s8")
SLOWER_MAX = 2.5  # Than fp32, on a processor that they were not made for: 1.8 was measured
TIME_SHARE_MAX = 0.5
FORM_TIME_SHARE_MAX = 0.9


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the model, or the old release, ready to run one item at a time."""

    run: Run
    dtype: str
    spec: ModelSpec
    tokenize: Tokenize | None = None  # Of texts with a tokenizer.json

    def tensors(self, items: Array) -> Array:
        """Return items of a set, (n, ...), as the model takes them: (n, ...)."""
        shape = (items.shape[0], *self.spec.input_shape[1:])
        tensors = np.empty(shape, np.dtype(self.dtype))
        for index, item in enumerate(items):
            row = tensors[index : index + 1]
            to_tensor(self._item(item), self.spec, dtype=tensors.dtype, out=row)
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
            case Task.REGRESSION | Task.FORECAST:
                rows = [estimated_values(self._run(item)[1], self.spec) for item in items]
                return Answers(values=np.array(rows, np.float64).reshape(len(rows), -1))
            case Task.SEGMENTATION:
                return Answers(masks=tuple(self._mask_of(item) for item in items))

    def _item(self, item: Array) -> Array:
        """Return an item of a set as to_tensor takes it: of a text with a tokenizer its ids."""
        if self.tokenize is None:
            return item
        return self.tokenize(item.tobytes().rstrip(b"\0").decode("utf-8", "replace"))

    def _run(self, item: Array) -> tuple[Array, tuple[Array, ...]]:
        batch = to_tensor(self._item(item), self.spec, dtype=np.dtype(self.dtype))
        return batch, self.run(batch)

    def _class_of(self, item: Array) -> int:
        return int(class_scores(self._run(item)[1], self.spec).argmax())

    def _score_of(self, item: Array) -> float:
        batch, outputs = self._run(item)
        return anomaly_score(outputs, compared_with(item, batch, self.spec), self.spec)

    def _mask_of(self, item: Array) -> NDArray[np.uint8]:
        assert isinstance(self.spec.input, ImageInput), "masks come from images"
        whole = place(self.spec.input.width, self.spec.input.height, self.spec.input)
        outputs = self._run(item)[1]
        return segmented(outputs, self.spec, placement=whole).mask.astype(np.uint8)

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


def open_form(data: bytes, spec: ModelSpec, tokenize: Tokenize | None = None) -> Form:
    """Return a model ready to run. Raises one of FOREIGN_ERRORS."""
    run, dtype = open_run(data)
    return Form(run, dtype, spec, tokenize)


def tokenize_of(spec: ModelSpec, tokenizer: Path) -> Tokenize | None:
    """Return what makes ids of texts; None where a model takes none. Raises ContractError."""
    text = spec.input
    if not isinstance(text, TextInput) or text.tokenizer is Tokenizer.BYTES:
        return None
    return load_tokenizer(tokenizer, spec)


@dataclass(frozen=True, slots=True)
class FirstForm:
    """The fp32 model that further forms are built from, and what they are calibrated on."""

    facts: VariantFacts
    form: Form
    model_bytes: bytes
    items: Array  # The calibration part, (n, ...)
    held_out_count: int


@dataclass(frozen=True, slots=True)
class _Made:
    """A form's bytes, and what is known of how it was made."""

    data: bytes
    calibration: str = ""
    architectures: tuple[str, ...] = ()


def build_forms(
    folder: Path, task: ExaminationTask, first: FirstForm
) -> tuple[list[VariantFacts], dict[str, Form]]:
    """Return facts about every further form, and those that can be run.

    The files of each that can be run are written to `folder`.
    """
    built: list[VariantFacts] = []
    opened: dict[str, Form] = {}
    for name, make in _makers(folder, task, first):
        judged_count = len(opened) + 2 + (folder / files.OLD).exists()  # This one, and the first
        if not _has_time(first, judged_count, task.limits.seconds_max):
            text = "No time is left to judge it: releases.gate.evaluation_s_max is too short."
            built.append(VariantFacts(name=name, error=text))
            continue
        facts, form = _build(name, make, folder, task, first.form)
        built.append(facts)
        if form is not None:
            opened[name] = form
    return built, opened


def _has_time(first: FirstForm, judged_count: int, seconds_max: int) -> bool:
    """Whether one more form may be calibrated, and `judged_count` of them judged: rule 3."""
    run_s = (first.facts.run.run_ms_median if first.facts.run is not None else 0.0) / 1000
    runs_count = judged_count * first.held_out_count + len(first.items)
    return time.process_time() + run_s * runs_count < FORM_TIME_SHARE_MAX * seconds_max


def _makers(
    folder: Path, task: ExaminationTask, first: FirstForm
) -> Iterator[tuple[str, Callable[[], _Made]]]:
    """Yield name and maker of each further form."""

    def other(name: str) -> bytes:
        """Return another fp32 form, folded where the first is."""
        data = (folder / name).read_bytes()
        return data if first.form.spec == task.spec else fold(data, task.spec)

    if (folder / files.PRUNED).exists():
        yield "fp32-pruned", lambda: _Made(other(files.PRUNED))
    if not task.limits.is_int8_built:
        return
    makers = _StaticMakers(folder, task, first)
    yield "int8", lambda: makers.unsigned(first.model_bytes)
    if (folder / files.TUNED).exists():
        yield "int8-qat", lambda: makers.unsigned(other(files.TUNED))
    yield "int8-dynamic", lambda: _Made(quantize_dynamic(first.model_bytes))
    if makers.has_processor_forms():
        yield "int8-reduced", lambda: makers.for_processor(X86, is_range_reduced=True)
        yield "int8-s8s8", lambda: makers.for_processor(ARM, is_signed=True)


class _StaticMakers:
    """Makes static int8 forms; those for processors of the last ranges found."""

    def __init__(self, folder: Path, task: ExaminationTask, first: FirstForm) -> None:
        self._folder = folder
        self._task = task
        self._first = first
        self._tensors = first.form.tensors(first.items)
        self._last: tuple[bytes, Calibrated] | None = None

    def unsigned(self, model_bytes: bytes) -> _Made:
        """Return the int8 form of an fp32 model, by the calibration that agrees best."""
        items = self._first.items[:AGREEMENT_ITEMS_MAX]
        answers = self._first.form.answer_all(items)
        spec, tokenize = self._first.form.spec, self._first.form.tokenize

        def agrees(data: bytes) -> float:
            try:
                alike, total = agreement(open_form(data, spec, tokenize).answer_all(items), answers)
            except FOREIGN_ERRORS as error:
                raise RefusedError("quantizer.failed", f"It cannot be run: {error}.") from error
            return alike / total if total else 1.0

        enough = self._task.limits.calibration_agreement_enough
        with tempfile.TemporaryDirectory(prefix="ranges-", dir=self._folder) as name:
            found = calibrate(
                model_bytes, self._tensors, agrees, Path(name), agreement_enough=enough
            )
            kept = self._folder / f"ranges-{found.method}.json"
            found.ranges.replace(kept)
        self._last = (model_bytes, replace(found, ranges=kept))
        return _Made(found.data, calibration=found.method.value)

    def has_processor_forms(self) -> bool:
        """Whether forms for particular processors are built: rule 4."""
        limits, facts = self._task.limits, self._first.facts
        if self._last is None or facts.artifact_bytes < limits.processor_forms_bytes_min:
            return False
        run_s = (facts.run.run_ms_median if facts.run is not None else 0.0) / 1000
        judging_s = len(PROCESSOR_FORMS) * SLOWER_MAX * run_s * self._first.held_out_count
        return time.process_time() + judging_s < TIME_SHARE_MAX * limits.seconds_max

    def for_processor(
        self,
        architectures: tuple[str, ...],
        *,
        is_range_reduced: bool = False,
        is_signed: bool = False,
    ) -> _Made:
        """Return a form of other integers, of the ranges that were found for int8."""
        assert self._last is not None, "asked only where there is one"
        model_bytes, found = self._last
        data = quantize_static(
            model_bytes,
            self._tensors,
            is_range_reduced=is_range_reduced,
            is_signed=is_signed,
            method=found.method,
            ranges=found.ranges,
        )
        return _Made(data, calibration=found.method.value, architectures=architectures)


def _build(
    name: str, make: Callable[[], _Made], folder: Path, task: ExaminationTask, first: Form
) -> tuple[VariantFacts, Form | None]:
    limits, spec = task.limits, first.spec
    try:
        made = make()
    except RefusedError as error:
        return VariantFacts(name=name, error=error.message), None
    inspection = inspect_model(made.data, opset_min=limits.opset_min)
    data, facts = inspection.model_bytes, inspection.facts
    if name != "fp32-pruned" and facts.precision == "fp32":
        text = "Nothing in the model can be quantized this way."
        return VariantFacts(name=name, error=text, model=facts), None
    settings = gate.GateSettings(opset_min=limits.opset_min)
    reasons = gate.model_reasons(facts, spec, settings)
    if reasons:
        return VariantFacts(name=name, error=reasons[0].text, model=facts), None
    ran = evaluate(data, data, spec, golden=None, items=limits.golden_items)
    result = VariantFacts(
        name=name,
        artifact_bytes=len(data),
        model=facts,
        run=ran.facts,
        calibration=made.calibration,
        architectures=made.architectures,
    )
    reasons = gate.run_reasons(ran.facts, spec)
    if reasons:
        return VariantFacts(name=name, error=reasons[0].text, model=facts, run=ran.facts), None
    try:
        form = open_form(data, spec, first.tokenize)
    except FOREIGN_ERRORS as error:
        return VariantFacts(name=name, error=str(error), model=facts, run=ran.facts), None
    (folder / files.variant_model(name)).write_bytes(data)
    (folder / files.variant_golden(name)).write_bytes(ran.golden_bytes)
    return result, form
