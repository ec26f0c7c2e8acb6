"""Running mean of updates: a float64 sum, block by block. Pure.

A float32 sum of 10,000 updates loses 3 to 4 of its 7 digits where they cancel; a float64 sum
loses none that a float32 result could show. It costs 8 bytes a number instead of 4; a block is
small enough that what is converted stays in the processor's cache, so reading the update and
the sum from memory stays the price. A second thread gained nothing on two cores (2.5 million
numbers: fold 1.7 ms, norm 0.8 ms, with either).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.model.weights import Vector

BLOCK = 128 * 1024  # Numbers; 1 MiB as float64

Sum = NDArray[np.float64]


def fold(total: Sum, vector: Vector, weight: float) -> None:
    """Add `weight` x `vector` to `total`, in place."""
    scratch = np.empty(min(BLOCK, total.size), np.float64)
    for start, stop in _blocks(total.size):
        part = scratch[: stop - start]
        part[:] = vector[start:stop]
        part *= weight
        total[start:stop] += part


def norm_of(vector: Vector) -> float:
    """Return the L2 norm, summed in float64; not finite if one number is not."""
    scratch = np.empty(min(BLOCK, vector.size), np.float64)
    square = 0.0
    for start, stop in _blocks(vector.size):
        part = scratch[: stop - start]
        part[:] = vector[start:stop]
        square += float(part @ part)
    return float(np.sqrt(square))


def divided(total: Sum, divisor: float) -> Vector:
    """Return total / divisor as float32."""
    result = np.empty(total.size, np.float32)
    for start, stop in _blocks(total.size):
        result[start:stop] = total[start:stop] / divisor
    return result


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, BLOCK):
        yield start, min(start + BLOCK, size)
