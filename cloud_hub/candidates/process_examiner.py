"""Starts the examining process and brings back what it measured, however it ends."""

import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cloud_hub.candidates import examination_files as files
from cloud_hub.candidates.examination import (
    Examination,
    ExaminationLimits,
    ExaminationTask,
)
from cloud_hub.candidates.gate import GateSettings
from shared.model.spec import ModelSpec

PROCESS = "cloud_hub.candidates.onnx_examination"
STDERR_CHARS_MAX = 300
START_S = 30  # Given to the process on top of its own limit, to start and to write


@dataclass(frozen=True, slots=True)
class Examined:
    """What was measured, and the bytes that may be published if the gate lets them through."""

    examination: Examination
    model_bytes: bytes
    golden_bytes: bytes


def examine(
    model_bytes: bytes, spec: ModelSpec, golden_bytes: bytes | None, settings: GateSettings
) -> Examined:
    """Return what an examining process measured of an uploaded model."""
    limits = ExaminationLimits(
        memory_bytes_max=settings.examination_memory_bytes_max,
        seconds_max=settings.examination_s_max,
        opset_min=settings.opset_min,
        golden_items=settings.golden_items,
    )
    with tempfile.TemporaryDirectory(prefix="isthmus-examination-") as name:
        folder = Path(name)
        task = ExaminationTask(spec=spec, limits=limits)
        (folder / files.TASK).write_bytes(msgspec.json.encode(task))
        (folder / files.MODEL).write_bytes(model_bytes)
        if golden_bytes is not None:
            (folder / files.GOLDEN).write_bytes(golden_bytes)
        crash = _run(folder, seconds_max=settings.examination_s_max + START_S)
        if crash:
            return Examined(Examination(crash=crash), b"", b"")
        return _read(folder)


def _run(folder: Path, *, seconds_max: float) -> str:
    """Run the process to its end; return how it died, or ""."""
    command = [sys.executable, "-m", PROCESS, str(folder)]
    try:
        done = subprocess.run(
            command,
            check=False,
            timeout=seconds_max,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {seconds_max:.0f} s"
    if done.returncode == 0:
        return ""
    if done.returncode == -signal.SIGXCPU:
        return "it used all the processor time it may"
    if done.returncode < 0:
        return f"the process died of {signal.Signals(-done.returncode).name}"
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
    return lines[-1][:STDERR_CHARS_MAX]


def _read(folder: Path) -> Examined:
    examination = msgspec.json.decode((folder / files.RESULT).read_bytes(), type=Examination)
    model, golden = folder / files.PUBLISHED_MODEL, folder / files.PUBLISHED_GOLDEN
    return Examined(
        examination,
        model.read_bytes() if model.exists() else b"",
        golden.read_bytes() if golden.exists() else b"",
    )
