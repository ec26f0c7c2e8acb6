"""Names and shapes of what the hub and the process that reads a label tool's file exchange."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.datasets.label_tools.labelled import LabelTool
from cloud_hub.datasets.making import Problem
from shared.wire.limits import Digest

TASK = "labels-task.json"  # LabelTask
MANIFEST = "manifest.json"  # Of the version whose labels come back; see datasets/manifest.py
RESULT = "labels.json"  # LabelResult; written last
SECONDS_MAX = 600  # Of processor time
MEMORY_BYTES_MAX = 4 << 30
UNPACKED_BYTES_MAX = 64 << 30  # The pictures may come back too; they go to the disk, and away


class LabelTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the process is asked: this file of this tool."""

    tool: LabelTool
    source: Annotated[str, Meta(min_length=1, max_length=4096)]  # A file
    is_archive: bool
    manifest: Digest  # Of MANIFEST


class ToldBox(msgspec.Struct, frozen=True):
    """One object; as raw_item.RawBox."""

    class_name: str
    left: float
    top: float
    right: float
    bottom: float


class ToldProblem(msgspec.Struct, frozen=True):
    """Something in the file that changes nothing, and why."""

    name: str
    reason: str


class LabelResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the file changes; `problem` says why nothing could be read."""

    classes: Mapping[str, str | None] = {}  # By item digest
    boxes: Mapping[str, tuple[ToldBox, ...]] = {}
    unchanged_count: int = 0
    problems: tuple[ToldProblem, ...] = ()
    problems_count: int = 0
    problem: Problem | None = None
