"""Means and deviations of each channel of windows, to scale a model's input by. Numpy only."""

from collections.abc import Sequence

import numpy as np

from cloud_hub.datasets.manifest import Item
from cloud_hub.datasets.object_packs import pack_pieces
from cloud_hub.object_store import ObjectStore

DEVIATION_MIN = 1e-6  # A channel that never changes is not divided by nothing


def channel_statistics(
    objects: ObjectStore, items: Sequence[Item], window_shape: tuple[int, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return means and deviations of each channel over windows; () and () where there are none.

    Each is (C,); one pack is held at a time. Raises IntegrityError `dataset.damaged`,
    TransientError.
    """
    if not items:
        return (), ()
    samples_count, channels = window_shape
    means = np.zeros(channels)
    squares = np.zeros(channels)  # Of the distances to the mean so far
    count = 0
    for piece in pack_pieces(objects, items):
        data = b"".join(piece.item(items[index]) for index in piece.indices)
        rows = np.frombuffer(data, "<f4").reshape(-1, channels).astype(np.float64)  # (n T, C)
        # Two sets of rows joined (Chan et al. 1979): no loss where a mean is large.
        gap = rows.mean(axis=0) - means
        total = count + len(rows)
        squares += np.square(rows - rows.mean(axis=0)).sum(axis=0)
        squares += np.square(gap) * count * len(rows) / total
        means += gap * len(rows) / total
        count = total
    assert count == len(items) * samples_count, "every window has the manifest's shape"
    deviations = np.maximum(np.sqrt(squares / count), DEVIATION_MIN)
    return tuple(means.tolist()), tuple(deviations.tolist())
