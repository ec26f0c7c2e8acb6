"""Items for tiny releases, and the real inference loop run over a given number of them."""

import threading

import numpy as np
from numpy.typing import NDArray

from edge_agent.decisions.decision import ItemResult
from edge_agent.inference.active_model import ActiveModel
from edge_agent.inference.loop import InferenceLoop
from edge_agent.sources.item import Window
from edge_agent.sources.mailbox import QUEUE_ITEMS_MAX, Keep, Mailbox
from shared.clock import Clock, SystemClock

SAMPLES = 16


def templates() -> NDArray[np.float32]:
    """Return one pattern a class, (3, SAMPLES)."""
    ramp = np.linspace(-1.0, 1.0, SAMPLES, dtype=np.float32)
    return np.stack([ramp, -ramp, np.abs(ramp) - 0.5]).astype(np.float32)


def window(sequence: int, clock: Clock) -> Window:
    """Return the sequence-th item: one of the patterns, with a little noise."""
    rng = np.random.default_rng(sequence)
    pattern = templates()[sequence % 3] + rng.normal(0.0, 0.05, SAMPLES)
    samples = pattern.astype(np.float32).reshape(SAMPLES, 1)  # (T, C)
    return Window(samples, sequence, int(clock.now_s() * 1000), clock.monotonic_s())


class Feeder:
    """Runs the real loop over items, in the caller's thread, a few at a time."""

    def __init__(self, active: ActiveModel, clock: Clock | None = None) -> None:
        self.results: list[ItemResult] = []
        self._active = active
        self._clock = clock or SystemClock()
        self._sequence = 0

    def feed(self, count: int) -> None:
        """Decide `count` items with whatever serves; something must."""
        assert self._active.line.serving is not None, "nothing serves"
        while count > 0:
            batch = min(count, QUEUE_ITEMS_MAX)
            self._feed(batch)
            count -= batch

    def _feed(self, count: int) -> None:
        mailbox, stop = Mailbox(Keep.EVERY), threading.Event()
        for _ in range(count):
            mailbox.put(window(self._sequence, self._clock), stop)
            self._sequence += 1
        mailbox.end()
        InferenceLoop(
            "watch", mailbox, self._active, sinks=[self.results.append], clock=SystemClock()
        ).run(stop)
