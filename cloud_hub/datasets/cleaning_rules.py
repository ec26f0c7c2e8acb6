"""The rules of cleaning over whole columns: duplicates, conflicts, leaks, outliers. Pure.

1. Each returns indices of items, in order; what to say about them is cleaning.py's business.
2. Near duplicates: looks that differ in at most LOOK_BITS_MAX of 128 bits, with nearly the same
   brightness and contrast. Cut into four words of 32 bits, two such looks share at least one word
   (pigeonhole), so only items that share one are compared; of those that share a word only the
   LOOK_NEIGHBOURS_MAX next ones.
3. Outliers: |value - median| over OUTLIER_Z robust deviations (1.4826 x MAD; where that is 0,
   1.2533 x the mean distance; Iglewicz and Hoaglin 1993).
"""

import numpy as np
from numpy.typing import NDArray

LOOK_BITS_MAX = 3
LOOK_BITS_MIN = 8  # Set ones; with fewer a picture is too even to tell it from others
LOOK_NEIGHBOURS_MAX = 64
TONE_STEP_MAX = 4.0
OUTLIER_Z = 8.0
MAD_FACTOR = 1.4826
MEAN_FACTOR = 1.2533
OUTLIER_ITEMS_MIN = 20  # Below, a median says little

Indices = NDArray[np.int64]


def group_starts(rows: NDArray[np.uint64]) -> tuple[Indices, NDArray[np.bool_]]:
    """Return the order that brings equal (N, 2) rows together, and where in it runs begin."""
    order = np.lexsort((rows[:, 1], rows[:, 0])).astype(np.int64)  # Stable: the first stays first
    ordered = rows[order]
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, is_first


def duplicates(digests: NDArray[np.uint64]) -> Indices:
    """Return every item whose bytes an earlier one has."""
    order, is_first = group_starts(digests)
    return np.sort(order[~is_first])


def mixed(digests: NDArray[np.uint64], codes: NDArray[np.int64]) -> Indices:
    """Return every item whose bytes another has with another code; below 0 does not count."""
    chosen = np.flatnonzero(codes >= 0)
    order, is_first = group_starts(digests[chosen])
    return np.sort(chosen[order[_in_mixed(np.cumsum(is_first) - 1, codes[chosen][order])]])


def mixed_groups(groups: NDArray[np.int32], parts: NDArray[np.int8]) -> Indices:
    """Return every item of a group that lies in more than one part."""
    chosen = np.flatnonzero((groups >= 0) & (parts >= 0))
    order = np.argsort(groups[chosen], kind="stable")
    keys = groups[chosen][order].astype(np.int64)
    found = _in_mixed(keys, parts[chosen][order].astype(np.int64))
    return np.sort(chosen[order[found]])


def near_duplicates(
    looks: NDArray[np.uint64], tones: NDArray[np.float32], is_blank: NDArray[np.bool_]
) -> Indices:
    """Return every item that looks like an earlier one; see rule 2.

    Args:
        looks: (N, 2) words of 64 bits.
        tones: (N, facts), brightness and contrast, of 255.
        is_blank: (N,) whose look says nothing.
    """
    order, is_first = group_starts(looks)
    firsts = order[is_first][np.cumsum(is_first) - 1]  # Of each item's run
    found = np.zeros(len(looks), np.bool_)
    found[order] = ~is_first & _same_tones(tones, order, firsts)
    distinct = order[is_first]  # One item per look
    words = np.ascontiguousarray(looks[distinct]).view(np.uint32).reshape(-1, 4)
    for column in range(4):
        ranks = np.argsort(words[:, column], kind="stable")
        shared = words[ranks, column]
        for step in range(1, min(LOOK_NEIGHBOURS_MAX, len(ranks) - 1) + 1):
            pairs = np.flatnonzero(shared[step:] == shared[:-step])
            if not len(pairs):
                break
            first, second = ranks[pairs], ranks[pairs + step]
            differing = np.bitwise_count(words[first] ^ words[second]).sum(axis=1)
            alike = differing <= LOOK_BITS_MAX
            alike &= _same_tones(tones, distinct[first], distinct[second])
            found[np.maximum(distinct[first[alike]], distinct[second[alike]])] = True
    says_enough = np.bitwise_count(looks).sum(axis=1) >= LOOK_BITS_MIN
    return np.flatnonzero(found & says_enough & ~is_blank)


def outliers(values: NDArray[np.float32]) -> tuple[Indices, float, float]:
    """Return the items far from the median, that median and the robust deviation; see rule 3."""
    if len(values) < OUTLIER_ITEMS_MIN:
        return np.empty(0, np.int64), float(np.median(values)) if len(values) else 0.0, 0.0
    wide = values.astype(np.float64)
    median = float(np.median(wide))
    distances = np.abs(wide - median)
    deviation = MAD_FACTOR * float(np.median(distances))
    if deviation == 0.0:
        deviation = MEAN_FACTOR * float(distances.mean())
    if deviation == 0.0:
        return np.empty(0, np.int64), median, 0.0
    return np.flatnonzero(distances > OUTLIER_Z * deviation), median, deviation


def _same_tones(tones: NDArray[np.float32], some: Indices, others: Indices) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (np.abs(tones[some] - tones[others]) <= TONE_STEP_MAX).all(axis=1)
    return same


def _in_mixed(keys: NDArray[np.int64], codes: NDArray[np.int64]) -> Indices:
    """Return the positions whose key (keys come in runs) has more than one code."""
    if not len(keys):
        return np.empty(0, np.int64)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    differs = np.maximum.reduceat(codes, starts) != np.minimum.reduceat(codes, starts)
    lengths = np.diff(np.r_[starts, len(keys)])
    return np.flatnonzero(np.repeat(differs, lengths))
