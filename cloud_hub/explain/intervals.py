"""Intervals: a share with what chance leaves open, 95 % (Wilson 1927). Pure, without numpy."""

import math
from statistics import NormalDist

from cloud_hub.explain.report import Interval

CONFIDENCE = 0.95  # Two-sided
_Z = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2.0)


def share_of(right: float, count: float) -> Interval | None:
    """Return `right` of `count` as a share with its interval; None where there is nothing.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of
    the American Statistical Association 22, 1927. It never leaves 0..1 and has a width at 0 and 1,
    where the usual (Wald) interval says that there is no doubt.
    """
    if count <= 0:
        return None
    value = right / count
    weight = _Z * _Z / count
    middle = (value + weight / 2.0) / (1.0 + weight)
    half = math.sqrt(value * (1.0 - value) * weight + weight * weight / 4.0) / (1.0 + weight)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # What rounding makes of 0 of n and n of n must not lie outside of the interval.
    return Interval(value, min(low, value), max(high, value), round(count))
