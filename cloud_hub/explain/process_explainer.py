"""Starts the explaining process (torch_explain.py) and brings back what it made."""

from pathlib import Path

import msgspec

from cloud_hub.explain import explain_files as files
from cloud_hub.explain.explain_files import ExplainResult, ExplainTask
from cloud_hub.explain.report import REPORT_BYTES_MAX, Report, decode_report
from cloud_hub.process_limits import START_S, run_to_end
from shared.errors import ContractError, RefusedError

PROCESS = "cloud_hub.explain.torch_explain"


def explain_checkpoint(folder: Path, task: ExplainTask, weights_bytes: bytes) -> Report:
    """Return the report on a checkpoint; report.json, answers and pictures lie in `folder`.

    Args:
        folder: exists and is the caller's; it holds the weights until the process is done.
        task: which model on which items.
        weights_bytes: of the checkpoint, .npz.

    Raises:
        ContractError: as the process had it: `weights.invalid`, `weights.misfit`, `dataset.kind`...
        RefusedError: `explain.failed`, the process died or took too much.
    """
    (folder / files.RESULT).unlink(missing_ok=True)
    (folder / files.TASK).write_bytes(msgspec.json.encode(task))
    (folder / files.WEIGHTS).write_bytes(weights_bytes)
    crash = run_to_end(PROCESS, folder, seconds_max=task.settings.explain_s_max + START_S)
    (folder / files.WEIGHTS).unlink()
    if crash:
        raise _failed(crash)
    try:
        result = msgspec.json.decode((folder / files.RESULT).read_bytes(), type=ExplainResult)
        if result.code:
            raise ContractError(result.code, result.error, remedy=result.remedy)
        return read_report(folder)
    except (OSError, msgspec.MsgspecError) as error:
        raise _failed(str(error)) from error


def read_report(folder: Path) -> Report:
    """Return a folder's report. Raises OSError, msgspec.MsgspecError or RefusedError."""
    path = folder / files.REPORT
    if path.stat().st_size > REPORT_BYTES_MAX:
        raise _failed(f"the report is over {REPORT_BYTES_MAX} bytes")
    answers = folder / files.ANSWERS
    if answers.stat().st_size > files.ANSWERS_BYTES_MAX:
        raise _failed(f"the answers are over {files.ANSWERS_BYTES_MAX} bytes")
    return decode_report(path.read_bytes())


def _failed(text: str) -> RefusedError:
    return RefusedError(
        "explain.failed",
        f"The checkpoint could not be explained: {text}.",
        remedy="Try a smaller dataset version, or raise the limits of explaining.",
    )
