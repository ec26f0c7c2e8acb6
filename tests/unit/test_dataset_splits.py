"""Splits and folds: nothing that belongs together is ever in two parts, whatever the items are."""

import random
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cloud_hub.datasets.folds import parts_of
from cloud_hub.datasets.manifest import Item, ItemKind, Manifest, Part
from cloud_hub.datasets.part_choice import choose_parts
from cloud_hub.datasets.splits import (
    SplitBy,
    SplitRule,
    by_of,
    check_leaks,
    rule_text,
    split,
)
from shared.errors import ContractError
from shared.release.digest import digest_of

HOUR_MS = 3_600_000


def item(number: int, **changes: object) -> Item:
    """Return an item; those of one number have the same bytes."""
    made = Item(
        digest=digest_of(str(number).encode()),
        pack="0" * 64,
        start=0,
        bytes_count=1,
        part=Part.TRAIN,
        name=f"item {number}",
    )
    return msgspec.structs.replace(made, **changes)


def manifest_of(items: list[Item], rule: str = "") -> Manifest:
    return Manifest(
        dataset="test", kind=ItemKind.TEXT, classes=("a", "b"), items=tuple(items), split_rule=rule
    )


def _split_or_none(items: list[Item], rule: SplitRule) -> tuple[Part, ...] | None:
    try:
        return split(items, rule)
    except ContractError:  # Too few lots for three parts, or nothing to go by
        return None


items_lists = st.lists(
    st.builds(
        item,
        st.integers(0, 60),
        label=st.sampled_from([None, 0, 1]),
        device=st.sampled_from(["", "a", "b", "c", "d", "e"]),
        site=st.sampled_from(["", "north", "south", "west"]),
        group=st.sampled_from(["", "", "", "g1", "g2", "g3"]),
        captured_ms=st.sampled_from([None, *range(0, 9 * HOUR_MS, HOUR_MS // 2)]),
    ),
    min_size=1,
    max_size=80,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(items_lists, st.sampled_from(SplitBy), st.integers(0, 5))
def test_no_lot_is_ever_in_two_parts(items: list[Item], by: SplitBy, seed: int) -> None:
    rule = SplitRule(by=by, seed=seed)
    parts = _split_or_none(items, rule)
    assume(parts is not None)
    assert parts is not None
    chosen = [
        msgspec.structs.replace(each, part=part) for each, part in zip(items, parts, strict=True)
    ]
    check_leaks(chosen)
    assert set(parts) == set(Part)  # Whatever is asked for gets something
    key = {
        SplitBy.DEVICE: lambda each: each.device,
        SplitBy.SITE: lambda each: each.site,
        SplitBy.HOUR: lambda each: (
            (-HOUR_MS if each.captured_ms is None else each.captured_ms) // HOUR_MS
        ),
    }.get(by)
    if key is not None:
        parts_by_key: dict[object, set[Part]] = {}
        for each in chosen:
            parts_by_key.setdefault(key(each), set()).add(each.part)
        assert all(len(found) == 1 for found in parts_by_key.values())


@settings(deadline=None, max_examples=50)
@given(items_lists, st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing(items: list[Item], order: random.Random) -> None:
    # The same bytes with the same group only: which of two labels counts depends on nothing else.
    unique = list({each.digest: each for each in items}.values())
    if len(unique) < 3:
        return
    shuffled = list(unique)
    order.shuffle(shuffled)
    rule = SplitRule(by=SplitBy.ITEM)
    plain = [msgspec.structs.replace(each, group="") for each in unique]
    mixed = [msgspec.structs.replace(each, group="") for each in shuffled]
    first = dict(zip((each.digest for each in plain), split(plain, rule), strict=True))
    second = dict(zip((each.digest for each in mixed), split(mixed, rule), strict=True))
    assert first == second


def test_shares_hold_for_every_class_and_another_seed_deals_otherwise() -> None:
    items = [item(number, label=0 if number % 10 else 1) for number in range(1000)]
    parts = split(items, SplitRule())
    rare = Counter(part for each, part in zip(items, parts, strict=True) if each.label == 1)
    assert rare == {Part.TRAIN: 70, Part.VALIDATION: 15, Part.TEST: 15}
    assert Counter(parts) == {Part.TRAIN: 700, Part.VALIDATION: 150, Part.TEST: 150}
    assert split(items, SplitRule(seed=1)) != parts
    assert split(items, SplitRule()) == parts


def test_a_rule_that_nothing_answers_to_is_refused() -> None:
    items = [item(number) for number in range(10)]
    for by in (SplitBy.DEVICE, SplitBy.SITE, SplitBy.HOUR, SplitBy.DAY):
        with pytest.raises(ContractError, match="No item says") as caught:
            split(items, SplitRule(by=by))
        assert caught.value.code == "dataset.split"
    two = [item(number, device="ab"[number % 2]) for number in range(10)]
    with pytest.raises(ContractError, match="2 lots"):
        split(two, SplitRule(by=SplitBy.DEVICE))


def test_leaks_of_bytes_and_groups_are_refused_by_name() -> None:
    same = [item(1, name="one"), item(1, name="two", part=Part.TEST)]
    with pytest.raises(ContractError, match=r"'one'.*'two'.*same bytes") as caught:
        check_leaks(same)
    assert caught.value.code == "dataset.leak"
    with pytest.raises(ContractError, match="the group 'clip 7'"):
        check_leaks([item(1, group="clip 7"), item(2, group="clip 7", part=Part.VALIDATION)])
    check_leaks([item(1, group="clip 7"), item(2, group="clip 8", part=Part.TEST)])


def test_a_rule_is_read_back_from_its_text() -> None:
    for by in SplitBy:
        assert by_of(rule_text(SplitRule(by=by))) is by
    assert by_of("as the source says") is SplitBy.GROUP
    assert by_of("as the source says; test by device, 80/0/20, seed 0") is SplitBy.DEVICE


@pytest.mark.parametrize("by", [SplitBy.DEVICE, SplitBy.GROUP])
def test_every_item_that_may_be_trained_on_chooses_in_exactly_one_fold(by: SplitBy) -> None:
    items = [
        item(number, label=number % 2, device=f"dev-{number % 24}", group=f"g{number // 3}")
        for number in range(300)
    ]
    rule = SplitRule(by=by)
    groupless = [msgspec.structs.replace(each, group="") for each in items]
    chosen = groupless if by is SplitBy.DEVICE else items
    parts = split(chosen, rule)
    placed = [msgspec.structs.replace(i, part=p) for i, p in zip(chosen, parts, strict=True)]
    manifest = manifest_of(placed, rule_text(rule))
    own = parts_of(manifest)
    folds = [parts_of(manifest, folds_count=4, fold=fold) for fold in range(4)]
    assert all(((fold == 2) == (own == 2)).all() for fold in folds)
    times = np.sum([fold == 1 for fold in folds], axis=0)
    assert (times[own != 2] == 1).all()
    assert (times[own == 2] == 0).all()
    keys = [each.device if by is SplitBy.DEVICE else each.group for each in placed]
    for fold in folds:
        validation = {key for key, part in zip(keys, fold, strict=True) if part == 1}
        training = {key for key, part in zip(keys, fold, strict=True) if part == 0}
        assert not validation & training
    sizes = [int((fold == 1).sum()) for fold in folds]
    assert max(sizes) - min(sizes) <= 20, sizes
    again = parts_of(manifest, folds_count=4, fold=2)
    assert (again == folds[2]).all()
    assert (parts_of(manifest, folds_count=4, fold=2, seed=1) != folds[2]).any()


def test_more_folds_than_lots_are_refused() -> None:
    manifest = manifest_of([item(number, group="ab"[number % 2]) for number in range(10)])
    with pytest.raises(ContractError, match="2 lots") as caught:
        parts_of(manifest, folds_count=3)
    assert caught.value.code == "dataset.folds"


def test_what_the_source_says_stays_and_what_it_does_not_say_is_taken_from_training() -> None:
    new = [item(number, label=number % 2) for number in range(100)]
    said = [Part.TEST if number < 20 else Part.TRAIN for number in range(100)]
    parts, text = choose_parts((), new, said, SplitRule(), takes_said=True)
    assert parts[:20] == (Part.TEST,) * 20
    assert Counter(parts[20:]) == {Part.TRAIN: 66, Part.VALIDATION: 14}
    assert text.startswith("as the source says; validation by group")
    ignored, text = choose_parts((), new, said, SplitRule(), takes_said=False)
    assert Counter(ignored) == {Part.TRAIN: 70, Part.VALIDATION: 15, Part.TEST: 15}
    assert text == "by group, 70/15/15, seed 0"


def test_a_source_whose_own_parts_leak_is_refused() -> None:
    new = [item(1, group="clip"), item(2, group="clip"), item(3)]
    said = [Part.TRAIN, Part.TEST, Part.VALIDATION]
    with pytest.raises(ContractError) as caught:
        choose_parts((), new, said, SplitRule(), takes_said=True)
    assert caught.value.code == "dataset.leak"


def test_new_items_go_where_the_old_ones_are_that_they_belong_to() -> None:
    old = [
        item(1, device="a", part=Part.TEST),
        item(2, device="b", part=Part.TRAIN),
        item(3, device="c", part=Part.VALIDATION),
    ]
    new = [item(number, device="abcd"[number % 4]) for number in range(10, 18)]
    rule = SplitRule(by=SplitBy.DEVICE)
    parts, _ = choose_parts(old, new, [None] * len(new), rule, takes_said=True)
    wanted = {"a": Part.TEST, "b": Part.TRAIN, "c": Part.VALIDATION}
    for each, part in zip(new, parts, strict=True):
        assert part is wanted.get(each.device, part)
    # One new device is no reason for a part of its own; it is trained on, whole.
    single = [item(number, device="new") for number in range(20, 30)]
    parts, _ = choose_parts(old, single, [None] * 10, rule, takes_said=True)
    assert set(parts) == {Part.TRAIN}
    many = [item(number, device=f"new {number % 6}") for number in range(30, 60)]
    parts, _ = choose_parts(old, many, [None] * 30, rule, takes_said=True)
    assert set(parts) == set(Part)
    leaky = [item(1, device="a", part=Part.TEST), item(2, device="a", part=Part.TRAIN)]
    with pytest.raises(ContractError, match="stand in 2 parts"):
        choose_parts(leaky, new, [None] * len(new), rule, takes_said=True)


@pytest.mark.parametrize(
    "shares", [{"train": 0.5}, {"train": 0.0, "validation": 0.5, "test": 0.5}, {"seed": -1}]
)
def test_shares_that_make_no_whole_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(shares, SplitRule)
