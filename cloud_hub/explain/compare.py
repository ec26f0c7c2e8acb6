"""Compare: two reports on the same items side by side. Pure.

1. Only reports on the same manifest, part and task are compared, item by item.
2. `gained` are right now and were wrong, `lost` the other way round: what a paired test needs.
   Which test is made of them is said by whoever compares.
"""

import numpy as np
from numpy.typing import NDArray

from cloud_hub.explain.answers import Answers
from cloud_hub.explain.paired import DISAGREEMENTS_MAX, Comparison, Paired
from cloud_hub.explain.report import Report
from shared.errors import RefusedError


def compare(
    before: Report, now: Report, answers_before: Answers, answers_now: Answers
) -> Comparison:
    """Return how `now` differs from `before`. Raises RefusedError `explain.not_comparable`."""
    _check(before, now)
    if not np.array_equal(answers_before.digests, answers_now.digests):
        raise _refused("they do not rest on the same items")
    was, now_is = answers_before.is_right, answers_now.is_right
    labels = answers_now.labels.astype(np.int64)
    has_classes = bool(now.confusion) and len(now.classes) == len(before.classes)
    by_class = [
        _paired(name, was[labels == index], now_is[labels == index])
        for index, name in enumerate(now.classes if has_classes else ())
    ]
    shared = {
        name: (value, now.metrics[name])
        for name, value in before.metrics.items()
        if name in now.metrics
    }
    order = np.concatenate([np.flatnonzero(was & ~now_is), np.flatnonzero(~was & now_is)])
    return Comparison(
        whole=_paired("", was, now_is),
        by_class=tuple(row for row in by_class if row.items_count),
        metrics=shared,
        disagreements=tuple(
            answers_now.digests[index].tobytes().hex() for index in order[:DISAGREEMENTS_MAX]
        ),
    )


def _paired(name: str, was: NDArray[np.bool_], now_is: NDArray[np.bool_]) -> Paired:
    return Paired(
        name=name,
        items_count=int(was.size),
        right_before=int(was.sum()),
        right_now=int(now_is.sum()),
        gained=int((~was & now_is).sum()),
        lost=int((was & ~now_is).sum()),
    )


def _check(before: Report, now: Report) -> None:
    if before.manifest != now.manifest:
        raise _refused("they are on different dataset versions")
    if before.part != now.part:
        raise _refused(f"one is on the part {before.part!r}, the other on {now.part!r}")
    if before.task != now.task:
        raise _refused(f"one is of {before.task}, the other of {now.task}")


def _refused(text: str) -> RefusedError:
    return RefusedError(
        "explain.not_comparable",
        f"These two reports cannot be compared: {text}.",
        remedy="Explain both models on the same part of one dataset version.",
    )
