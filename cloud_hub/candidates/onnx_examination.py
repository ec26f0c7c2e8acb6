"""The examining process: `python -m cloud_hub.candidates.onnx_examination FOLDER`.

An uploaded model is a program from a stranger, read by C++ parsers: it is opened here, in a
process with a limit on memory and processor time, never in the hub. FOLDER holds task.json,
model.onnx and perhaps golden.npz, evaluation.npz, old.onnx, pruned.onnx and tuned.onnx. A picture
model's preprocessing is put into its graph first (onnx_fold_parity.py). This writes published.onnx,
published.npz, a pair of files for each further form and, last, examination.json
(examination_files.py). Nothing else is read or written.
"""

import sys
from pathlib import Path

import msgspec

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates import gate
from cloud_hub.candidates.examination import (
    EvaluationFacts,
    Examination,
    ExaminationTask,
    RunFacts,
    VariantFacts,
)
from cloud_hub.candidates.folding import is_foldable
from cloud_hub.candidates.onnx_evaluation import evaluate
from cloud_hub.candidates.onnx_fold_parity import Folded, fold_examined
from cloud_hub.candidates.onnx_inspection import inspect_model
from cloud_hub.candidates.onnx_text_inputs import take_ids_only
from cloud_hub.candidates.onnx_variants import measure_variants, read_set
from cloud_hub.process_limits import limit_this_process
from shared.errors import ContractError, RefusedError
from shared.release.golden import GoldenSet, decode_golden


def examine(folder: Path) -> Examination:
    """Return what is measured of the model in `folder`, and write its publishable files there."""
    task = msgspec.json.decode((folder / files.TASK).read_bytes(), type=ExaminationTask)
    limits = task.limits
    limit_this_process(limits.memory_bytes_max, limits.seconds_max)
    uploaded = (folder / files.MODEL).read_bytes()
    text_error = ""
    try:
        uploaded = take_ids_only(uploaded, task.spec, folder / files.TOKENIZER)
    except (RefusedError, ContractError) as error:
        text_error = str(error)
    inspection = inspect_model(uploaded, opset_min=limits.opset_min)
    if text_error:
        return Examination(model=inspection.facts, run=RunFacts(error=text_error))
    try:
        golden = _golden(folder)
    except ContractError as error:
        return Examination(model=inspection.facts, golden_error=error.message)
    settings = gate.GateSettings(opset_min=limits.opset_min)
    if gate.model_reasons(inspection.facts, task.spec, settings):
        return Examination(model=inspection.facts)
    published = inspection.model_bytes
    evaluation = evaluate(uploaded, published, task.spec, golden=golden, items=limits.golden_items)
    came = Folded(inspection, evaluation, task.spec)
    found, fold_error = came, ""
    if limits.is_folded and is_foldable(task.spec, inspection.facts):
        found, fold_error = _fold(folder, came, golden)
    (folder / files.PUBLISHED_MODEL).write_bytes(found.inspection.model_bytes)
    (folder / files.PUBLISHED_GOLDEN).write_bytes(found.evaluation.golden_bytes)
    return Examination(
        model=inspection.facts,
        spec=found.spec if found is not came else None,
        fold_error=fold_error,
        run=found.evaluation.facts,
        evaluation=_measure(folder, task, found),
    )


def _fold(folder: Path, came: Folded, golden: GoldenSet | None) -> tuple[Folded, str]:
    """Return the model folded, or as it came with the reason why."""
    if gate.run_reasons(came.evaluation.facts, came.spec):
        return came, ""
    try:
        data = read_set(folder, came.spec)
        items = data.items if data is not None else None
    except ContractError:  # Said where it is measured
        items = None
    try:
        given = (came.inspection.model_bytes, came.spec, came.evaluation)
        return fold_examined(*given, golden=golden, items=items), ""
    except RefusedError as error:
        return came, error.message


def _measure(folder: Path, task: ExaminationTask, found: Folded) -> EvaluationFacts | None:
    """Return facts about all forms of the model, or None for one that may not be released."""
    inspection, evaluation = found.inspection, found.evaluation
    if gate.run_reasons(evaluation.facts, found.spec):
        return None
    first = VariantFacts(
        name=inspection.facts.precision,
        artifact_bytes=len(inspection.model_bytes),
        model=inspection.facts,
        run=evaluation.facts,
    )
    return measure_variants(folder, task, first, inspection.model_bytes, found.spec)


def _golden(folder: Path) -> GoldenSet | None:
    path = folder / files.GOLDEN
    return decode_golden(path.read_bytes()) if path.exists() else None


def main() -> None:
    """Examine the model in the folder named on the command line."""
    folder = Path(sys.argv[1])
    examination = examine(folder)
    (folder / files.RESULT).write_bytes(msgspec.json.encode(examination))


if __name__ == "__main__":
    main()
