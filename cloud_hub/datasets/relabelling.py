"""Relabelling: a manifest with other labels. Pure.

1. A change names an item by its digest; every item with those bytes gets it.
2. A change is a class name, boxes, or None: nobody has labelled it after all. A class that is not
   known yet becomes the dataset's next one.
"""

from collections.abc import Mapping

import msgspec

from cloud_hub.datasets.intake import clipped, share_of
from cloud_hub.datasets.manifest import BOXES_MAX, CLASSES_MAX, Box, Item, Manifest
from cloud_hub.datasets.raw_item import RawBox
from shared.errors import ContractError

CHANGES_MAX = 2_000_000

LabelChange = str | tuple[RawBox, ...] | None


def relabelled(manifest: Manifest, changes: Mapping[str, LabelChange]) -> Manifest:
    """Return a manifest with labels changed, keyed by the items' digests.

    Raises ContractError `dataset.item` (an item that is not there), `dataset.label`.
    """
    if len(changes) > CHANGES_MAX:
        raise ContractError("dataset.label", f"More than {CHANGES_MAX} labels at once.")
    missing = set(changes) - {item.digest for item in manifest.items}
    if missing:
        raise ContractError(
            "dataset.item",
            f"{manifest.dataset!r} has no item {min(missing)[:64]!r}.",
            remedy="Name items by their SHA-256, as the list of items says it.",
        )
    classes = _Classes(manifest.classes)
    items = tuple(
        _changed(item, changes[item.digest], classes) if item.digest in changes else item
        for item in manifest.items
    )
    return msgspec.structs.replace(manifest, items=items, classes=tuple(classes.names))


def count_changes(old: Manifest, new: Manifest) -> int:
    """Return how many items are labelled differently."""
    pairs = zip(old.items, new.items, strict=True)
    return sum((a.label, a.boxes) != (b.label, b.boxes) for a, b in pairs)


class _Classes:
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = list(names)
        self._numbers = {name: number for number, name in enumerate(names)}

    def index(self, name: str) -> int:
        if not name or clipped(name) != name:
            raise ContractError(
                "dataset.label",
                f"{name[:80]!r} is no name of a class.",
                remedy="Write 1 to 120 printable characters.",
            )
        found = self._numbers.setdefault(name, len(self.names))
        if found == len(self.names):
            if found >= CLASSES_MAX:
                raise ContractError("dataset.label", f"There are {CLASSES_MAX} classes already.")
            self.names.append(name)
        return found


def _changed(item: Item, change: LabelChange, classes: _Classes) -> Item:
    if change is None:
        return msgspec.structs.replace(item, label=None, boxes=None)
    if isinstance(change, str):
        return msgspec.structs.replace(item, label=classes.index(change))
    if len(change) > BOXES_MAX:
        raise ContractError("dataset.label", f"Over {BOXES_MAX} boxes on {item.name!r}.")
    return msgspec.structs.replace(item, boxes=tuple(_box(box, item, classes) for box in change))


def _box(raw: RawBox, item: Item, classes: _Classes) -> Box:
    left, top, right, bottom = map(share_of, (raw.left, raw.top, raw.right, raw.bottom))
    if left >= right or top >= bottom:
        raise ContractError(
            "dataset.label",
            f"A box on {item.name!r} has no area within the picture.",
            remedy="Give left, top, right, bottom as shares of the picture, 0 to 1.",
        )
    return Box(classes.index(raw.class_name), left, top, right, bottom)
