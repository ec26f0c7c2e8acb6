"""Starts the examining process and brings back what it measured, however it ends."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates.examination import (
    Examination,
    ExaminationLimits,
    ExaminationTask,
)
from cloud_hub.candidates.gate import GateSettings
from cloud_hub.process_limits import START_S, run_to_end, temporary_folder
from shared.model.spec import ModelSpec

PROCESS = "cloud_hub.candidates.onnx_examination"


@dataclass(frozen=True, slots=True)
class Beside:
    """What a model is measured with: all of it may be missing."""

    evaluation_bytes: bytes | None = None
    old_spec: ModelSpec | None = None  # Of the release it would replace
    old_bytes: bytes = b""
    old_tokenizer_bytes: bytes | None = None
    pruned_bytes: bytes = b""  # Further fp32 forms, from the export process
    tuned_bytes: bytes = b""
    tokenizer_bytes: bytes | None = None  # Of a text model that has one


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a model, as it may be published if the gate lets it through."""

    model_bytes: bytes
    golden_bytes: bytes


@dataclass(frozen=True, slots=True)
class Examined:
    """What was measured, and the bytes that may be published if the gate lets them through."""

    examination: Examination
    model_bytes: bytes
    golden_bytes: bytes
    further: Mapping[str, Form] = field(default_factory=dict)  # By the name of the form


def examine(
    model_bytes: bytes,
    spec: ModelSpec,
    golden_bytes: bytes | None,
    settings: GateSettings,
    beside: Beside | None = None,
    *,
    is_folded: bool = True,
) -> Examined:
    """Return what an examining process measured of an uploaded model.

    `is_folded` is what the upload asked for; the settings may forbid it. Raises TransientError
    `disk.write_failed` if the disk for temporary files is full.
    """
    beside = beside or Beside()
    has_set = beside.evaluation_bytes is not None
    seconds_max = settings.examination_s_max + (settings.evaluation_s_max if has_set else 0)
    limits = ExaminationLimits(
        memory_bytes_max=settings.examination_memory_bytes_max,
        seconds_max=seconds_max,
        opset_min=settings.opset_min,
        golden_items=settings.golden_items,
        timing_rounds=settings.timing_rounds,
        is_int8_built=settings.variants.is_int8_built,
        is_folded=is_folded and settings.is_folded,
        processor_forms_bytes_min=settings.variants.processor_forms_bytes_min,
        calibration_agreement_enough=settings.variants.calibration_agreement_enough,
    )
    with temporary_folder("isthmus-examination-") as folder:
        task = ExaminationTask(spec=spec, limits=limits, old_spec=beside.old_spec)
        (folder / files.TASK).write_bytes(msgspec.json.encode(task))
        (folder / files.MODEL).write_bytes(model_bytes)
        if golden_bytes is not None:
            (folder / files.GOLDEN).write_bytes(golden_bytes)
        _write_beside(folder, beside)
        crash = run_to_end(PROCESS, folder, seconds_max=seconds_max + START_S)
        if os.strerror(errno.ENOSPC) in crash:  # The disk's fault, not the model's
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if crash:
            return Examined(Examination(crash=crash), b"", b"")
        return _read(folder)


def _write_beside(folder: Path, beside: Beside) -> None:
    given = {
        files.EVALUATION: beside.evaluation_bytes,
        files.OLD: beside.old_bytes,
        files.OLD_TOKENIZER: beside.old_tokenizer_bytes,
        files.PRUNED: beside.pruned_bytes,
        files.TUNED: beside.tuned_bytes,
        files.TOKENIZER: beside.tokenizer_bytes,
    }
    for name, data in given.items():
        if data:
            (folder / name).write_bytes(data)


def _read(folder: Path) -> Examined:
    examination = msgspec.json.decode((folder / files.RESULT).read_bytes(), type=Examination)
    evaluation = examination.evaluation
    names = [one.name for one in evaluation.variants] if evaluation is not None else []
    further = {
        name: Form(
            (folder / files.variant_model(name)).read_bytes(),
            (folder / files.variant_golden(name)).read_bytes(),
        )
        for name in names
        if (folder / files.variant_golden(name)).exists()
    }
    model, golden = folder / files.PUBLISHED_MODEL, folder / files.PUBLISHED_GOLDEN
    return Examined(
        examination,
        model.read_bytes() if model.exists() else b"",
        golden.read_bytes() if golden.exists() else b"",
        further,
    )
