"""ItemFilter: which items of a version are looked at, a page at a time. Pure."""

from dataclasses import dataclass

from cloud_hub.datasets.manifest import Item, ItemKind, Manifest, Part
from cloud_hub.datasets.manifest_facts import is_labelled
from shared.errors import ContractError

PAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """What must be true of an item; None: nothing."""

    part: Part | None = None
    class_name: str | None = None  # Its label, or of one of its boxes
    is_labelled: bool | None = None
    device: str | None = None
    site: str | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Some items of a version, each with its position in the manifest."""

    items: tuple[tuple[int, Item], ...]
    matching_count: int  # Of all pages
    next_after: int | None  # Position after which the next page begins


def page_of(
    manifest: Manifest, wanted: ItemFilter, *, after: int = -1, limit: int = 50
) -> ItemPage:
    """Return up to `limit` items that match, from the one after position `after` on.

    Raises ContractError `dataset.class` for a class that the dataset does not have.
    """
    index = _class_index(manifest, wanted.class_name)
    found = [
        (position, item)
        for position, item in enumerate(manifest.items)
        if _matches(item, wanted, index)
    ]
    later = [pair for pair in found if pair[0] > after]
    page = tuple(later[: min(limit, PAGE_MAX)])
    return ItemPage(
        items=page,
        matching_count=len(found),
        next_after=page[-1][0] if len(later) > len(page) else None,
    )


def media_type(kind: ItemKind, data: bytes) -> str:
    """Return the content type of an item's bytes; of pictures only three are ever shown."""
    match kind:
        case ItemKind.TEXT:
            return "text/plain; charset=utf-8"
        case ItemKind.WINDOW:
            return "application/octet-stream"
        case ItemKind.IMAGE:
            if data.startswith(b"\x89PNG\r\n\x1a\n"):
                return "image/png"
            if data.startswith(b"\xff\xd8\xff"):
                return "image/jpeg"
            if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
                return "image/webp"
            return "application/octet-stream"


def _class_index(manifest: Manifest, name: str | None) -> int | None:
    if name is None:
        return None
    if name not in manifest.classes:
        raise ContractError("dataset.class", f"{manifest.dataset!r} has no class {name[:120]!r}.")
    return manifest.classes.index(name)


def _matches(item: Item, wanted: ItemFilter, class_index: int | None) -> bool:
    if wanted.part is not None and item.part is not wanted.part:
        return False
    if class_index is not None and item.label != class_index:
        boxes = item.boxes or ()
        if all(box.class_index != class_index for box in boxes):
            return False
    if wanted.is_labelled not in (None, is_labelled(item.label, item.boxes)):
        return False
    if wanted.device not in (None, item.device):
        return False
    return wanted.site in (None, item.site)
