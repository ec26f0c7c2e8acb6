"""Parts of items that come in: what the source says, what old items decide, a rule for the rest.

Pure. The result leaks nothing: neither equal bytes nor a group stand in two parts.

1. Old items keep their parts. A new item that belongs to an old one (same bytes, group, or value of
   what the split goes by) goes where that is.
2. What the source says is taken as it is. A part that it never says is taken out of what it says is
   for training, in the rule's share of the two.
3. Everything else is split by the rule.
"""

from collections.abc import Sequence

import msgspec

from cloud_hub.datasets.manifest import Item, Part
from cloud_hub.datasets.splits import (
    AS_SOURCE,
    SplitBy,
    SplitRule,
    check_leaks,
    lots_of,
    rule_text,
    split,
)
from shared.errors import ContractError


def choose_parts(
    old: Sequence[Item],
    new: Sequence[Item],
    said: Sequence[Part | None],
    rule: SplitRule,
    *,
    takes_said: bool,
) -> tuple[tuple[Part, ...], str]:
    """Return each new item's part, and the rule as a manifest keeps it.

    Args:
        old: items whose parts stand.
        new: items whose parts are to be found; their own field counts for nothing.
        said: what the source says of each new item.
        rule: for everything that nobody says.
        takes_said: False: what the source says counts for nothing.

    Raises ContractError `dataset.leak` or `dataset.split`.
    """
    is_said = takes_said and any(part not in (None, Part.TRAIN) for part in said)
    found: list[Part | None] = [None] * len(new)
    if is_said:
        found = [part or Part.TRAIN for part in said]
        text = AS_SOURCE
        missing = [p for p, share in rule.shares if share > 0 and p not in set(found)]
        if missing and not old:
            found = _without_said_train(found)
            text = f"{AS_SOURCE}; {' and '.join(missing)} {rule_text(_rest(rule, missing))}"
            rule = _rest(rule, missing)
    else:
        text = rule_text(rule)
    if old:
        found = _joined(old, new, found, rule.by)
    open_indices = [index for index, part in enumerate(found) if part is None]
    if open_indices:
        chosen = _split_rest([new[index] for index in open_indices], rule, is_added=bool(old))
        for index, part in zip(open_indices, chosen, strict=True):
            found[index] = part
    parts = tuple(part or Part.TRAIN for part in found)
    check_leaks((*old, *with_parts(new, parts)))
    return parts, text


def with_parts(items: Sequence[Item], parts: Sequence[Part]) -> tuple[Item, ...]:
    """Return items in these parts."""
    return tuple(
        item if item.part is part else msgspec.structs.replace(item, part=part)
        for item, part in zip(items, parts, strict=True)
    )


def _without_said_train(found: Sequence[Part | None]) -> list[Part | None]:
    return [None if part is Part.TRAIN else part for part in found]


def _rest(rule: SplitRule, missing: Sequence[Part]) -> SplitRule:
    """Return the rule for what is left where some parts are said: training and what is missing."""
    validation = rule.validation if Part.VALIDATION in missing else 0.0
    test = rule.test if Part.TEST in missing else 0.0
    total = rule.train + validation + test
    validation, test = round(validation / total, 4), round(test / total, 4)
    return SplitRule(
        by=rule.by,
        train=1.0 - validation - test,
        validation=validation,
        test=test,
        seed=rule.seed,
    )


def _split_rest(items: Sequence[Item], rule: SplitRule, *, is_added: bool) -> tuple[Part, ...]:
    """Return parts of what nobody has decided; a few lots that join a version all train."""
    if is_added and len(lots_of(items, rule.by)) < len(rule.shares):
        return (Part.TRAIN,) * len(items)
    return split(items, rule)


def _joined(
    old: Sequence[Item], new: Sequence[Item], found: Sequence[Part | None], by: SplitBy
) -> list[Part | None]:
    """Return parts where old items decide those of new ones that belong to them; rule 1."""
    joined = list(found)
    for lot in lots_of((*old, *new), by):
        standing = {old[index].part for index in lot if index < len(old)}
        added = [index - len(old) for index in lot if index >= len(old)]
        if not standing or not added:
            continue
        if len(standing) > 1:
            raise ContractError(
                "dataset.leak",
                f"{new[added[0]].name!r} belongs to items of the version before that stand in "
                f"{len(standing)} parts.",
                remedy=f"Split that version anew by {by} first, or add with its own rule.",
            )
        for index in added:
            joined[index] = next(iter(standing))
    return joined
