"""Splits: which items train, which choose, which judge. Pure rules, and the refusal of leaks.

1. What belongs together goes together: items with the same bytes, items of the same group, and
   items with the same value of what the rule goes by (device, site, hour, day). What does not say
   the value of it is one lot, for nobody knows that it is not from the same device.
2. Lots are dealt out greatest first, each to the part that lacks most of its classes, so that every
   part has every class in its share as far as lots allow (after Sechidis et al., On the
   stratification of multi-label data, 2011, section 3.2). A part that is asked for is never empty.
3. The same items, rule and seed give the same parts, in whatever order the items come.
4. `rule_text` is what a manifest keeps of the rule; `by_of` reads it again, so that folds keep
   together what the split kept together.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from cloud_hub.datasets.manifest import Item, Part
from shared.errors import ContractError
from shared.settings import Settings
from shared.wire.limits import Share

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SHARES_ERROR_MAX = 1e-6
AS_SOURCE = "as the source says"
UNLABELLED = -1
_RULE = re.compile(r"by ([a-z]+),")


class SplitBy(StrEnum):
    """What must not be in two parts, besides groups and equal bytes."""

    DEVICE = "device"
    SITE = "site"
    HOUR = "hour"
    DAY = "day"
    GROUP = "group"
    ITEM = "item"


class SplitRule(Settings, frozen=True):
    """How items are put into parts; shares are of items and add up to 1."""

    by: SplitBy = SplitBy.GROUP
    train: Share = 0.7
    validation: Share = 0.15
    test: Share = 0.15
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if abs(self.train + self.validation + self.test - 1.0) > SHARES_ERROR_MAX:
            raise ValueError("train, validation and test must add up to 1")
        if self.train <= 0.0:
            raise ValueError("train must be above 0")

    @property
    def shares(self) -> tuple[tuple[Part, float], ...]:
        """Return the parts that are asked for, with their shares."""
        pairs = ((Part.TRAIN, self.train), (Part.VALIDATION, self.validation))
        return tuple(pair for pair in (*pairs, (Part.TEST, self.test)) if pair[1] > 0.0)


def split(items: Sequence[Item], rule: SplitRule) -> tuple[Part, ...]:
    """Return each item's part; what `items` say about parts counts for nothing.

    Raises ContractError `dataset.split` where no item says what the rule goes by, or where there
    are fewer lots than parts.
    """
    _check_known(items, rule.by)
    parts = [part for part, _ in rule.shares]
    lots = lots_of(items, rule.by)
    if len(lots) < len(parts):
        raise ContractError(
            "dataset.split",
            f"By {rule.by} there are {len(lots)} lots of items, too few for {len(parts)} parts.",
            remedy="Split by something finer, or ask for fewer parts.",
        )
    dealt = deal(items, lots, tuple(share for _, share in rule.shares), seed=rule.seed)
    found = [Part.TRAIN] * len(items)
    for lot, number in zip(lots, dealt, strict=True):
        for index in lot:
            found[index] = parts[number]
    return tuple(found)


def check_leaks(items: Iterable[Item]) -> None:
    """Raise ContractError `dataset.leak` if equal bytes or one group stand in two parts."""
    seen: dict[tuple[str, str], Item] = {}
    for item in items:
        keys = [("bytes", item.digest)] + ([("group", item.group)] if item.group else [])
        for key in keys:
            other = seen.setdefault(key, item)
            if other.part is not item.part:
                what = "the same bytes" if key[0] == "bytes" else f"the group {item.group!r}"
                raise ContractError(
                    "dataset.leak",
                    f"{other.name!r} ({other.part}) and {item.name!r} ({item.part}) have {what}: "
                    "what is trained on would be judged by.",
                    remedy="Import with a split rule instead of the source's own parts.",
                )


def lots_of(items: Sequence[Item], by: SplitBy) -> list[list[int]]:
    """Return the positions of items that belong together; see rule 1."""
    parents = list(range(len(items)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    firsts: dict[Hashable, int] = {}
    for index, item in enumerate(items):
        for key in _keys(item, by):
            first = firsts.setdefault(key, index)
            if first != index:
                parents[root(index)] = root(first)
    lots: dict[int, list[int]] = defaultdict(list)
    for index in range(len(items)):
        lots[root(index)].append(index)
    return list(lots.values())


def deal(
    items: Sequence[Item], lots: Sequence[Sequence[int]], shares: Sequence[float], *, seed: int
) -> list[int]:
    """Return for each lot the number of the share that gets it; see rule 2.

    There are at least as many lots as shares.
    """
    counts = [_classes_of(items, lot) for lot in lots]
    totals: Counter[int] = Counter()
    for classes in counts:
        totals.update(classes)
    # What each share still lacks of each class, in shares of the class: rare ones count as much.
    lacks = [dict.fromkeys(totals, share) for share in shares]
    places = [share * len(items) for share in shares]
    ranks = [_rank(items, lot, seed) for lot in lots]
    order = sorted(range(len(lots)), key=lambda lot: (-len(lots[lot]), ranks[lot]))
    dealt = [0] * len(lots)
    numbers = range(len(shares))
    for lot in order:
        classes = counts[lot]
        scores = [
            (sum(count * lacks[number][name] for name, count in classes.items()), places[number])
            for number in numbers
        ]
        best = max(numbers, key=scores.__getitem__)
        dealt[lot] = best
        places[best] -= len(lots[lot])
        for name, count in classes.items():
            lacks[best][name] -= count / totals[name]
    return _without_empty(dealt, order, len(shares))


def rule_text(rule: SplitRule) -> str:
    """Return a rule as a manifest keeps it: "by device, 70/15/15, seed 0"."""
    shares = "/".join(f"{100 * share:g}" for share in (rule.train, rule.validation, rule.test))
    return f"by {rule.by}, {shares}, seed {rule.seed}"


def by_of(text: str) -> SplitBy:
    """Return what a manifest's split went by; by group where the source said the parts."""
    found = _RULE.search(text)
    return SplitBy(found[1]) if found and found[1] in set(SplitBy) else SplitBy.GROUP


def _keys(item: Item, by: SplitBy) -> list[Hashable]:
    keys: list[Hashable] = [item.digest]
    if item.group:
        keys.append(("group", item.group))
    match by:
        case SplitBy.DEVICE:
            keys.append((by, item.device))
        case SplitBy.SITE:
            keys.append((by, item.site))
        case SplitBy.HOUR:
            keys.append((by, None if item.captured_ms is None else item.captured_ms // HOUR_MS))
        case SplitBy.DAY:
            keys.append((by, None if item.captured_ms is None else item.captured_ms // DAY_MS))
        case SplitBy.GROUP | SplitBy.ITEM:
            pass
    return keys


def _check_known(items: Sequence[Item], by: SplitBy) -> None:
    match by:
        case SplitBy.DEVICE:
            is_known = any(item.device for item in items)
        case SplitBy.SITE:
            is_known = any(item.site for item in items)
        case SplitBy.HOUR | SplitBy.DAY:
            is_known = any(item.captured_ms is not None for item in items)
        case SplitBy.GROUP | SplitBy.ITEM:
            is_known = True
    if not is_known:
        what = "when it was captured" if by in (SplitBy.HOUR, SplitBy.DAY) else f"its {by}"
        raise ContractError(
            "dataset.split", f"No item says {what}.", remedy="Split by group or by item."
        )


def _classes_of(items: Sequence[Item], lot: Sequence[int]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for index in lot:
        item = items[index]
        if item.boxes:
            counts.update({box.class_index for box in item.boxes})
        else:
            counts[UNLABELLED if item.label is None else item.label] += 1
    return counts


def _rank(items: Sequence[Item], lot: Sequence[int], seed: int) -> bytes:
    """Return where a lot stands among lots of its size: chance, but the same for the same bytes."""
    first = min(items[index].digest for index in lot)
    return hashlib.blake2b(f"{seed}:{first}".encode(), digest_size=16).digest()


def _without_empty(dealt: list[int], order: Sequence[int], shares_count: int) -> list[int]:
    """Return `dealt` so that nobody has nothing: the smallest lots of who has several move."""
    lots_counts = Counter(dealt)
    for number in range(shares_count):
        if lots_counts[number]:
            continue
        lot = next(lot for lot in reversed(order) if lots_counts[dealt[lot]] > 1)
        lots_counts[dealt[lot]] -= 1
        lots_counts[number] += 1
        dealt[lot] = number
    return dealt
