"""Collections: which datasets are open to devices, and what has arrived for them. Pure.

1. One collection for each dataset. It is open to one group; stopped, it takes nothing more, and
   what has arrived stays until it is made a version of or discarded.
2. What an arrival is - picture, window, text, and a window's shape - is the dataset's, or where
   there is none yet the first arrival's, from then on.
3. A sample that has arrived once is never wanted again, also when a version has it: its digest is
   kept until the collection's arrivals are discarded. At most `items_max` of them.
4. A day is a day of UTC.
"""

from dataclasses import dataclass, replace

from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.datasets.manifest import ITEMS_MAX
from shared.errors import ContractError, RefusedError
from shared.ids import DeviceId
from shared.wire.device_samples import ITEM_BYTES_MAX, SampleKind, SharedItem

DAY_MS = 86_400_000
ITEMS_DEFAULT = 100_000
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Collection:
    """A dataset that devices may send samples for."""

    dataset: DatasetName
    group: str
    items_max: int  # In all, for as long as it is there
    is_open: bool
    kind: SampleKind | None  # None: nothing says it yet
    window_shape: tuple[int, ...]
    arrived_count: int  # In all
    created_ms: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One sample that a device has sent; its bytes lie on the disk while `version` is None."""

    dataset: DatasetName
    digest: str
    device: DeviceId
    bytes_count: int
    label: str | None
    captured_ms: int | None
    site: str
    group: str
    arrived_ms: int
    version: int | None  # Of the dataset, that has it


@dataclass(frozen=True, slots=True)
class WaitingCount:
    """What of a collection waits to be a version."""

    items_count: int = 0
    labelled_count: int = 0
    bytes_count: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a device has sent today."""

    items_count: int = 0
    bytes_count: int = 0


def day_of(at_ms: int) -> int:
    """Return the number of the day since 1970."""
    return at_ms // DAY_MS


def day_left_s(at_ms: int) -> float:
    """Return how long it is until the next day begins."""
    return (DAY_MS - at_ms % DAY_MS) / 1000


def require_items_max(items_max: int) -> int:
    """Return how many may arrive. Raises ContractError `collection.items_max`."""
    if not 1 <= items_max <= ITEMS_MAX:
        raise ContractError(
            "collection.items_max", f"A dataset has 1 to {ITEMS_MAX} items, not {items_max}."
        )
    return items_max


def require_same(collection: Collection, kind: SampleKind, shape: tuple[int, ...]) -> None:
    """Raise RefusedError `collection.kind` if samples are not of a collection's kind."""
    if collection.kind is None or (collection.kind, collection.window_shape) == (kind, shape):
        return
    raise RefusedError(
        "collection.kind",
        f"{collection.dataset} takes {_words(collection.kind, collection.window_shape)}, these are "
        f"{_words(kind, shape)}.",
        remedy="Share them with another dataset.",
    )


def require_shape(kind: SampleKind, shape: tuple[int, ...]) -> None:
    """Raise ContractError `samples.shape` if the shape is not one of the kind."""
    is_window = kind is SampleKind.WINDOW
    if len(shape) != (2 if is_window else 0):
        raise ContractError(
            "samples.shape", f"{_words(kind, ())} with the shape {shape}: (T, C) for windows only."
        )
    if is_window and shape[0] * shape[1] * FLOAT_BYTES > ITEM_BYTES_MAX:
        raise ContractError("samples.shape", f"A window {shape} is over {ITEM_BYTES_MAX} bytes.")


def require_length(item: SharedItem) -> None:
    """Raise ContractError `samples.shape` if a window is not as long as its shape says."""
    require_shape(item.kind, item.window_shape)
    if item.kind is not SampleKind.WINDOW:
        return
    expected = item.window_shape[0] * item.window_shape[1] * FLOAT_BYTES
    if len(item.data) != expected:
        raise ContractError(
            "samples.shape",
            f"A window {item.window_shape} has {expected} bytes, not {len(item.data)}.",
        )


def told_kind(collection: Collection, kind: SampleKind, shape: tuple[int, ...]) -> Collection:
    """Return a collection that says what its arrivals are."""
    return replace(collection, kind=kind, window_shape=shape)


def _words(kind: SampleKind | None, shape: tuple[int, ...]) -> str:
    names = {SampleKind.IMAGE: "pictures", SampleKind.WINDOW: "windows", SampleKind.TEXT: "texts"}
    return f"{names[kind] if kind else 'anything'} {shape or ''}".strip()
