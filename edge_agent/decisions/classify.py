"""Classification: scores to a class, with hysteresis. Confidence is the class's probability."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.wire.records import Classified


def classify(
    scores: NDArray[np.float32],
    classes: Sequence[str],
    *,
    previous: str | None = None,
    margin: float = 0.0,
) -> Classified:
    """Return the class of one item.

    Args:
        scores: (classes,) probabilities.
        classes: their names.
        previous: the class of the item before, if any; a new class must beat it by `margin`, so
            that a scene on the edge between two does not flicker.
        margin: 0..1; 0 takes the best class always.
    """
    best = int(np.argmax(scores))
    if margin > 0 and previous in classes:
        before = classes.index(previous)
        if scores[best] - scores[before] < margin:
            best = before
    return Classified(label=classes[best], confidence=min(1.0, float(scores[best])))
