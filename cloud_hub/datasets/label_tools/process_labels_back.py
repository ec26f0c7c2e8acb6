"""Starts the process that reads a label tool's file, and brings back what it changes."""

from pathlib import Path

import msgspec

from cloud_hub.datasets.file_archive import is_archive
from cloud_hub.datasets.label_tools.label_files import (
    MANIFEST,
    RESULT,
    SECONDS_MAX,
    TASK,
    LabelResult,
    LabelTask,
)
from cloud_hub.datasets.label_tools.labelled import LabelTool
from cloud_hub.datasets.manifest import Manifest, encode_manifest
from cloud_hub.datasets.process_import import raise_problem
from cloud_hub.process_limits import START_S, run_to_end
from shared.errors import RefusedError
from shared.release.digest import digest_of

PROCESS = "cloud_hub.datasets.label_tools.file_labels_back"


def read_labels(tool: LabelTool, file: Path, manifest: Manifest, folder: Path) -> LabelResult:
    """Return what a tool's file changes in a version; blocks for as long as it takes.

    Args:
        tool: whose.
        file: its own file, or an archive of its folder.
        manifest: of the version.
        folder: an empty one, which the caller removes.

    Raises ContractError `dataset.layout`, `dataset.archive`; RefusedError `dataset.labels_failed`
    if the process died.
    """
    data = encode_manifest(manifest)
    task = LabelTask(
        tool=tool,
        source=str(file.resolve()),
        is_archive=is_archive(file.name),
        manifest=digest_of(data),
    )
    (folder / TASK).write_bytes(msgspec.json.encode(task))
    (folder / MANIFEST).write_bytes(data)
    crash = run_to_end(PROCESS, folder, seconds_max=SECONDS_MAX + START_S)
    if crash:
        raise RefusedError(
            "dataset.labels_failed",
            f"Reading the labels failed: {crash}.",
            remedy="Bring them back in several smaller files.",
        )
    result = msgspec.json.decode((folder / RESULT).read_bytes(), type=LabelResult)
    if result.problem is not None:
        raise_problem(result.problem)
    return result
