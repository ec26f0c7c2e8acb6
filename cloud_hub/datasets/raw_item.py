"""RawItem: one item as a reader found it, before it is checked, packed and put into a part.

1. A reader yields items in an order that is the same for the same source, and never holds more than
   one item's bytes at a time.
2. What cannot be read is yielded as Broken and counted in the cleaning report; it never stops an
   import. Only a source that is not what it was said to be at all raises ContractError.
3. Labels and boxes carry class names; which index a class has is the dataset's business.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cloud_hub.datasets.manifest import ItemKind, Part


@dataclass(frozen=True, slots=True)
class RawBox:
    """One object: class name and corners as shares of the picture, 0..1."""

    class_name: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class RawItem:
    """See the rules above; the fields are those of manifest.Item."""

    data: bytes  # As manifest.py's rule 2 says for the kind
    name: str
    label: str | None = None
    boxes: tuple[RawBox, ...] | None = None
    device: str = ""
    site: str = ""
    captured_ms: int | None = None
    group: str = ""
    part: Part | None = None  # Where the source itself says so ("train/", "val/", "test/")


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that should be an item and is not."""

    name: str
    reason: str


class Reader(Protocol):
    """One source of items."""

    @property
    def kind(self) -> ItemKind:
        """What the items are."""
        ...

    @property
    def window_shape(self) -> tuple[int, ...]:
        """(T, C) of windows; () of all else."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Those the source names, in its order; () if only its items tell."""
        ...

    def items(self) -> Iterator[RawItem | Broken]:
        """Yield every item. Raises ContractError where the source is not of this layout."""
        ...
