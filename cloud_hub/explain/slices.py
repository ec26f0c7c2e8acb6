"""Slices: how good a model is on the items of one device, site, class or hour. Pure.

1. A slice is worse only where its whole interval lies below the whole's value; a small slice says
   by the width of its interval that nothing can be said.
2. Items that do not tell a device, site or hour are in no such slice. Where all items are of one
   device, site or hour, that slice is the whole and is left out.
3. Of more than SLICES_MAX those with the most items are kept.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from cloud_hub.datasets.manifest import Item
from cloud_hub.explain.intervals import share_of
from cloud_hub.explain.report import SLICES_MAX, SliceScores

Floats = NDArray[np.float64]
GROUPINGS = ("class", "device", "site", "hour")


def slice_names(items: Sequence[Item], classes: Sequence[str]) -> dict[str, list[str]]:
    """Return for each way of slicing the slice of each item; "" for none.

    Args:
        items: the items, in the order of their answers.
        classes: the true class's name of each; "" where it is not known.
    """
    return {
        "class": list(classes),
        "device": [item.device for item in items],
        "site": [item.site for item in items],
        "hour": [_hour(item.captured_ms) for item in items],
    }


def score_slices(
    names: Mapping[str, Sequence[str]], right: Floats, total: Floats
) -> tuple[SliceScores, ...]:
    """Return every slice's share of what is right, by grouping, then by name.

    Args:
        names: see slice_names.
        right: (n,) what is right of each item: 0 or 1, or a number of boxes.
        total: (n,) of how much: 1, or a number of boxes.
    """
    whole = share_of(float(right.sum()), float(total.sum()))
    if whole is None:
        return ()
    found: list[SliceScores] = []
    for by, of_items in names.items():
        members = _members(of_items)
        if by != "class" and len(members) == 1 and len(of_items) == sum(map(len, members.values())):
            continue
        for name, indices in sorted(members.items()):
            share = share_of(float(right[indices].sum()), float(total[indices].sum()))
            if share is not None:
                found.append(SliceScores(by, name, share, is_worse=share.high < whole.value))
    if len(found) > SLICES_MAX:
        kept = sorted(range(len(found)), key=lambda index: -found[index].accuracy.count)
        found = [found[index] for index in sorted(kept[:SLICES_MAX])]
    return tuple(found)


def _members(of_items: Sequence[str]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(of_items):
        if name:
            members[name].append(index)
    return members


def _hour(captured_ms: int | None) -> str:
    """Return the hour of the day, UTC: "07 h UTC"."""
    if captured_ms is None:
        return ""
    return f"{datetime.fromtimestamp(captured_ms / 1000, UTC).hour:02d} h UTC"
