"""StageTimes: how long each stage took with the last items of a pipeline, for p50, p95 and p99.

What must not live here: a clock; who measures hands the times in.
"""

import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

ITEMS_MAX = 512


class Stage(StrEnum):
    """The stages of one item, in order."""

    WAIT = "wait"  # From captured until it was taken: in the mailbox, and for a slot
    PREPARE = "prepare"  # To the model's input tensor
    RUN = "run"  # The model
    CONCLUDE = "conclude"  # Outputs to an outcome, once it is its turn
    SINKS = "sinks"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one stage, milliseconds."""

    p50: float
    p95: float
    p99: float


class StageTimes:
    """See above. Written by one thread at a time, read by any."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._rows: deque[tuple[float, float, float, float, float]] = deque(maxlen=ITEMS_MAX)
        self._lock = threading.Lock()

    def add(
        self,
        *,
        wait_ms: float,
        prepare_ms: float,
        run_ms: float,
        conclude_ms: float,
        sinks_ms: float,
    ) -> None:
        """Note the times of one item."""
        with self._lock:
            self._rows.append((wait_ms, prepare_ms, run_ms, conclude_ms, sinks_ms))

    def percentiles(self) -> dict[Stage, Percentiles]:
        """Return each stage's percentiles over the last ITEMS_MAX items; empty before the first."""
        with self._lock:
            rows = list(self._rows)
        if not rows:
            return {}
        found = np.percentile(np.asarray(rows), (50, 95, 99), axis=0)  # (3, stages)
        return {
            stage: Percentiles(*(float(value) for value in column))
            for stage, column in zip(Stage, found.T, strict=True)
        }
