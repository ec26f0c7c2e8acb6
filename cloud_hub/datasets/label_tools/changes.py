"""What a label tool's file changes in a version. Pure.

1. Only items whose label or boxes differ are changed: boxes that moved by less than SAME_SHARE are
   the same boxes, whatever a tool rounds, and keep every digit.
2. Where a tool cannot tell "nothing is to be seen" from "nobody looked", an item nobody has
   labelled stays so.
3. What cannot be used, is no item here, or could be several, is told and changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_hub.datasets.cleaning_boxes import clean_boxes
from cloud_hub.datasets.label_tools.item_names import SEVERAL, ItemNames
from cloud_hub.datasets.label_tools.labelled import LabelFile, Labelled
from cloud_hub.datasets.manifest import Item, ItemKind, Manifest
from cloud_hub.datasets.raw_item import Broken, RawBox

SAME_SHARE = 1e-4  # CVAT rounds to hundredths of a pixel
PROBLEMS_MAX = 1_000  # That are told by name

Answer = str | tuple[RawBox, ...] | None  # A class, boxes, or: nobody has labelled it


@dataclass(frozen=True, slots=True)
class LabelChanges:
    """What to relabel, by the items' digests, and what came to nothing."""

    changes: Mapping[str, Answer]
    unchanged_count: int
    problems: tuple[Broken, ...]  # At most PROBLEMS_MAX
    problems_count: int


def changes_of(file: LabelFile, manifest: Manifest) -> LabelChanges:
    """Return what a tool's file changes in a version; see the rules above."""
    names = ItemNames(manifest.items)
    items = {item.digest: item for item in manifest.items}
    takes_boxes = _takes_boxes(manifest)
    found: dict[str, Answer] = {}
    seen: dict[str, Answer] = {}
    problems: list[Broken] = []
    for labelled in file.items:
        digest = names.digest(labelled.file, labelled.text)
        answer = _answer(labelled, items.get(digest or ""))
        if answer == () and not takes_boxes:
            answer = None  # Submitted without a class: nobody has labelled it
        problem = _problem(labelled, digest)
        if not problem and digest is not None and seen.setdefault(digest, answer) != answer:
            problem = "is there twice, labelled differently; the first counts"
        if problem or digest is None:
            problems.append(Broken(labelled.file[:120], problem))
        elif not _is_same(answer, labelled, items[digest], manifest.classes):
            found[digest] = answer
    return LabelChanges(
        found, len(seen) - len(found), tuple(problems[:PROBLEMS_MAX]), len(problems)
    )


def boxes_of(item: Item, classes: tuple[str, ...]) -> tuple[RawBox, ...] | None:
    """Return an item's boxes with the names of their classes."""
    if item.boxes is None:
        return None
    return tuple(
        RawBox(classes[box.class_index], box.left, box.top, box.right, box.bottom)
        for box in item.boxes
    )


def _takes_boxes(manifest: Manifest) -> bool:
    """Return whether items have boxes, not classes, as far as their labels tell."""
    has_classes = any(item.label is not None for item in manifest.items)
    has_boxes = any(item.boxes is not None for item in manifest.items)
    return manifest.kind is ItemKind.IMAGE and (has_boxes or not has_classes)


def _problem(labelled: Labelled, digest: str | None) -> str:
    if labelled.problem:
        return labelled.problem
    if digest is None:
        return "is no item of this version"
    return "could be several items: their names are the same" if digest == SEVERAL else ""


def _answer(labelled: Labelled, item: Item | None) -> Answer:
    if labelled.label is not None:
        return labelled.label
    if labelled.is_unsure and item is not None and item.label is not None:
        return None  # Its class was taken away; boxes it never had
    return None if labelled.boxes is None else clean_boxes(labelled.boxes)


def _is_same(answer: Answer, labelled: Labelled, item: Item, classes: tuple[str, ...]) -> bool:
    label = None if item.label is None else classes[item.label]
    boxes = boxes_of(item, classes)
    if labelled.is_unsure and not answer:
        return not boxes and label is None  # Rule 2; what was taken away is a change
    match answer:
        case None:
            return label is None and boxes is None
        case str():
            return label == answer
        case tuple():
            return boxes is not None and _are_same(answer, boxes)


def _are_same(some: tuple[RawBox, ...], others: tuple[RawBox, ...]) -> bool:
    if len(some) != len(others):
        return False
    # Tools keep the order as a rule; sorting alone could pair wrongly what rounding moved.
    return _are_same_in_order(some, others) or _are_same_in_order(
        sorted(some, key=_key), sorted(others, key=_key)
    )


def _are_same_in_order(some: Sequence[RawBox], others: Sequence[RawBox]) -> bool:
    return all(_is_same_box(one, other) for one, other in zip(some, others, strict=True))


def _key(box: RawBox) -> tuple[str, float, float, float, float]:
    return (box.class_name, box.left, box.top, box.right, box.bottom)


def _is_same_box(one: RawBox, other: RawBox) -> bool:
    sides = ("left", "top", "right", "bottom")
    return one.class_name == other.class_name and all(
        abs(getattr(one, side) - getattr(other, side)) <= SAME_SHARE for side in sides
    )
