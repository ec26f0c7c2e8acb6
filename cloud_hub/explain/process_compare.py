"""Starts the process that compares two models' answers (file_compare.py); brings back counts."""

import tempfile
from pathlib import Path

import msgspec

from cloud_hub.explain.paired import ANSWERS_OF, COMPARED, REPORTS, ComparedFile, Comparison
from cloud_hub.explain.report import Report
from cloud_hub.process_limits import START_S, run_to_end
from shared.errors import RefusedError

PROCESS = "cloud_hub.explain.file_compare"
SECONDS_MAX = 60.0


def compare_answers(reports: tuple[Report, Report], answers: tuple[bytes, bytes]) -> Comparison:
    """Return two models' answers to the same items, counted; takes half a second.

    Args:
        reports: on the same part of one dataset version.
        answers: their answers.npz.

    Raises:
        RefusedError: `explain.not_comparable`; `explain.failed`, the files are damaged or the
            process died.
    """
    with tempfile.TemporaryDirectory(prefix="isthmus-compare-") as name:
        folder = Path(name)
        for file, report in zip(REPORTS, reports, strict=True):
            (folder / file).write_bytes(msgspec.json.encode(report))
        for file, data in zip(ANSWERS_OF, answers, strict=True):
            (folder / file).write_bytes(data)
        crash = run_to_end(PROCESS, folder, seconds_max=SECONDS_MAX + START_S)
        if crash:
            raise _failed(crash)
        try:
            found = msgspec.json.decode((folder / COMPARED).read_bytes(), type=ComparedFile)
        except (OSError, msgspec.MsgspecError) as error:
            raise _failed(str(error)) from error
    if found.comparison is None:
        raise RefusedError(found.code, found.error, remedy=found.remedy)
    return found.comparison


def _failed(text: str) -> RefusedError:
    return RefusedError(
        "explain.failed",
        f"The answers could not be compared: {text}.",
        remedy="Train or explain both again.",
    )
