"""Intake: raw items to items of a manifest, one after the other. Pure but for where packs go.

1. Items with the same bytes are one item unless all are to be kept. The one that stays is in the
   part that is furthest from training: a test item that is also in the training part is not
   trained on.
2. Classes have the numbers they had in the version before, then those of the source's own list,
   then the order in which items name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from cloud_hub.datasets.manifest import (
    BOXES_MAX,
    CLASSES_MAX,
    ITEMS_MAX,
    Box,
    Item,
    Manifest,
    Part,
)
from cloud_hub.datasets.object_packs import PackWriter, Place
from cloud_hub.datasets.raw_item import RawBox, RawItem
from shared.errors import ContractError, RefusedError

TEXT_CHARS_MAX = 120  # Of a name, class, device, site or group
RANKS = MappingProxyType({None: 0, Part.TRAIN: 1, Part.VALIDATION: 2, Part.TEST: 3})


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An item whose pack has no name yet."""

    raw: RawItem  # Without its bytes
    digest: str
    place: Place
    label: int | None
    boxes: tuple[Box, ...] | None


@dataclass(slots=True)
class Intake:
    """See the rules above. `old` is the version that is added to, if any."""

    packs: PackWriter
    old: Manifest | None
    classes: list[str]
    bytes_max: int
    keeps_duplicates: bool
    duplicates_count: int = 0
    bytes_count: int = 0
    waiting: list[_Waiting] = field(default_factory=list)
    said: list[Part | None] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)  # Digest to position in `waiting`
    _old_digests: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Take over what the version before has."""
        own = tuple(self.classes)
        self.classes = []
        if self.old is not None:
            self._old_digests = frozenset(item.digest for item in self.old.items)
            for name in self.old.classes:
                self._class_index(name)
        for name in own:
            self._class_index(name)

    def take(self, raw: RawItem, digest: str) -> bool:
        """Keep an item that was found good; return False for one that is there already.

        Raises RefusedError `dataset.full`, ContractError `dataset.too_many` or
        `dataset.too_many_classes`, TransientError.
        """
        if not self.keeps_duplicates and self._is_there(digest, raw):
            self.duplicates_count += 1
            return False
        self.bytes_count += len(raw.data)
        self._check_limits()
        self._seen.setdefault(digest, len(self.waiting))
        boxes = None
        if raw.boxes is not None:
            boxes = tuple(box for box in map(self._box, raw.boxes[:BOXES_MAX]) if box is not None)
        self.waiting.append(
            _Waiting(
                raw=_without_bytes(raw),
                digest=digest,
                place=self.packs.add(raw.data, digest),
                label=None if raw.label is None else self._class_index(raw.label),
                boxes=boxes,
            )
        )
        self.said.append(raw.part)
        return True

    def finish(self) -> tuple[Item, ...]:
        """Put the last pack; return the new items, all in the training part. See part_choice.py."""
        names = self.packs.finish()
        return tuple(_item(waiting, names) for waiting in self.waiting)

    def _is_there(self, digest: str, raw: RawItem) -> bool:
        if digest in self._old_digests:
            return True
        position = self._seen.get(digest)
        if position is None:
            return False
        if RANKS[raw.part] > RANKS[self.said[position]]:
            self.said[position] = raw.part
        return True

    def _check_limits(self) -> None:
        old_count = len(self.old.items) if self.old is not None else 0
        if old_count + len(self.waiting) >= ITEMS_MAX:
            raise ContractError(
                "dataset.too_many",
                f"The source has more than {ITEMS_MAX} items.",
                remedy="Import it as several datasets.",
            )
        if self.bytes_count > self.bytes_max:
            raise RefusedError(
                "dataset.full",
                f"The items are over {self.bytes_max} bytes, all that is left for datasets.",
                remedy="Remove versions that are not wanted any more, or raise "
                "datasets.bytes_max in the hub's settings.",
            )

    def _class_index(self, name: str) -> int:
        found = self._numbers.setdefault(clipped(name), len(self.classes))
        if found == len(self.classes):
            if found >= CLASSES_MAX:
                raise ContractError(
                    "dataset.too_many_classes",
                    f"The source names more than {CLASSES_MAX} classes.",
                    remedy="Check which column or folder says the class.",
                )
            self.classes.append(clipped(name))
        return found

    def _box(self, raw: RawBox) -> Box | None:
        """Return a box within the picture; None where nothing of it is."""
        left, right = sorted((share_of(raw.left), share_of(raw.right)))
        top, bottom = sorted((share_of(raw.top), share_of(raw.bottom)))
        number = self._class_index(raw.class_name)
        return Box(number, left, top, right, bottom) if left < right and top < bottom else None


def clipped(text: str) -> str:
    """Return a text that can be stored and shown."""
    if len(text) <= TEXT_CHARS_MAX and text.isascii() and text.isprintable():
        return text
    plain = "".join(letter if letter.isprintable() else " " for letter in text[:TEXT_CHARS_MAX])
    return plain.encode("utf-8", "replace").decode()


def share_of(value: float) -> float:
    """Return a number as a share, 0..1; what is none is 0."""
    return min(1.0, max(0.0, value)) if value == value else 0.0


def _without_bytes(raw: RawItem) -> RawItem:
    return RawItem(
        data=b"",
        name=clipped(raw.name),
        device=clipped(raw.device),
        site=clipped(raw.site),
        captured_ms=raw.captured_ms if (raw.captured_ms or 0) >= 0 else None,
        group=clipped(raw.group),
        part=raw.part,
    )


def _item(waiting: _Waiting, packs: Sequence[str]) -> Item:
    raw, place = waiting.raw, waiting.place
    return Item(
        digest=waiting.digest,
        pack=packs[place.pack_index],
        start=place.start,
        bytes_count=place.bytes_count,
        part=Part.TRAIN,
        name=raw.name,
        label=waiting.label,
        boxes=waiting.boxes,
        device=raw.device,
        site=raw.site,
        captured_ms=raw.captured_ms,
        group=raw.group,
    )
