"""Starts the export process (torch_export.py) and brings back what it made."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloud_hub.candidates import export_files as files
from cloud_hub.candidates.export_files import (
    ExportResult,
    ExportSettings,
    ExportTask,
    ParityFacts,
    Work,
)
from cloud_hub.process_limits import START_S, run_to_end, temporary_folder
from shared.errors import ContractError, RefusedError
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec

PROCESS = "cloud_hub.candidates.torch_export"
WEIGHTS_FILE_BYTES_MAX = 2 << 30  # As shared/model/weights.py, which imports numpy


@dataclass(frozen=True, slots=True)
class CheckedWeights:
    """Weights that fit their network, in the order of its state."""

    weights_bytes: bytes
    weights_digest: str
    parameters_count: int


@dataclass(frozen=True, slots=True)
class Exported:
    """A checkpoint as ONNX files."""

    model_bytes: bytes
    parity: ParityFacts
    pruned_bytes: bytes  # Empty where none was asked for, or `pruned_error` says why not
    pruned_error: str


@dataclass(frozen=True, slots=True)
class Tuned:
    """An fp32 model whose weights were tuned to lie on int8's grid; see torch_tuning.py."""

    model_bytes: bytes  # Empty where `error` says why not
    error: str


def check_weights(
    spec: ModelSpec, network: NetworkSpec, weights_bytes: bytes | None, settings: ExportSettings
) -> CheckedWeights:
    """Return weights as their network has them; fresh ones where none are given.

    Raises ContractError `weights.too_large`, `weights.invalid`, `weights.misfit` or
    `network.unfit`, RefusedError `export.failed`.
    """
    if weights_bytes is not None and len(weights_bytes) > WEIGHTS_FILE_BYTES_MAX:
        raise ContractError(
            "weights.too_large",
            f"The weights have {len(weights_bytes)} bytes, over {WEIGHTS_FILE_BYTES_MAX}.",
            remedy="Choose a smaller network.",
        )
    task = ExportTask(work=Work.CHECK, spec=spec, network=network, settings=settings)
    with temporary_folder("isthmus-export-") as folder:
        result = _run(folder, task, weights_bytes, None)
        return CheckedWeights(
            weights_bytes=(folder / files.CHECKED).read_bytes(),
            weights_digest=result.weights_digest,
            parameters_count=result.parameters_count,
        )


def export(
    spec: ModelSpec,
    network: NetworkSpec,
    weights_bytes: bytes,
    evaluation_bytes: bytes | None,
    settings: ExportSettings,
) -> Exported:
    """Return weights as an ONNX model, compared with torch. Raises as `check_weights`."""
    task = ExportTask(work=Work.EXPORT, spec=spec, network=network, settings=settings)
    with temporary_folder("isthmus-export-") as folder:
        result = _run(folder, task, weights_bytes, evaluation_bytes)
        assert result.parity is not None, "an export is compared"
        return Exported(
            model_bytes=(folder / files.MODEL).read_bytes(),
            parity=result.parity,
            pruned_bytes=_read(folder / files.PRUNED),
            pruned_error=result.pruned_error,
        )


def tune(
    spec: ModelSpec,
    network: NetworkSpec,
    weights_bytes: bytes,
    evaluation_bytes: bytes,
    settings: ExportSettings,
) -> Tuned:
    """Return weights tuned for int8 on a set's calibration part. Raises as `check_weights`."""
    task = ExportTask(work=Work.TUNE, spec=spec, network=network, settings=settings)
    with temporary_folder("isthmus-export-") as folder:
        result = _run(folder, task, weights_bytes, evaluation_bytes)
        return Tuned(_read(folder / files.TUNED), result.tuned_error)


def _run(
    folder: Path, task: ExportTask, weights_bytes: bytes | None, evaluation_bytes: bytes | None
) -> ExportResult:
    (folder / files.TASK).write_bytes(msgspec.json.encode(task))
    if weights_bytes is not None:
        (folder / files.WEIGHTS).write_bytes(weights_bytes)
    if evaluation_bytes is not None:
        (folder / files.EVALUATION).write_bytes(evaluation_bytes)
    crash = run_to_end(PROCESS, folder, seconds_max=task.settings.export_s_max + START_S)
    if crash:
        raise RefusedError(
            "export.failed",
            f"The network could not be built or exported: {crash}.",
            remedy="Try a smaller network, or raise releases.gate.export's limits.",
        )
    result = msgspec.json.decode((folder / files.RESULT).read_bytes(), type=ExportResult)
    if result.code:
        raise ContractError(result.code, result.error, remedy=result.remedy)
    return result


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
