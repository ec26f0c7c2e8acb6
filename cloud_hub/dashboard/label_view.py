"""What the labelling page shows and its script is told, gathered from the services."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from cloud_hub.api.services import Services
from cloud_hub.dashboard.dataset_view import CLASSES_OFFERED
from cloud_hub.datasets.dataset import Dataset, DatasetVersion
from cloud_hub.datasets.label_draft import (
    Conflict,
    DraftEntry,
    ItemLabel,
    change_in_count,
    label_of,
)
from cloud_hub.datasets.label_drafts import LabelDrafts, Saved
from cloud_hub.datasets.label_queue import QueueOrder, queue_of
from cloud_hub.datasets.manifest import ItemKind, Manifest

QUEUE_MAX = 500  # Items told at once; the page asks for the next ones
CONFLICTS_TOLD_MAX = 200  # The rest come up when these are decided


@dataclass(frozen=True, slots=True)
class LabellingView:
    """The page, before its script has asked for anything."""

    dataset: Dataset
    version: DatasetVersion
    kind: str
    has_boxes: bool  # Whether boxes are drawn, as the labels there are
    can_have_boxes: bool
    window_shape: tuple[int, ...]
    item: int
    classes_offered: tuple[str, ...]  # To look at again, one by one


def view_labelling(
    services: Services, name: str, item: int, drafts: LabelDrafts, operator: str
) -> LabellingView:
    """Return the page of a dataset's newest version.

    Raises RefusedError `dataset.unknown` or `dataset_version.unknown`, IntegrityError
    `dataset.damaged`, TransientError.
    """
    version = services.datasets.version(name)
    manifest = services.datasets.manifest(version)
    entries = drafts.get(operator, name)
    return LabellingView(
        dataset=services.datasets.get(name),
        version=version,
        kind=manifest.kind.value,
        has_boxes=_has_boxes(manifest, entries),
        can_have_boxes=manifest.kind is ItemKind.IMAGE,
        window_shape=manifest.window_shape,
        item=item,
        classes_offered=manifest.classes[:CLASSES_OFFERED],
    )


def queue_answer(
    services: Services,
    name: str,
    entries: Collection[DraftEntry],
    *,
    order: QueueOrder,
    class_name: str,
    seed: int,
    first: int,
    wanted: int,
    limit: int,
) -> dict[str, Any]:
    """Return items in their order from the `first` on, or from the one at position `wanted` on.

    Raises ContractError `dataset.class`, and as `view_labelling`.
    """
    version = services.datasets.version(name)
    manifest = services.datasets.manifest(version)
    queue = queue_of(manifest, order, class_name=class_name, seed=seed)
    if wanted >= 0 and wanted in queue:
        first = queue.index(wanted) // limit * limit
    said = {entry.digest: entry.said for entry in entries}
    return {
        "version": version.version,
        "classes": _classes(manifest, entries),
        "items": [_item(manifest, i, said) for i in queue[first : first + limit]],
        "first": first,
        "count": len(queue),
        **draft_answer(services, name, entries),
    }


def draft_answer(services: Services, name: str, entries: Collection[DraftEntry]) -> dict[str, int]:
    """Return how far the labelling is, the draft counted."""
    newest = services.datasets.version(name)
    return {
        "draft_count": len(entries),
        "labelled_count": newest.labelled_count + change_in_count(entries),
        "items_count": newest.items_count,
        "newest": newest.version,
    }


def save_answer(saved: Saved) -> dict[str, Any]:
    """Return what came of saving."""
    conflicts = saved.conflicts[:CONFLICTS_TOLD_MAX]
    return {
        "version": saved.version.version if saved.version is not None else None,
        "changed_count": saved.changed_count,
        "gone_count": saved.gone_count,
        "conflicts": [_conflict(conflict) for conflict in conflicts],
        "conflicts_count": len(saved.conflicts),
    }


def _has_boxes(manifest: Manifest, entries: Collection[DraftEntry]) -> bool:
    return any(item.boxes is not None for item in manifest.items) or any(
        entry.said.boxes is not None for entry in entries
    )


def _classes(manifest: Manifest, entries: Collection[DraftEntry]) -> list[str]:
    """Return the version's classes, and after them those that only the draft has."""
    own = [name for entry in entries for name in _names(entry.said)]
    return list(dict.fromkeys((*manifest.classes, *own)))


def _names(said: ItemLabel) -> list[str]:
    names = [] if said.label is None else [said.label]
    return names + [box.class_name for box in said.boxes or ()]


def _item(manifest: Manifest, index: int, said: dict[str, ItemLabel]) -> dict[str, Any]:
    item = manifest.items[index]
    now = said.get(item.digest)
    return {
        "index": index,
        "digest": item.digest,
        "name": item.name,
        "part": item.part.value,
        "device": item.device,
        **asdict(now if now is not None else label_of(item, manifest.classes)),
    }


def _conflict(conflict: Conflict) -> dict[str, Any]:
    return {
        "index": conflict.index,
        "digest": conflict.entry.digest,
        "name": conflict.name,
        "was": asdict(conflict.entry.was),
        "theirs": asdict(conflict.now),
        "mine": asdict(conflict.entry.said),
    }
