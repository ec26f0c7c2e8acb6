"""Paired test of two mean scores on the same items, for scores in 0..1. Pure numpy.

1. Of each item the difference new - old is known, within -1..1. Nothing is taken for granted of how
   differences are spread: most are 0, the others lie to one side. That rules out the t interval
   and the bootstrap (of differences that are all 0 they say "surely no loss") and sign flips, which
   need symmetry.
2. The bound is Gaffke's (N. Gaffke, Three test statistics for a nonparametric one-sided hypothesis
   on the mean of a nonnegative variable, Mathematical Methods of Statistics 14, 2005, 451-467): the
   items and one more that is as bad as can be get random weights, uniform on the simplex; 5 % of
   the weighted means lie below it. E. Learned-Miller and P. S. Thomas (A new confidence interval
   for the mean of a bounded random variable, arXiv:1905.06208, 2019) found the same bound, never
   looser than Hoeffding's or Anderson's.
3. Where differences are -1 and 0 only, it is the bound of Clopper and Pearson; where they are -1, 0
   and 1 and the question is "worse or not", its p-value is McNemar's exact one: what paired_test.py
   has for classes. For all other scores its level is not proved but conjectured; no violation is
   known, and tests/unit/test_paired_scores.py measures it.
4. The chance that a weighted mean is below a value is that of a weighted sum of Gamma variables
   being negative; it is integrated from their characteristic function as J. P. Imhof did (Computing
   the distribution of quadratic forms in normal variables, Biometrika 48, 1961, 419-426). Nothing
   is drawn: the same items always give the same bound.
5. Items are taken as independent. Frames of one video are not: few of many videos tell more.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates.paired_test import CONFIDENCE

Floats = NDArray[np.float64]

VALUES_MAX = 256  # Of more different differences, each is rounded to the side that is safe
GRID = 1000.0  # ... to so many steps of 1
_POINTS = 2048  # Of the integral, evenly spaced in the logarithm
_LOG_FROM = -27.0  # Below, the integrand is under 1e-9 of anything
_LOG_TO = 40.0
_DECAYED = 35.0  # e^-35 and less is nothing
_SURE = 12.0  # So many deviations from zero: the chance is below 1e-5
_STEPS = 24  # Of halving: 2^-23 is finer than anybody reads a bound


def bound_low(differences: Floats, *, confidence: float = CONFIDENCE) -> float:
    """Return the lower bound of the mean of differences, (n,) in -1..1, one-sided."""
    values, counts = _grouped(differences)
    low, high = -1.0, float(differences.mean())
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if _chance_below(values, counts, middle) < 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


def bound_high(differences: Floats, *, confidence: float = CONFIDENCE) -> float:
    """Return the upper bound: the lower one with new and old exchanged."""
    return -bound_low(-differences, confidence=confidence)


def p_value_above(differences: Floats, limit: float) -> float:
    """Return the p-value against "the mean is `limit` or less": small says that it is above."""
    return _chance_below(*_grouped(differences), limit)


def worse_p_value(differences: Floats) -> float:
    """Return the p-value against "not worse": small says that the mean is below 0."""
    return p_value_above(-differences, 0.0)


def _grouped(differences: Floats) -> tuple[Floats, Floats]:
    """Return different values and how many items have each, the one as bad as can be among them."""
    assert differences.size, "no item tells nothing"
    assert np.abs(differences).max() <= 1.0, "scores lie in 0..1"
    values, counts = np.unique(np.append(differences, -1.0), return_counts=True)
    if values.size > VALUES_MAX:
        rounded = np.floor(np.append(differences, -1.0) * GRID) / GRID
        values, counts = np.unique(rounded, return_counts=True)
    return values.astype(np.float64), counts.astype(np.float64)


def _chance_below(values: Floats, counts: Floats, limit: float) -> float:
    """Return the chance that a randomly weighted mean of the values is below `limit`; rule 4."""
    apart = values - limit  # (k,)
    if apart.max() <= 0.0:
        return 1.0
    if apart.min() >= 0.0:
        return 0.0
    deviation = math.sqrt(float(counts @ np.square(apart)))
    distance = float(counts @ apart) / deviation
    if abs(distance) > _SURE:
        return 0.0 if distance > 0.0 else 1.0
    scaled = apart / deviation
    log_to = _log_end(scaled, counts)
    step = (log_to - _LOG_FROM) / _POINTS
    at = np.exp(_LOG_FROM + step * np.arange(_POINTS + 1))  # (p,)
    products = scaled[:, None] * at[None]  # (k, p)
    sizes = np.exp(-0.5 * (counts @ np.log1p(np.square(products))))  # (p,)
    turns = counts @ np.arctan(products)  # (p,)
    integral = float((sizes * np.sin(turns)).sum()) * step
    return min(1.0, max(0.0, 0.5 - integral / math.pi))


def _log_end(scaled: Floats, counts: Floats) -> float:
    """Return the logarithm beyond which the integrand is nothing."""
    tried = np.arange(0.0, _LOG_TO, 0.5)
    decay = 0.5 * (counts @ np.log1p(np.square(scaled[:, None] * np.exp(tried)[None])))
    gone = np.flatnonzero(decay > _DECAYED)
    return float(tried[gone[0]]) if gone.size else _LOG_TO
