"""The examining process: `python -m cloud_hub.candidates.onnx_examination FOLDER`.

An uploaded model is a program from a stranger, read by C++ parsers: it is opened here, in a
process with a limit on memory and processor time, never in the hub. FOLDER holds task.json,
model.onnx and perhaps golden.npz, evaluation.npz, old.onnx, pruned.onnx and tuned.onnx; this
writes published.onnx, published.npz, a pair of files for each further form and, last,
examination.json (examination_files.py). Nothing else is read or written.
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
    VariantFacts,
)
from cloud_hub.candidates.onnx_evaluation import Evaluation, evaluate
from cloud_hub.candidates.onnx_inspection import Inspection, inspect_model
from cloud_hub.candidates.onnx_variants import measure_variants
from cloud_hub.process_limits import limit_this_process
from shared.errors import ContractError
from shared.release.golden import GoldenSet, decode_golden


def examine(folder: Path) -> Examination:
    """Return what is measured of the model in `folder`, and write its publishable files there."""
    task = msgspec.json.decode((folder / files.TASK).read_bytes(), type=ExaminationTask)
    limits = task.limits
    limit_this_process(limits.memory_bytes_max, limits.seconds_max)
    uploaded = (folder / files.MODEL).read_bytes()
    inspection = inspect_model(uploaded, opset_min=limits.opset_min)
    try:
        golden = _golden(folder)
    except ContractError as error:
        return Examination(model=inspection.facts, golden_error=error.message)
    settings = gate.GateSettings(opset_min=limits.opset_min)
    if gate.model_reasons(inspection.facts, task.spec, settings):
        return Examination(model=inspection.facts)
    published = inspection.model_bytes
    evaluation = evaluate(uploaded, published, task.spec, golden=golden, items=limits.golden_items)
    (folder / files.PUBLISHED_MODEL).write_bytes(published)
    (folder / files.PUBLISHED_GOLDEN).write_bytes(evaluation.golden_bytes)
    return Examination(
        model=inspection.facts,
        run=evaluation.facts,
        evaluation=_measure(folder, task, inspection, evaluation),
    )


def _measure(
    folder: Path, task: ExaminationTask, inspection: Inspection, evaluation: Evaluation
) -> EvaluationFacts | None:
    """Return facts about all forms of the model, or None for one that may not be released."""
    if gate.run_reasons(evaluation.facts, task.spec):
        return None
    first = VariantFacts(
        name=inspection.facts.precision,
        artifact_bytes=len(inspection.model_bytes),
        model=inspection.facts,
        run=evaluation.facts,
    )
    return measure_variants(folder, task, first, inspection.model_bytes)


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
