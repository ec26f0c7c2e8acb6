"""Arrays over a block of memory that two processes see. Pure."""

import mmap
from collections.abc import Sequence

import numpy as np

from edge_agent.inference.engine import Array
from edge_agent.inference.worker_messages import Layout


def views(block: mmap.mmap, layout: Layout, offsets: Sequence[int], start: int) -> list[Array]:
    """Return an array for each output, `offsets` counted from `start`."""
    return [
        np.ndarray(shape, np.dtype(dtype), block, offset=start + offset)
        for (dtype, shape), offset in zip(layout, offsets, strict=True)
    ]
