"""Frame, Window, WindowBatch and TextItem: what a source gives. Values only.

An item's sequence number says where it stood at its source, from 0; a skipped item leaves a gap.
`captured_ms` is wall-clock time for people and for the hub; `captured_s` is the monotonic clock's,
for latencies. What happens over time (tracks, dwell, hysteresis, motion) goes by `own_time_s`: a
recording has a time of its own, however fast it is played.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture."""

    pixels: NDArray[np.uint8]  # (H, W, 3) BGR
    sequence: int
    captured_ms: int
    captured_s: float
    recorded_s: float | None = None  # Of a recording: its own time, from 0; never falls


@dataclass(frozen=True, slots=True)
class Window:
    """The newest samples of a sensor, oldest first."""

    samples: NDArray[np.float32]  # (T, C)
    sequence: int
    captured_ms: int  # When its last sample came
    captured_s: float
    recorded_s: float | None = None  # Of a recording: its own time, from 0; never falls


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows of several sensors that were complete together; each is a Window of its own."""

    samples: NDArray[np.float32]  # (N, T, C)
    sensors: tuple[str, ...]  # (N,) which sensor each is of
    sequence: int
    captured_ms: int  # When the last sample of the newest came
    captured_s: float


@dataclass(frozen=True, slots=True)
class TextItem:
    """One short message."""

    text: str
    sequence: int
    captured_ms: int
    captured_s: float


Item = Frame | Window | WindowBatch | TextItem


def own_time_s(item: Item) -> float:
    """Return when `item` was, in seconds since any moment: the recording's time, or captured_s."""
    recorded_s = item.recorded_s if isinstance(item, Frame | Window) else None
    return item.captured_s if recorded_s is None else recorded_s
