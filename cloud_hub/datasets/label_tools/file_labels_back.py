"""The process that reads a label tool's file: `python -m … FOLDER`, see label_files.py.

Such files come from strangers: they are unpacked and parsed here, with limits on memory and
processor time, never in the hub.
"""

import sys
from pathlib import Path

import msgspec

from cloud_hub.datasets.file_archive import unpack
from cloud_hub.datasets.label_tools.changes import LabelChanges
from cloud_hub.datasets.label_tools.file_import import import_labels
from cloud_hub.datasets.label_tools.label_files import (
    MANIFEST,
    MEMORY_BYTES_MAX,
    RESULT,
    SECONDS_MAX,
    TASK,
    UNPACKED_BYTES_MAX,
    LabelResult,
    LabelTask,
    ToldBox,
    ToldProblem,
)
from cloud_hub.datasets.making import Problem
from cloud_hub.datasets.manifest import decode_manifest
from cloud_hub.process_limits import limit_this_process
from shared.errors import ContractError, IsthmusError

UNPACKED = "unpacked"  # In the folder of the task


def main() -> int:
    """Read the file that the task in the folder names."""
    folder = Path(sys.argv[1])
    limit_this_process(MEMORY_BYTES_MAX, SECONDS_MAX)
    try:
        result = _read(folder)
    except IsthmusError as error:
        result = _failed(error)
    except MemoryError:
        result = _failed(
            ContractError(
                "dataset.memory",
                "The file needs more memory than reading labels may use.",
                remedy="Bring labels back in several smaller files.",
            )
        )
    (folder / RESULT).write_bytes(msgspec.json.encode(result))
    return 0


def _read(folder: Path) -> LabelResult:
    task = msgspec.json.decode((folder / TASK).read_bytes(), type=LabelTask)
    manifest = decode_manifest((folder / MANIFEST).read_bytes(), digest=task.manifest)
    source = Path(task.source)
    if task.is_archive:
        (folder / UNPACKED).mkdir()
        source = unpack(source, folder / UNPACKED, bytes_max=UNPACKED_BYTES_MAX)
    return _told(import_labels(task.tool, source, manifest))


def _told(found: LabelChanges) -> LabelResult:
    classes: dict[str, str | None] = {}
    boxes: dict[str, tuple[ToldBox, ...]] = {}
    for digest, answer in found.changes.items():
        if isinstance(answer, tuple):
            boxes[digest] = tuple(
                ToldBox(box.class_name, box.left, box.top, box.right, box.bottom) for box in answer
            )
        else:
            classes[digest] = answer
    return LabelResult(
        classes=classes,
        boxes=boxes,
        unchanged_count=found.unchanged_count,
        problems=tuple(ToldProblem(one.name, one.reason) for one in found.problems),
        problems_count=found.problems_count,
    )


def _failed(error: IsthmusError) -> LabelResult:
    family = type(error).__name__
    return LabelResult(problem=Problem(family, error.code, error.message, error.remedy))


if __name__ == "__main__":
    sys.exit(main())
