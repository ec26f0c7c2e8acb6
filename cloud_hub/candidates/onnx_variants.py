"""Measures all forms of a model side by side with the old release, on held-out items.

1. Further forms are built only from an fp32 model, and only where an evaluation set can calibrate
   and judge them; each is inspected and run on golden inputs as an upload is.
2. What is held out is decided by every form and by the old release, one item at a time, through
   the device's own preprocess and postprocess. The counts are paired: item by item
   (evaluation_measures.py).
3. Times are medians of rounds in which each form runs once, in an order that turns: what slows
   the machine for a moment slows all of them.

Runs in the examining process only (onnx_examination.py).
"""

import statistics
import time
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates.evaluation_data import (
    EvaluationData,
    Split,
    check_fit,
    decode_evaluation,
    foretold,
    pick,
    split,
)
from cloud_hub.candidates.evaluation_measures import Answers, Marks, agreement, count_slices, mark
from cloud_hub.candidates.examination import (
    EvaluationFacts,
    ExaminationTask,
    VariantFacts,
)
from cloud_hub.candidates.onnx_evaluation import FOREIGN_ERRORS, draw_inputs
from cloud_hub.candidates.onnx_forms import FirstForm, Form, build_forms, open_form, tokenize_of
from shared.errors import ContractError, RefusedError
from shared.model.spec import ImageInput, ModelSpec

Array = NDArray[np.generic]
InputKind = tuple[str, tuple[int, ...]]  # Number type and shape

TIMING_S_MAX = 20.0
TIMING_ROUNDS_MIN = 5
TIMED_ITEMS = 8


def measure_variants(
    folder: Path, task: ExaminationTask, first: VariantFacts, model_bytes: bytes, spec: ModelSpec
) -> EvaluationFacts:
    """Return facts about all forms; files of those that could be built are in `folder`.

    `first` and `model_bytes` are the model as it came, examined already, its preprocessing folded
    in where `spec`, that of all forms, is not the task's.
    """
    try:
        data = read_set(folder, spec)
    except ContractError as error:
        return EvaluationFacts(error=error.message, variants=(first,))
    parts = split(data.items) if data is not None else Split((), ())
    tokenize = tokenize_of(spec, folder / files.TOKENIZER)
    forms = {first.name: open_form(model_bytes, spec, tokenize)}
    built = [first]
    if data is not None and first.model.precision == "fp32":
        items = data.items[list(parts.calibration)]
        given = FirstForm(first, forms[first.name], model_bytes, items, len(parts.held_out))
        further, opened = build_forms(folder, task, given)
        built, forms = [first, *further], forms | opened
    old, old_error = _open_old(folder, task, data)
    held_out = pick(data, parts.held_out) if data is not None else None
    if held_out is not None:
        old_marks, old_error = _mark_old(old, held_out, old_error)
        old = None if old_error else old
        built = _count_all(built, forms, old_marks, held_out)
    latencies_ms = _time(forms, old, _timed_items(held_out, spec, forms[first.name]), task)
    return EvaluationFacts(
        items_count=len(parts.held_out),
        calibration_count=len(parts.calibration),
        variants=tuple(replace(one, latency_ms=latencies_ms.get(one.name)) for one in built),
        old_error=old_error,
        old_latency_ms=latencies_ms.get(files.OLD),
    )


def read_set(folder: Path, spec: ModelSpec) -> EvaluationData | None:
    """Return the set, or None where none is given."""
    path = folder / files.EVALUATION
    if not path.exists():
        return None
    data = foretold(decode_evaluation(path.read_bytes()), spec)
    check_fit(data, spec)
    return data


def _open_old(
    folder: Path, task: ExaminationTask, data: EvaluationData | None
) -> tuple[Form | None, str]:
    """Return the old release, or why it cannot be measured on the same items."""
    path = folder / files.OLD
    if task.old_spec is None or not path.exists():
        return None, ""
    old, new = task.old_spec, task.spec
    if (old.task, old.output.classes) != (new.task, new.output.classes):
        return None, "it decides something else: another task or other classes"
    try:
        if data is not None:
            check_fit(data, old)
        elif _item_shape(old) != _item_shape(new):
            return None, "its input has another shape"
        tokenize = tokenize_of(old, folder / files.OLD_TOKENIZER)
        return open_form(path.read_bytes(), old, tokenize), ""
    except ContractError as error:
        return None, error.message
    except FOREIGN_ERRORS as error:
        return None, str(error)


def _item_shape(spec: ModelSpec) -> tuple[int, ...]:
    """Return what an item looks like before any preprocessing, which may be in the graph."""
    if isinstance(spec.input, ImageInput):
        return (spec.input.height, spec.input.width)
    return spec.input_shape


def _mark_old(
    old: Form | None, held_out: EvaluationData, old_error: str
) -> tuple[Marks | None, str]:
    if old is None:
        return None, old_error
    try:
        return mark(old.answer_all(held_out.items), held_out), ""
    except (RefusedError, *FOREIGN_ERRORS) as error:
        return None, str(error)


def _count_all(
    built: list[VariantFacts], forms: dict[str, Form], old: Marks | None, held_out: EvaluationData
) -> list[VariantFacts]:
    """Return the facts with what each form decided; the first form is what others agree with."""
    first: Answers | None = None
    counted = []
    for facts in built:
        if facts.name not in forms:
            counted.append(facts)
            continue
        form = forms[facts.name]
        try:
            answers = form.answer_all(held_out.items)
            marks = mark(answers, held_out)
        except (RefusedError, *FOREIGN_ERRORS) as error:
            counted.append(replace(facts, error=str(error)))
            continue
        first = answers if first is None else first
        alike, total = agreement(answers, first)
        counted.append(
            replace(
                facts,
                agreement_count=alike,
                agreement_total=total,
                slices=count_slices(
                    marks,
                    old,
                    held_out,
                    classes_count=len(form.spec.output.classes),
                ),
            )
        )
    return counted


def _timed_items(
    held_out: EvaluationData | None, spec: ModelSpec, first: Form
) -> dict[InputKind, Array]:
    """Return some input tensors by what a model takes, (n, ...) each."""
    kind = _kind(first)
    if held_out is not None and held_out.items.size:
        return {kind: first.tensors(held_out.items[:TIMED_ITEMS])}
    return {kind: draw_inputs(spec, dtype=first.dtype, items=TIMED_ITEMS)}


def _kind(form: Form) -> InputKind:
    """Return what tells the tensors of forms apart."""
    return form.dtype, form.spec.input_shape


def _time(
    forms: dict[str, Form], old: Form | None, items: dict[InputKind, Array], task: ExaminationTask
) -> dict[str, float]:
    """Return median times in ms by name; the old release's under files.OLD. See rule 3."""
    timed = dict(forms)
    if old is not None:
        timed[files.OLD] = old
        # A release may scale in its graph where the other does not: its own tensors.
        if _kind(old) not in items:
            drawn = draw_inputs(old.spec, dtype=old.dtype, items=TIMED_ITEMS)
            items = {**items, _kind(old): drawn}
    names = list(timed)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    started_s = time.perf_counter()
    for turn in range(task.limits.timing_rounds + 1):
        if turn > TIMING_ROUNDS_MIN and time.perf_counter() - started_s > TIMING_S_MAX:
            break
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            pool = items[_kind(timed[name])]
            index = turn % pool.shape[0]
            item = pool[index : index + 1]
            before_s = time.perf_counter()
            timed[name].run(item)
            times_ms[name].append((time.perf_counter() - before_s) * 1000)
    return {
        name: statistics.median(values[1:]) for name, values in times_ms.items()
    }  # 1st: warm-up
