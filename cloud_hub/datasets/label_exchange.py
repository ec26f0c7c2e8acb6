"""LabelExchange: a dataset's labels out to a label tool and back, as files.

1. An export is made on the disk and is gone when whoever asked has it; EXPORTS_MAX at a time.
2. What comes back is read in a process of its own, and only what differs from the newest version
   makes a new one.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloud_hub.datasets.dataset import DatasetVersion
from cloud_hub.datasets.label_tools.file_export import export_labels
from cloud_hub.datasets.label_tools.label_files import LabelResult, ToldProblem
from cloud_hub.datasets.label_tools.labelled import LabelTool
from cloud_hub.datasets.label_tools.process_labels_back import read_labels
from cloud_hub.datasets.manifest import Item, Part
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.relabelling import LabelChange
from cloud_hub.datasets.service import DatasetService
from shared.errors import RefusedError, TransientError

EXPORTS_MAX = 2  # At a time, in this process
_exports = threading.BoundedSemaphore(EXPORTS_MAX)


@dataclass(frozen=True, slots=True)
class Exported:
    """One export on the disk."""

    file: Path
    name: str  # That a person may give it
    version: DatasetVersion
    items_count: int


@dataclass(frozen=True, slots=True)
class Returned:
    """What came of labels that came back."""

    version: DatasetVersion  # The new one; the newest where nothing changed
    changed_count: int
    unchanged_count: int
    problems: tuple[ToldProblem, ...]
    problems_count: int


class LabelExchange:
    """See the rules above."""

    def __init__(self, datasets: DatasetService) -> None:
        self._datasets = datasets

    @contextmanager
    def export(
        self,
        name: str,
        tool: LabelTool,
        *,
        version: int | None = None,
        part: Part | None = None,
        is_labelled: bool | None = None,
    ) -> Iterator[Exported]:
        """Give a .zip for a tool, gone at the end.

        Args:
            name: of the dataset.
            tool: for which.
            version: None for the newest.
            part: only its items.
            is_labelled: only items that are labelled, or only those that are not.

        Raises RefusedError `dataset.unknown`, `dataset.label_tool`, `dataset.export_empty`,
        `dataset.export_too_many`; TransientError `dataset.export_busy`, `dataset.export_failed`.
        """
        found = self._datasets.version(name, version)
        manifest = self._datasets.manifest(found)
        chosen = [
            index
            for index, item in enumerate(manifest.items)
            if part in (None, item.part) and is_labelled in (None, _is_labelled(item))
        ]
        if not chosen:
            raise RefusedError(
                "dataset.export_empty",
                f"No item of {name} is like that.",
                remedy="Choose another part, or all items.",
            )
        if not _exports.acquire(blocking=False):
            raise TransientError(
                "dataset.export_busy",
                f"{EXPORTS_MAX} exports are being made.",
                remedy="Try again when they are done.",
            )
        try:
            with self._datasets.room() as folder:
                file = folder / "labels.zip"
                count = export_labels(
                    tool,
                    manifest,
                    lambda index: self._datasets.item_bytes(manifest, index),
                    file,
                    indices=chosen,
                )
                told = f"{name}-{found.version}-{tool}.zip"
                yield Exported(file, told, found, count)
        finally:
            _exports.release()

    def bring_back(self, name: str, tool: LabelTool, file: Path, *, by: str) -> Returned:
        """Return what a tool's file changes in the newest version, which it makes a new one of.

        Raises ContractError `dataset.layout`, `dataset.archive`, `dataset.label`; RefusedError
        `dataset.unknown`, `dataset.labels_failed`, `dataset.too_many`; TransientError.
        """
        newest = self._datasets.version(name)
        with self._datasets.room() as folder:
            told = read_labels(tool, file, self._datasets.manifest(newest), folder)
        changes = changes_told(told)
        made = self._datasets.relabel(name, changes, by=by) if changes else newest
        return Returned(
            version=made,
            changed_count=len(changes),
            unchanged_count=told.unchanged_count,
            problems=told.problems,
            problems_count=told.problems_count,
        )


def changes_told(told: LabelResult) -> dict[str, LabelChange]:
    """Return what a file changes as relabelling takes it."""
    changes: dict[str, LabelChange] = dict(told.classes)
    for digest, boxes in told.boxes.items():
        changes[digest] = tuple(
            RawBox(box.class_name, box.left, box.top, box.right, box.bottom) for box in boxes
        )
    return changes


def _is_labelled(item: Item) -> bool:
    return item.label is not None or item.boxes is not None
