"""Numbers: how near a model comes that answers with a number (regression, forecast). Pure numpy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
# Labels are whole numbers: an answer nearer than this rounds to the right one.
TOLERANCE = 0.5


def number_metrics(answers: Floats, true: Floats) -> dict[str, float]:
    """Return the errors over all items, (n,) each; empty where there is none.

    `r_squared` is left out where all true numbers are the same: there is nothing to explain.
    """
    if not true.size:
        return {}
    errors = answers.astype(np.float64) - true
    found = {
        "rmse": float(np.sqrt(np.mean(np.square(errors)))),
        "mae": float(np.mean(np.abs(errors))),
        "bias": float(np.mean(errors)),
        "within_tolerance": float(np.mean(is_within(answers, true))),
    }
    spread = float(np.sum(np.square(true - np.mean(true))))
    if spread > 0.0:
        found["r_squared"] = 1.0 - float(np.sum(np.square(errors))) / spread
    return found


def is_within(answers: Floats, true: Floats, *, tolerance: float = TOLERANCE) -> NDArray[np.bool_]:
    """Return whether each answer, (n,), is within the tolerance of the true number."""
    return np.abs(answers.astype(np.float64) - true) <= tolerance
