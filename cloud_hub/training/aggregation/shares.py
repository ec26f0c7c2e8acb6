"""Shares of a Round's weight: no device above `weight_share_max`. Pure.

1. Weights above the cap c are lowered to c, where c is `share_max` of the sum that comes of it
   (water-filling): the fewest and heaviest are lowered, the others keep their weights.
2. At most 1 / share_max updates can be lowered, so only the heaviest that many must be kept apart
   from a running sum until the Round closes. RESERVE_MAX bounds them: a `share_max` below
   1 / RESERVE_MAX makes all weigh alike, which keeps to any share that can be kept to.
3. Of 1 / share_max updates or fewer, all weigh alike: no other weights come nearer to the cap.
"""

from collections.abc import Sequence

RESERVE_MAX = 64


def reserve_size(share_max: float) -> int:
    """Return how many of the heaviest must be kept apart: 0 if none can ever be lowered."""
    if share_max >= 1.0 or weighs_alike(share_max):
        return 0
    return int(1.0 / share_max + 1e-9)


def weighs_alike(share_max: float) -> bool:
    """Return whether a share is so small that all weights are made equal."""
    return share_max < 1.0 / RESERVE_MAX


def capped(weights: Sequence[float], rest_sum: float, *, share_max: float) -> list[float]:
    """Return the weights of the heaviest after the cap, in their order.

    Args: weights: > 0, of at least the reserve_size heaviest; rest_sum: of all others, each at
    most the lightest of these.
    """
    if share_max >= 1.0 or not weights or weighs_alike(share_max):
        return list(weights)
    if rest_sum <= 0.0 and len(weights) * share_max <= 1.0 + 1e-9:
        return [min(weights)] * len(weights)
    cap = _cap(sorted(weights, reverse=True), rest_sum, share_max)
    return [min(weight, cap) for weight in weights]


def _cap(falling: Sequence[float], rest_sum: float, share_max: float) -> float:
    """Return c of rule 1: the first that lets every weight it does not lower stand."""
    below = rest_sum
    left = [rest_sum, *(below := below + weight for weight in reversed(falling))]
    for count in range(len(falling) + 1):  # That many are lowered; all of them, at last
        spare = 1.0 - count * share_max
        if spare <= 1e-9:
            break
        cap = share_max * left[len(falling) - count] / spare
        if count == len(falling) or falling[count] <= cap:
            return cap
    return falling[-1]  # Only rounding leads here
