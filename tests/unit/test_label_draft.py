"""Drafts of labels: what saving changes, whom it asks, and in which order items come."""

import pytest

from cloud_hub.dashboard.window_charts import CHANNELS_MAX, window_svg
from cloud_hub.datasets.label_draft import (
    DraftEntry,
    ItemLabel,
    change_in_count,
    label_of,
    merge,
)
from cloud_hub.datasets.label_queue import QueueOrder, queue_of
from cloud_hub.datasets.manifest import Box, Item, ItemKind, Manifest, Part
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.relabelling import LabelChange, relabelled
from shared.errors import ContractError

CLASSES = ("cat", "dog")
BOX = RawBox("cat", 0.1, 0.2, 0.3, 0.4)


def digest(number: int) -> str:
    return f"{number:x}".rjust(2, "0") * 32


def item(number: int, label: int | None = None, boxes: tuple[Box, ...] | None = None) -> Item:
    return Item(digest(number), "0" * 64, 0, 1, Part.TRAIN, f"{number}.png", label, boxes)


def manifest(*items: Item) -> Manifest:
    return Manifest("things", ItemKind.IMAGE, CLASSES, items)


def said(number: int, change: LabelChange, was: ItemLabel | None = None) -> DraftEntry:
    return DraftEntry(digest(number), change, was or ItemLabel())


@pytest.mark.parametrize(
    ("now", "change", "was", "changes", "is_conflict"),
    [
        (item(1), "cat", ItemLabel(), True, False),
        (item(1, 0), "cat", ItemLabel(), False, False),  # Somebody has said the same
        (item(1, 1), "cat", ItemLabel(), False, True),  # Somebody has said something else
        (item(1, 1), "cat", ItemLabel("dog"), True, False),
        (item(1), "cat", ItemLabel("dog"), False, True),  # Somebody has cleared it
        (item(1), None, ItemLabel("dog"), False, False),
        (item(1, 1), None, ItemLabel("dog"), True, False),
        (item(1, None, ()), (BOX,), ItemLabel(), False, True),
        (item(1, None, (Box(0, 0.1, 0.2, 0.3, 0.4),)), (BOX,), ItemLabel(), False, False),
        (item(1, None, (Box(0, 0.1, 0.2, 0.3, 0.4),)), (), ItemLabel(None, (BOX,)), True, False),
    ],
)
def test_saving_goes_by_item(
    now: Item, change: LabelChange, was: ItemLabel, changes: bool, is_conflict: bool
) -> None:
    found = merge([said(1, change, was)], manifest(now, item(2)))
    assert dict(found.changes) == ({digest(1): change} if changes else {})
    assert [conflict.entry.digest for conflict in found.conflicts] == [digest(1)] * is_conflict


def test_a_conflict_ends_as_the_operator_decides() -> None:
    newest = manifest(item(1, 1), item(2, 1), item(3))
    draft = [said(number, "cat") for number in (1, 2, 3)]
    asked = merge(draft, newest)
    assert [(conflict.index, conflict.now.label) for conflict in asked.conflicts] == [
        (0, "dog"),
        (1, "dog"),
    ]
    decided = merge(draft, newest, mine={digest(1)}, theirs={digest(2)})
    assert decided.conflicts == ()
    after = relabelled(newest, decided.changes)
    assert [label_of(each, after.classes).label for each in after.items] == ["cat", "dog", "cat"]
    assert merge(draft, after, theirs={digest(2)}).changes == {}  # Saving twice changes nothing


def test_items_that_are_gone_change_nothing_and_are_counted() -> None:
    found = merge([said(7, "cat"), said(1, "cat")], manifest(item(1), item(1)))
    assert (dict(found.changes), found.gone_count) == ({digest(1): "cat"}, 1)


def test_the_progress_counts_what_becomes_labelled_and_what_does_not_stay() -> None:
    draft = [
        said(1, "cat"),
        said(2, ()),
        said(3, None, ItemLabel("dog")),
        said(4, "cat", ItemLabel("dog")),
    ]
    assert change_in_count(draft) == 1


def test_orders_of_the_queue() -> None:
    found = manifest(item(1, 0), item(2), item(3, 1), item(4, None, (Box(1, 0, 0, 1, 1),)), item(5))
    assert list(queue_of(found, QueueOrder.UNLABELLED)) == [1, 4, 0, 2, 3]
    assert list(queue_of(found, QueueOrder.ALL)) == [0, 1, 2, 3, 4]
    assert list(queue_of(found, QueueOrder.CLASS, class_name="dog")) == [2, 3]
    with pytest.raises(ContractError, match="no class 'cow'"):
        queue_of(found, QueueOrder.CLASS, class_name="cow")


def test_a_random_order_is_the_same_for_its_seed_and_leaves_nobody_out() -> None:
    items = [Item(f"{(i * 2654435761) % 2**256:064x}", "0" * 64, 0, 1, Part.TRAIN, "x") for i in
             range(1, 50)]  # fmt: skip
    found = manifest(*items)
    orders = {tuple(queue_of(found, QueueOrder.RANDOM, seed=60 - seed)) for seed in range(12)}
    assert len(orders) > 5
    assert all(sorted(order) == list(range(49)) for order in orders)
    assert queue_of(found, QueueOrder.RANDOM, seed=3) == queue_of(found, QueueOrder.RANDOM, seed=3)


def test_a_window_is_drawn_whatever_is_in_it() -> None:
    nothing = b"\x00\x00\xc0\x7f" * 12  # Not a number, twelve times
    assert "nan" not in window_svg(nothing, (6, 2))
    assert window_svg(b"\x00" * 4 * 700, (7, 100)).count("<polyline") == CHANNELS_MAX
    large = b"\xff\xff\x7f\x7f\xff\xff\x7f\xff" * 3  # The largest and the smallest float32
    assert "inf" not in window_svg(large, (6, 1))
