"""Telling: from raw outputs to results, and results to the sinks. In the order of items.

1. One item at a time, by whichever lane finished the one that was waited for (in_order.py): what is
   remembered from item to item needs no lock.
2. A run that failed makes a MissedItem with the error's code, for each window of a batch.
3. An item that was held is told as what was concluded last, `is_held`; by whoever concluded it.
4. The first item after a swap tells what the swap cost: its latency beyond the median of the last
   HISTORY_ITEMS_MAX items, never below 0.
5. Failing is logged where it begins and where it ends.
"""

import dataclasses
import logging
import statistics
from collections import deque
from collections.abc import Callable, Iterator

from edge_agent.decisions.conclude import Conclusion
from edge_agent.decisions.concluder import Concluder
from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from edge_agent.inference.companion import CompanionRuns
from edge_agent.inference.lane_work import Concluded, Finished, RawRun, RunError, Work
from edge_agent.inference.memory import Memory
from edge_agent.inference.stage_times import StageTimes
from edge_agent.sources.item import Item, WindowBatch, own_time_s
from edge_agent.sources.opencv_frames import Held
from shared.clock import Clock
from shared.errors import RefusedError, TransientError

log = logging.getLogger(__name__)

HISTORY_ITEMS_MAX = 32

Sink = Callable[[ItemResult], None]
FrameSink = Callable[[ItemResult, Item], None]


class Telling:
    """See the rules above. `tell` in the order of items; the rest from any thread."""

    def __init__(
        self,
        pipeline: str,
        *,
        sinks: tuple[Sink, ...],
        frame_sinks: tuple[FrameSink, ...],
        companions: CompanionRuns,
        clock: Clock,
    ) -> None:
        """Args: sinks get every result, in this order; they must not wait."""
        self.sinks, self.frame_sinks = sinks, frame_sinks
        self.times = StageTimes()
        self.failing = ""
        self.gated_count = 0
        self._pipeline = pipeline
        self._companions = companions
        self._clock = clock
        self._memory = Memory()
        self._last: Decision | None = None
        self._latencies_ms: deque[float] = deque(maxlen=HISTORY_ITEMS_MAX)
        self._swaps_count = 0

    def tell(self, finished: Finished) -> None:
        """Conclude one item and tell it; then let the companion run on it."""
        work = finished.work
        if isinstance(finished.run, Held):
            self._tell_held(work, finished.run)
            return
        started_s = self._clock.monotonic_s()
        concluder = self._memory.of(work.release.session, work.decisions)
        came = self._conclude(finished, concluder, started_s)
        concluded_s = self._clock.monotonic_s()
        self._note_health(work, came)
        self._hand_out(work, came, concluded_s)
        if isinstance(finished.run, RawRun):
            self.times.add(
                wait_ms=max(0.0, (work.taken_s - work.item.captured_s) * 1000.0),
                prepare_ms=finished.run.prepare_ms,
                run_ms=finished.run.run_ms,
                conclude_ms=(concluded_s - started_s) * 1000.0,
                sinks_ms=(self._clock.monotonic_s() - concluded_s) * 1000.0,
            )
        self._companions.note(work, came, memory=self._memory, pools=work.pools)

    def _conclude(
        self, finished: Finished, concluder: Concluder, started_s: float
    ) -> Concluded | RunError:
        run, item = finished.run, finished.work.item
        if not isinstance(run, RawRun):
            assert not isinstance(run, Held), "told apart above"
            return run
        try:
            conclusions = tuple(
                concluder.conclude(
                    row.outputs,
                    batch=row.batch,
                    placement=run.placement,
                    at_s=own_time_s(item),
                    sensor=row.sensor,
                )
                for row in run.rows
            )
        except RefusedError as error:
            return error
        took_ms = (self._clock.monotonic_s() - started_s) * 1000.0
        return Concluded(conclusions, run.prepare_ms + run.run_ms + took_ms)

    def _hand_out(self, work: Work, came: Concluded | RunError, now_s: float) -> None:
        latency_ms = max(0.0, (now_s - work.item.captured_s) * 1000.0)
        swap_pause_ms = self._note_latency(work, latency_ms)
        if isinstance(came, RefusedError | TransientError):
            for _ in _sensors_of(work):
                self._tell(self._missed(work, came.code), work)
            return
        for sensor, conclusion in zip(_sensors_of(work), came.conclusions, strict=True):
            self._last = decision = Decision(
                pipeline=self._pipeline,
                model=work.release.model,
                version=work.release.version,
                item=work.item.sequence,
                captured_ms=work.item.captured_ms,
                outcome=conclusion.outcome,
                confidence=conclusion.confidence,
                latency_ms=latency_ms,
                inference_ms=came.inference_ms / len(came.conclusions),
                swap_pause_ms=swap_pause_ms,
                sensor=sensor,
            )
            swap_pause_ms = 0.0
            self._tell(decision, work)

    def _tell_held(self, work: Work, held: Held) -> None:
        """See rule 3. Where nothing was concluded yet there is nothing to tell again."""
        self.gated_count += 1
        concluder, last = self._memory.concluder, self._last
        if concluder is None or last is None:
            return
        conclusion = concluder.hold(at_s=own_time_s(work.item))  # Told or not, it stands there
        if conclusion is not None and held.is_told:
            self._tell(self._held_decision(work, last, conclusion), work)

    def _held_decision(self, work: Work, last: Decision, conclusion: Conclusion) -> Decision:
        now_s = self._clock.monotonic_s()
        return dataclasses.replace(
            last,
            item=work.item.sequence,
            captured_ms=work.item.captured_ms,
            outcome=conclusion.outcome,
            confidence=conclusion.confidence,
            latency_ms=max(0.0, (now_s - work.item.captured_s) * 1000.0),
            inference_ms=0.0,
            swap_pause_ms=0.0,
            is_held=True,
        )

    def _missed(self, work: Work, code: str) -> MissedItem:
        return MissedItem(
            pipeline=self._pipeline,
            model=work.release.model,
            version=work.release.version,
            item=work.item.sequence,
            code=code,
        )

    def _tell(self, result: ItemResult, work: Work) -> None:
        for sink in self.sinks:
            sink(result)
        for frame_sink in self.frame_sinks:
            frame_sink(result, work.item)

    def _note_latency(self, work: Work, latency_ms: float) -> float:
        """Return what a swap cost this item; see rule 4."""
        swap_pause_ms = 0.0
        if work.line.swaps_count != self._swaps_count:
            self._swaps_count = work.line.swaps_count
            if self._latencies_ms:
                swap_pause_ms = max(0.0, latency_ms - statistics.median(self._latencies_ms))
        self._latencies_ms.append(latency_ms)
        return swap_pause_ms

    def _note_health(self, work: Work, came: Concluded | RunError) -> None:
        """See rule 5."""
        was_failing = bool(self.failing)
        self.failing = "" if isinstance(came, Concluded) else str(came)
        if was_failing == bool(self.failing):
            return
        release = work.release
        fields = {"pipeline": self._pipeline, "model": release.model, "version": release.version}
        if isinstance(came, Concluded):
            log.info("inference.recovered", extra=fields)
        else:
            detail = {"code": came.code, "detail": str(came)}
            log.warning("inference.failing", extra={**fields, **detail})


def _sensors_of(work: Work) -> Iterator[str]:
    """Yield the sensor of each result that this item has."""
    if isinstance(work.item, WindowBatch):
        yield from work.item.sensors
    else:
        yield ""
