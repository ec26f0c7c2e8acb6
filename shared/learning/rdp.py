"""RDP accountant: what a run of Gaussian releases has cost, as (epsilon, delta). Pure.

1. One release of a sum of sensitivity 1 with noise of standard deviation sigma has Renyi divergence
   alpha / (2 sigma^2) at order alpha (Mironov 2017, proposition 7); releases add up per order.
2. Conversion: epsilon = min over alpha of rdp + log((alpha - 1) / alpha)
   - (log delta + log alpha) / (alpha - 1) (Canonne, Kamath, Steinke 2020, proposition 12).
3. With devices sampled at a rate q (Poisson), integer orders use the subsampled bound of Mironov,
   Talwar, Zhang 2019, equation (9). Local noise is never given that discount: the hub, against
   which it protects, knows who was sampled.
"""

import math
from collections.abc import Sequence

ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(128.0, 256.0, 512.0, 1024.0, 4096.0),
)
Rdp = tuple[float, ...]  # One number for each of ORDERS


def no_cost() -> Rdp:
    """Return what nothing costs."""
    return (0.0,) * len(ORDERS)


def gaussian_cost(noise_multiplier: float, *, releases: int = 1, sampling_rate: float = 1.0) -> Rdp:
    """Return the cost of some releases with noise of `noise_multiplier` x sensitivity.

    Args: sampling_rate: 0..1, the chance of each participant to be in one release.
    """
    if not noise_multiplier > 0.0 or not 0.0 <= sampling_rate <= 1.0 or releases < 0:
        raise ValueError("noise_multiplier > 0, 0 <= sampling_rate <= 1, releases >= 0")
    return tuple(
        releases * _one_release(order, noise_multiplier, sampling_rate) for order in ORDERS
    )


def add(first: Rdp, second: Rdp) -> Rdp:
    """Return what two costs come to."""
    return tuple(a + b for a, b in zip(first, second, strict=True))


def epsilon_of(cost: Sequence[float], delta: float) -> float:
    """Return the smallest epsilon for which `cost` is (epsilon, delta)-private, >= 0."""
    if not 0.0 < delta < 1.0:
        raise ValueError("0 < delta < 1")
    if not any(cost):
        return 0.0
    found = math.inf
    for order, rdp in zip(ORDERS, cost, strict=True):
        epsilon = rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        found = min(found, epsilon)
    return max(found, 0.0)


def _one_release(order: float, sigma: float, rate: float) -> float:
    if rate == 0.0:
        return 0.0
    if rate == 1.0:
        return order / (2 * sigma**2)
    if order != int(order):
        return math.inf  # The bound of rule 3 is for integer orders; there are enough of them.
    return _log_moment(int(order), sigma, rate) / (order - 1)


def _log_moment(order: int, sigma: float, rate: float) -> float:
    """Return log A of equation (9), summed in logarithms."""
    terms = [
        _log_binomial(order, k)
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return largest + math.log(sum(math.exp(term - largest) for term in terms))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
