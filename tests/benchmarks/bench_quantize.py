"""What int8 costs and gains, for each member of the model zoo, and what the gate makes of it.

Each member is trained on real data by the trainer's own process, exported, and measured in all its
forms by the gate's examining process, as a checkpoint is that is to be released. Told of each form:
right answers on held-out items, agreement with fp32, size, latency of one item on one thread
(median and 95th percentile, all forms in turns), and the gate's choice with its reason.

    images      LeNet, ResNet-8, DS-CNN, MobileNetV2 0.35 on Fashion-MNIST
    air         conv1d, GRU, Transformer: the level of PM2.5 from a day of the other sensors
    sentences   Transformer: statement, question or exclamation, from Shakespeare's words alone
    daily       autoencoder on NAB's daily courses; its error tells anomalies
    trousers    repair network without skips on Fashion-MNIST; what is no trouser is an anomaly
    scenes      SSD on scenes of Fashion-MNIST's things. The gate counts no boxes and builds no int8
                form of a detector: its forms are made by the gate's quantizer here, and not chosen

    --quick     a tenth of the items and little training: under half a minute with one member
    --only      names of members
Prints one JSON object as its last line; a table for people goes to stderr.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.candidate import VariantRow
from cloud_hub.candidates.evaluation_data import decode_evaluation, pick, split
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.candidates.onnx_evaluation import open_run
from cloud_hub.candidates.onnx_forms import Form, open_form
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_quantizer import OPSET_MIN, quantize_dynamic, quantize_static
from cloud_hub.candidates.process_exporter import export
from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.folds import parts_of
from cloud_hub.datasets.manifest import Part
from cloud_hub.datasets.opencv_arrays import Arrays, load_arrays
from cloud_hub.training.trainer.spec import DataSource, TrainSpec
from shared.errors import RefusedError
from shared.model.metrics import f1_boxes, mean_average_precision, roc_area
from shared.model.postprocess import Boxes, anomaly_score, detected_boxes
from shared.model.preprocess import place, to_tensor
from shared.model.spec import ImageInput, ModelSpec, Task, TextInput
from tests.benchmarks.workshop import TrainedRun, Workshop, judge_forms, machine, tell
from tests.benchmarks.zoo_members import MEMBERS, TEXT_BYTES, Member, Source, Sources

SEED = 0
TIMED_ITEMS = 8
TIMED_TURNS = 300
TIMED_S_MAX = 5.0
EVALUATION_ITEMS = 2500
CALIBRATION_ITEMS = 256  # Of a detector; the gate draws its own
FALSE_RATE = 0.05  # Of normal items on the validation part: where an anomaly's threshold is put
CONFIDENCE_MIN = 0.01  # As the trainer's scores: an average precision wants the unsure boxes too
QUICK_EPOCHS = 1.0

Array = NDArray[np.generic]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=[member.name for member in MEMBERS])
    arguments = parser.parse_args()
    members = [one for one in MEMBERS if not arguments.only or one.name in arguments.only]
    started = machine()
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as name:
        bench = Bench(Path(name), is_quick=arguments.quick)
        try:
            told = {member.name: bench.measure(member) for member in members}
        finally:
            bench.workshop.close()
    _print_table(told)
    result = {
        "bench": "quantize",
        "is_quick": arguments.quick,
        "machine": {"at_start": started, "at_end": machine()},
        "imports": bench.workshop.imports,
        "members": told,
    }
    print(json.dumps(result))


class Bench:
    """Trains, exports and measures one member after the other."""

    def __init__(self, folder: Path, *, is_quick: bool) -> None:
        self.workshop = Workshop(folder)
        self._folder, self._is_quick = folder, is_quick
        self._sources = Sources(self.workshop, folder, is_quick=is_quick)

    def measure(self, member: Member) -> dict[str, Any]:
        """Return everything about a member."""
        source = self._sources.get(member.data)
        recipe = member.recipe
        if self._is_quick:
            recipe = msgspec.structs.replace(recipe, epochs=QUICK_EPOCHS)
        run = self.workshop.train(
            TrainSpec(
                run_id=member.name,
                model=source.spec,
                network=member.network(),
                data=DataSource(
                    objects=self.workshop.datasets.objects_place, manifest=source.version.digest
                ),
                recipe=recipe,
                seed=SEED,
                device="cpu",
                is_explained=False,
                cache=str(self._folder / "cache"),
            )
        )
        if source.spec.task is Task.DETECTION:
            told = self._detector(member, source, run)
        else:
            told = self._gated(member, source, run)
        return {
            "data": member.data,
            "parameters": run.started.parameters_count,
            "trained": {
                **run.cost.told(),
                "epochs": run.result.epochs,
                "items_per_s": round(run.result.items_per_s, 1),
                "validation": _rounded(run.result.metrics),
                "test": _rounded(run.result.test_metrics),
            },
            **told,
        }

    def _gated(self, member: Member, source: Source, run: TrainedRun) -> dict[str, Any]:
        """Let the gate measure and choose."""
        spec, settings, network = source.spec, GateSettings(), member.network()
        evaluation = self._evaluation(source.version, spec)
        made = export(spec, network, run.weights, evaluation, settings.export)
        if spec.task is Task.ANOMALY:
            spec = self._with_threshold(spec, made.model_bytes, source.version)
        judged = judge_forms(spec, network, run.weights, made, evaluation, settings)
        spec = judged.spec
        verdict = judged.judgement.verdict
        data = decode_evaluation(evaluation)
        held_out = pick(data, split(data.items).held_out)
        forms = {name: open_form(data, spec) for name, data in judged.forms.items()}
        first = forms["fp32"]
        times = _times(forms, first.tensors(held_out.items[:TIMED_ITEMS]))
        rows = {row.name: _row(row, times.get(row.name)) for row in verdict.variants}
        if spec.task is Task.ANOMALY:
            for name, form in forms.items():
                rows[name]["roc_area"] = _roc_area(form, held_out.items, held_out.labels)
        return {
            "held_out": len(held_out.labels),
            "forms": rows,
            "chosen": judged.judgement.chosen,
            "is_passed": verdict.is_passed,
            "reasons": [reason.text for reason in verdict.reasons],
            "judging": judged.cost.told(),
            **({"tuning_error": judged.tuning_error} if judged.tuning_error else {}),
        }

    def _detector(self, member: Member, source: Source, run: TrainedRun) -> dict[str, Any]:
        """Measure a detector's forms here: the gate counts no boxes."""
        spec, settings, network = source.spec, GateSettings(), member.network()
        made = export(spec, network, run.weights, None, settings.export)
        judged = judge_forms(spec, network, run.weights, made, None, settings)
        spec = judged.spec
        manifest = self.workshop.manifest(source.version)
        arrays = load_arrays(self.workshop.objects, manifest, spec)
        numbers = parts_of(manifest)
        test = np.flatnonzero(numbers == 2)
        fp32 = open_form(judged.forms["fp32"], spec)
        calibration = fp32.tensors(arrays.items[np.flatnonzero(numbers == 0)[:CALIBRATION_ITEMS]])
        files, errors = dict(judged.forms), {}
        makers: dict[str, Callable[[], bytes]] = {
            "int8": lambda: quantize_static(judged.forms["fp32"], calibration),
            "int8-dynamic": lambda: quantize_dynamic(judged.forms["fp32"]),
        }
        for name, make in makers.items():
            try:
                found = inspect_model(make(), opset_min=OPSET_MIN)
            except RefusedError as error:
                errors[name] = error.message
                continue
            if found.facts.precision == "fp32":
                errors[name] = "Nothing in the model can be quantized this way."
            else:
                files[name] = found.model_bytes
        rows = _detector_rows(files, spec, arrays, test)
        rows |= {name: {"text": text} for name, text in errors.items()}
        return {
            "held_out": len(test),
            "forms": rows,
            "chosen": judged.judgement.chosen,
            "is_passed": judged.judgement.verdict.is_passed,
            "reasons": [remark.text for remark in judged.judgement.verdict.remarks],
            "judging": judged.cost.told(),
        }

    def _with_threshold(self, spec: ModelSpec, model: bytes, version: DatasetVersion) -> ModelSpec:
        """Return the spec with a threshold from the validation part, as a person would set it."""
        manifest = self.workshop.manifest(version)
        arrays = load_arrays(self.workshop.objects, manifest, spec)
        chosen = np.flatnonzero(parts_of(manifest) == 1)
        scores = _anomaly_scores(open_form(model, spec), arrays.items[chosen])
        normal = scores[arrays.labels[chosen] == 0]
        threshold = float(np.quantile(normal, 1.0 - FALSE_RATE, method="higher"))
        output = msgspec.structs.replace(spec.output, threshold=threshold)
        return msgspec.structs.replace(spec, output=output)

    def _evaluation(self, version: DatasetVersion, spec: ModelSpec) -> bytes:
        """Return the gate's set of the test part; of texts made here, for the hub makes none."""
        if not isinstance(spec.input, TextInput):
            return self.workshop.evaluation_set(version, spec, items_max=EVALUATION_ITEMS)
        manifest = self.workshop.manifest(version)
        chosen = [i for i, item in enumerate(manifest.items) if item.part is Part.TEST]
        texts = [self.workshop.datasets.item_bytes(manifest, i)[:TEXT_BYTES] for i in chosen]
        items = np.zeros((len(texts), TEXT_BYTES), np.uint8)
        for row, text in zip(items, texts, strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)
        classes = spec.output.classes
        labels = [classes.index(manifest.classes[manifest.items[i].label or 0]) for i in chosen]
        file = io.BytesIO()
        np.savez(file, items=items, labels=np.array(labels))
        return file.getvalue()


def _row(row: VariantRow, times: dict[str, float] | None) -> dict[str, Any]:
    return {
        "is_chosen": row.is_chosen,
        "text": row.text,
        "bytes": row.artifact_bytes,
        "accuracy": None if row.accuracy is None else round(row.accuracy, 4),
        "agreement": None if row.agreement is None else round(row.agreement, 4),
        "gate_latency_ms": None if row.latency_ms is None else round(row.latency_ms, 4),
        **(times or {}),
    }


def _times(forms: Mapping[str, Form], items: Array) -> dict[str, dict[str, float]]:
    """Return median and 95th percentile of one item, ms; each turn begins with another form."""
    names = list(forms)
    taken_ms: dict[str, list[float]] = {name: [] for name in names}
    started_s = time.perf_counter()
    for turn in range(TIMED_TURNS):
        if turn > TIMED_ITEMS and time.perf_counter() - started_s > TIMED_S_MAX:
            break
        item = items[turn % len(items)][None]
        for place_in_turn in range(len(names)):
            name = names[(turn + place_in_turn) % len(names)]
            before_s = time.perf_counter()
            forms[name].run(item)
            taken_ms[name].append((time.perf_counter() - before_s) * 1000)
    return {
        name: {
            "ms_median": round(statistics.median(values), 4),
            "ms_p95": round(float(np.percentile(values, 95)), 4),
        }
        for name, values in taken_ms.items()
    }


def _anomaly_scores(form: Form, items: Array) -> NDArray[np.float64]:
    scores = np.empty(len(items))
    for index, item in enumerate(items):
        batch = to_tensor(item, form.spec)
        scores[index] = anomaly_score(form.run(batch), batch, form.spec)
    return scores


def _roc_area(form: Form, items: Array, labels: NDArray[np.int64]) -> float | None:
    is_anomalous = labels >= 1
    is_both = is_anomalous.any() and not is_anomalous.all()
    return round(roc_area(_anomaly_scores(form, items), is_anomalous), 4) if is_both else None


def _detector_rows(
    files: Mapping[str, bytes], spec: ModelSpec, arrays: Arrays, test: NDArray[np.intp]
) -> dict[str, dict[str, Any]]:
    """Return mean average precision, agreement of boxes with fp32's (F1), size and times."""
    assert arrays.boxes is not None, "it is a detection"
    assert isinstance(spec.input, ImageInput)
    true = [arrays.boxes[index] for index in test]
    known = [boxes for boxes in true if boxes is not None]
    whole = place(spec.input.width, spec.input.height, spec.input)
    forms = {name: Form(*open_run(data), spec) for name, data in files.items()}
    items = forms["fp32"].tensors(arrays.items[test])
    times = _times(forms, items[:TIMED_ITEMS])
    rows: dict[str, dict[str, Any]] = {}
    first: list[Boxes] = []
    for name, form in forms.items():
        outputs = [form.run(item[None]) for item in items]
        found = [
            detected_boxes(o, spec, placement=whole, confidence_min=CONFIDENCE_MIN) for o in outputs
        ]
        sure = [detected_boxes(o, spec, placement=whole) for o in outputs]
        first = first or sure
        classes_count = len(spec.output.classes)
        rows[name] = {
            "bytes": len(files[name]),
            "map": round(mean_average_precision(found, known, classes_count=classes_count), 4),
            "agreement": round(f1_boxes(sure, first), 4),
            **times[name],
        }
    return rows


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in metrics.items()}


def _print_table(told: Mapping[str, Mapping[str, Any]]) -> None:
    tell(f"{'member':20}{'form':14}{'right':>7}{'agree':>7}{'kB':>9}{'ms':>8}{'p95':>8}  choice")
    for member, facts in told.items():
        for form, row in facts["forms"].items():
            right = row.get("map", row.get("accuracy"))
            cells = (
                _cell(right, 4),
                _cell(row.get("agreement"), 3),
                _cell(row["bytes"] / 1000 if row.get("bytes") else None, 1, 9),
                _cell(row.get("ms_median"), 3, 8),
                _cell(row.get("ms_p95"), 3, 8),
            )
            star = "* " if form == facts["chosen"] else "  "
            tell(f"{member:20}{form:14}{''.join(cells)}{star}{row.get('text', '')}")


def _cell(value: float | None, digits: int, width: int = 7) -> str:
    return "-".rjust(width) if value is None else f"{value:.{digits}f}".rjust(width)


if __name__ == "__main__":
    main()
