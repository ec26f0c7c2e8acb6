"""The examining process: `python -m cloud_hub.candidates.onnx_examination FOLDER`.

An uploaded model is a program from a stranger, read by C++ parsers: it is opened here, in a
process with a limit on memory and processor time, never in the hub. FOLDER holds task.json,
model.onnx and perhaps golden.npz; this writes published.onnx, published.npz and, last,
examination.json. Nothing else is read or written.
"""

import resource
import sys
from pathlib import Path

import msgspec

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates import gate
from cloud_hub.candidates.examination import Examination, ExaminationTask
from cloud_hub.candidates.onnx_evaluation import evaluate
from cloud_hub.candidates.onnx_inspection import inspect_model
from shared.errors import ContractError
from shared.release.golden import GoldenSet, decode_golden


def examine(folder: Path) -> Examination:
    """Return what is measured of the model in `folder`, and write its publishable files there."""
    task = msgspec.json.decode((folder / files.TASK).read_bytes(), type=ExaminationTask)
    limits = task.limits
    _limit(limits.memory_bytes_max, limits.seconds_max)
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
    return Examination(model=inspection.facts, run=evaluation.facts)


def _golden(folder: Path) -> GoldenSet | None:
    path = folder / files.GOLDEN
    return decode_golden(path.read_bytes()) if path.exists() else None


def _limit(memory_bytes_max: int, seconds_max: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds_max, seconds_max + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Examine the model in the folder named on the command line."""
    folder = Path(sys.argv[1])
    examination = examine(folder)
    (folder / files.RESULT).write_bytes(msgspec.json.encode(examination))


if __name__ == "__main__":
    main()
