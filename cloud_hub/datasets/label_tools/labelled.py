"""Labelled: what a label tool says of one picture, message or window. Values only.

Every format here is read into these and written from these; a tool that cannot say something says
so in its own file.
"""

from dataclasses import dataclass
from enum import StrEnum

from cloud_hub.datasets.raw_item import RawBox


class LabelTool(StrEnum):
    """What labels come from or go to."""

    LABEL_STUDIO = "label-studio"
    CVAT = "cvat"
    COCO = "coco"
    YOLO = "yolo"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One item as a tool knows it."""

    file: str  # Its name there; ours end in the item's digest (see item_names.py)
    width: int = 0  # Of a picture, in pixels; 0: not told
    height: int = 0
    label: str | None = None
    boxes: tuple[RawBox, ...] | None = None  # As label None: nobody has labelled it
    text: str | None = None  # A message that the file itself holds
    # The tool cannot tell a picture without objects from one that nobody looked at.
    is_unsure: bool = False
    problem: str = ""  # Why its labels cannot be used


@dataclass(frozen=True, slots=True)
class LabelFile:
    """All that one file of a tool says."""

    classes: tuple[str, ...]
    items: tuple[Labelled, ...]
