"""LabelQueue: in which order a version's items are labelled. Pure.

The order is the version's alone: what is labelled meanwhile moves nothing, so that going back finds
what was there.
"""

from collections.abc import Sequence
from enum import StrEnum

from cloud_hub.datasets.manifest import Item, Manifest
from cloud_hub.datasets.manifest_facts import is_labelled
from shared.errors import ContractError

SEEDS_COUNT = 61  # Orders that differ: a digest turned by so many digits at most


class QueueOrder(StrEnum):
    """What comes first."""

    UNLABELLED = "unlabelled"  # Then those that are labelled
    ALL = "all"  # As in the version
    CLASS = "class"  # Only those of one class, for a second look
    RANDOM = "random"


def queue_of(
    manifest: Manifest, order: QueueOrder, *, class_name: str = "", seed: int = 0
) -> Sequence[int]:
    """Return positions in the manifest, in the order in which they are labelled.

    Raises ContractError `dataset.class` for a class that the dataset does not have.
    """
    items = manifest.items
    everything = range(len(items))
    match order:
        case QueueOrder.ALL:
            return everything
        case QueueOrder.UNLABELLED:
            return sorted(everything, key=lambda i: is_labelled(items[i].label, items[i].boxes))
        case QueueOrder.RANDOM:
            # Digests are as good as random, and the same on every hub.
            turn = seed % SEEDS_COUNT
            return sorted(everything, key=lambda i: items[i].digest[turn:] + items[i].digest[:turn])
        case QueueOrder.CLASS:
            if class_name not in manifest.classes:
                raise ContractError(
                    "dataset.class", f"{manifest.dataset!r} has no class {class_name[:120]!r}."
                )
            index = manifest.classes.index(class_name)
            return [i for i in everything if _shows(items[i], index)]


def _shows(item: Item, class_index: int) -> bool:
    return item.label == class_index or any(
        box.class_index == class_index for box in item.boxes or ()
    )
