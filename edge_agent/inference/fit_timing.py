"""Timing ways to run a release: short blocks by turns, so that what else runs here hits all alike.

1. Every way gets a block in each of BLOCKS_MAX rounds; figures are over all its blocks. What
   disturbs the machine for a moment then disturbs one block of each, and medians leave it out.
2. A block ends after BLOCK_S or RUNS_PER_BLOCK_MAX runs of each thread, but runs at least once.
3. No round begins after `seconds_max`; the first one always ends.
4. Each thread has its own buffer from `new_input`, filled before the clock is read: what is timed
   is the run that a pipeline pays for, not the copy of a golden input.
5. A way that fails is not run again; the others go on.
6. What a session's process holds is read after a way's first runs, few threads before many: runs at
   the same time each take memory of their own (YOLOv8n at 640 x 640: 71 MiB loaded, 87 after runs
   by one thread, 116 by two), and no runtime gives it back.

What must not live here: loading, choosing.
"""

import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_agent.inference.session import ModelSession
from shared.clock import Clock
from shared.errors import IsthmusError, RefusedError, TransientError

BLOCKS_MAX = 5
BLOCK_S = 0.04
RUNS_PER_BLOCK_MAX = 40
WARM_RUNS = 2

Array = NDArray[np.generic]


@dataclass(slots=True)
class Way:
    """A session and how many threads share it; what came of its blocks."""

    session: ModelSession
    threads: int
    inputs: Array  # (n, ...) golden inputs, run one by one
    read_rss_bytes: Callable[[], int] = lambda: 0  # Of the session's process; 0: not known
    rss_bytes: int = 0
    run_ms: list[float] = field(default_factory=list)
    items_per_s: list[float] = field(default_factory=list)  # Of each block
    error: IsthmusError | None = None

    @property
    def run_ms_p50(self) -> float:
        """Return the median of all runs."""
        return statistics.median(self.run_ms) if self.run_ms else 0.0

    @property
    def run_ms_p95(self) -> float:
        """Return what 95 % of the runs take at most."""
        return float(np.percentile(self.run_ms, 95)) if self.run_ms else 0.0

    @property
    def items_per_s_median(self) -> float:
        """Return the median of the blocks' throughput."""
        return statistics.median(self.items_per_s) if self.items_per_s else 0.0


def time_ways(
    ways: Sequence[Way],
    clock: Clock,
    *,
    seconds_max: float,
    blocks_max: int = BLOCKS_MAX,
) -> None:
    """Fill in what each way's runs take.

    Args: ways: their errors are kept in them, not raised.
    """
    began_s = clock.monotonic_s()
    for way in ways:
        _run_block(way, clock, runs_max=WARM_RUNS, is_kept=False)
        way.rss_bytes = way.read_rss_bytes()
    for block in range(blocks_max):
        for way in ways:
            if way.error is None:
                _run_block(way, clock, runs_max=RUNS_PER_BLOCK_MAX, is_kept=True)
        if block + 1 < blocks_max and clock.monotonic_s() - began_s >= seconds_max:
            return


def _run_block(way: Way, clock: Clock, *, runs_max: int, is_kept: bool) -> None:
    lanes = [_Lane(way, clock, runs_max) for _ in range(way.threads)]
    if len(lanes) == 1:
        lanes[0].run()
    else:
        _run_together(lanes)
    way.error = next((lane.error for lane in lanes if lane.error is not None), None)
    if way.error is not None or not is_kept:
        return
    for lane in lanes:
        way.run_ms.extend(lane.run_ms)
    seconds = max(lane.ended_s for lane in lanes) - min(lane.began_s for lane in lanes)
    runs_count = sum(len(lane.run_ms) for lane in lanes)
    way.items_per_s.append(runs_count / seconds if seconds > 0 else 0.0)


def _run_together(lanes: Sequence["_Lane"]) -> None:
    start = threading.Barrier(len(lanes))

    def run(lane: _Lane) -> None:
        start.wait()
        lane.run()

    threads = [threading.Thread(target=run, args=(lane,), name="fit") for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Lane:
    """One thread's part of a block."""

    def __init__(self, way: Way, clock: Clock, runs_max: int) -> None:
        self.run_ms: list[float] = []
        self.error: IsthmusError | None = None
        self.began_s = self.ended_s = 0.0
        self._session, self._inputs = way.session, way.inputs
        self._clock, self._runs_max = clock, runs_max

    def run(self) -> None:
        """Run until the block is over; never raises what a session may."""
        try:
            self._run()
        except (RefusedError, TransientError) as error:
            self.error = error

    def _run(self) -> None:
        clock, session = self._clock, self._session
        buffer = session.new_input()
        self.began_s = self.ended_s = clock.monotonic_s()
        for index in range(self._runs_max):
            np.copyto(buffer, self._inputs[index % len(self._inputs)][np.newaxis])
            start_s = clock.monotonic_s()
            session.run(buffer)
            self.ended_s = clock.monotonic_s()
            self.run_ms.append(1000.0 * (self.ended_s - start_s))
            if self.ended_s - self.began_s >= BLOCK_S:
                return
