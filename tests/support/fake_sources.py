"""Sources that do what a test tells them: hardware and networks that come and go."""

import threading
from collections.abc import Sequence

import numpy as np

from edge_agent.sources.item import Frame, Item
from shared.errors import IsthmusError


def frame_of(sequence: int, *, captured_s: float = 0.0, value: int = 0) -> Frame:
    pixels = np.full((4, 5, 3), value, np.uint8)
    return Frame(pixels, sequence, captured_ms=0, captured_s=captured_s)


class ScriptedSource:
    """Each step is an item, an error to raise, None for the end, or an event to set and go on.

    Errors under `open` are raised by `open`, one for each call, None for a call that succeeds.
    """

    def __init__(
        self,
        steps: Sequence[Item | IsthmusError | threading.Event | None],
        *,
        opens: Sequence[IsthmusError | None] = (),
        is_every_item: bool = True,
    ) -> None:
        self._steps = list(steps)
        self._opens = list(opens)
        self.is_every_item = is_every_item
        self.opened_count = 0
        self.closed_count = 0

    @property
    def description(self) -> str:
        return "the script"

    def open(self) -> None:
        self.opened_count += 1
        error = self._opens.pop(0) if self._opens else None
        if error is not None:
            raise error

    def read(self, stop: threading.Event) -> Item | None:  # noqa: ARG002  (the Protocol's)
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, threading.Event):
                step.set()
                continue
            if isinstance(step, IsthmusError):
                raise step
            return step
        return None

    def close(self) -> None:
        self.closed_count += 1
