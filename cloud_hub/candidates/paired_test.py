"""Paired test of two accuracies on the same items: the score interval of Tango (1998). Pure.

1. Of n items, `gained` are right now and were wrong, `lost` are wrong now and were right; all that
   both decide alike says nothing about the difference (gained - lost) / n.
2. The bound of a one-sided 95 % interval is where the score statistic reaches 1.645 (T. Tango,
   Equivalence test and confidence interval for the difference in proportions for the paired-sample
   design, Statistics in Medicine 17, 1998, 891-908). It says something where few items differ,
   also none, where the usual (Wald) interval says nothing or too much.
3. Where nothing was gained, losses are so coarse a count that the score alone lets through up to
   7 % at the margin; there the exact binomial bound (C. J. Clopper and E. S. Pearson, Biometrika
   26, 1934, 404-413) must agree. With both it is 5.5 % at most from 15 items on, counted out
   exactly over a grid of truths (tests/unit/test_gate_quality.py).
4. "Not worse" is lower bound > -margin. A candidate must show this for all items and for every
   slice that is large enough: an intersection-union test, whose overall error is at most that of
   one test without any correction (R. L. Berger, Technometrics 24, 1982, 295-300).
5. "Worse" is claimed where one slice suffices, so it is corrected over the slices: Holm's step-down
   (Scandinavian Journal of Statistics 6, 1979, 65-70) on the one-sided tests of "difference < 0".
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

CONFIDENCE = 0.95  # One-sided
POWER = 0.8  # Of the number of items that is asked for
EXACT_LOSSES_MAX = 200  # Beyond that the two bounds hardly differ
_STEPS = 60  # Of halving: 2^-60 is below a double's precision
_Z = NormalDist().inv_cdf(CONFIDENCE)


def score(gained: float, lost: float, items: float, difference: float) -> float:
    """Return Tango's statistic for a true difference in (-1, 1): standard normal if it is true."""
    # Maximum-likelihood chance of "lost" under the constraint: the larger root of a q^2 + b q + c.
    a = 2.0 * items
    b = -gained - lost + (2.0 * items - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    q = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = items * (2.0 * q + difference * (1.0 - difference))
    distance = gained - lost - items * difference
    if variance <= 0.0:
        return 0.0 if distance == 0.0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def bound_low(gained: float, lost: float, items: float, *, z: float = _Z) -> float:
    """Return the lower bound of the true difference, one-sided by default at 95 %."""
    low, high = -1.0, (gained - lost) / items
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if score(gained, lost, items, middle) > z:
            low = middle
        else:
            high = middle
    if gained == 0 and lost <= EXACT_LOSSES_MAX:
        chance = 1.0 - NormalDist().cdf(z)
        return min(low, -_most_losses(int(lost), int(items), chance=chance))
    return low


def _most_losses(lost: int, items: int, *, chance: float) -> float:
    """Return the share of losses with which so few are seen with this chance (Clopper-Pearson)."""
    low, high = lost / items, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if _fewer_chance(lost, items, middle) > chance:
            low = middle
        else:
            high = middle
    return high


def _fewer_chance(lost: int, items: int, share: float) -> float:
    """Return the binomial chance of `lost` or fewer."""
    if lost >= items or share <= 0.0:
        return 1.0
    if share >= 1.0:
        return 0.0
    # From `lost` down: there the largest term is, which no double is too small for.
    ways = math.lgamma(items + 1) - math.lgamma(lost + 1) - math.lgamma(items - lost + 1)
    logs = ways + lost * math.log(share) + (items - lost) * math.log1p(-share)
    term = total = math.exp(logs)
    for count in range(lost, 0, -1):
        term *= count / (items - count + 1.0) * (1.0 - share) / share
        total += term
    return total


def bound_high(gained: float, lost: float, items: float, *, z: float = _Z) -> float:
    """Return the upper bound: the lower one with new and old exchanged."""
    return -bound_low(lost, gained, items, z=z)


def worse_p_value(gained: int, lost: int) -> float:
    """Return the chance of as many losses or more if losses and gains were equally likely.

    The exact one-sided McNemar test: the items that differ are a fair coin's throws.
    """
    if lost > gained:
        return _fair_tail(lost, gained + lost)
    return 1.0 - _fair_tail(gained + 1, gained + lost)


def _fair_tail(count: int, throws: int) -> float:
    """Return the chance of `count` heads or more; `count` is above half of the throws."""
    if count > throws:
        return 0.0
    ways = math.lgamma(throws + 1) - math.lgamma(count + 1) - math.lgamma(throws - count + 1)
    term = total = math.exp(ways - throws * math.log(2.0))
    for heads in range(count, throws):
        term *= (throws - heads) / (heads + 1.0)
        total += term
    return total


def claims_by_holm(p_values: Mapping[str, float]) -> frozenset[str]:
    """Return the names whose claim holds, with a chance of 5 % that any of them is wrong."""
    claimed: set[str] = set()
    ordered = sorted(p_values, key=lambda name: p_values[name])
    for index, name in enumerate(ordered):
        if p_values[name] > (1.0 - CONFIDENCE) / (len(ordered) - index):
            break
        claimed.add(name)
    return frozenset(claimed)


def items_needed(gained: int, lost: int, items: int, *, margin: float) -> int:
    """Return about how many items would show "not worse", if new and old are equally good.

    They are taken to differ on as large a share of items as they did here, half an item at least.
    """
    if not 0.0 < margin < 1.0:
        return items + 1
    differing = max(gained + lost, 0.5) / items
    z_power = NormalDist().inv_cdf(POWER)
    by_spread = (_Z + z_power) ** 2 * differing / margin**2
    # Even if no item differs, a share of `margin` losses must be unlikely to stay unseen.
    at_least = math.log(1.0 - CONFIDENCE) / math.log1p(-margin)
    return math.ceil(max(by_spread, at_least, items + 1))


def items_needed_of_spread(squares_sum: float, items: int, *, margin: float) -> int:
    """Return about how many items would show "not worse" by scores in 0..1 (paired_scores.py).

    New and old are taken to be equally good and to differ as much as they did on `items` items,
    whose squared differences sum to `squares_sum`: by half an item's whole score at least.
    """
    if not 0.0 < margin < 1.0:
        return items + 1
    z_power = NormalDist().inv_cdf(POWER)
    spread = (_Z + z_power) * math.sqrt(max(squares_sum, 0.5) / items)
    # The item as bad as can be lowers the bound by 1 / n: margin n = spread sqrt(n) + 1.
    root = (spread + math.sqrt(spread**2 + 4.0 * margin)) / (2.0 * margin)
    # Even if no item differs, a share of `margin` losses must be unlikely to stay unseen.
    at_least = math.log(1.0 - CONFIDENCE) / math.log1p(-margin)
    return math.ceil(max(root**2, at_least, items + 1))
