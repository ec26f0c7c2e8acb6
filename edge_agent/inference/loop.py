"""InferenceLoop: takes a pipeline's items, decides several of them at a time, tells them in order.

1. `run` is called by as many threads as there are lanes. One of them at a time leads: it waits for
   an item and for a slot and takes the item; then another one leads while it decides. Who does
   not lead sleeps: an idle pipeline wakes one thread every WAIT_S, however many lanes it has.
2. An item is taken only with a slot in hand: where more comes than can be decided, the newest wins
   to the last moment (slots.py).
3. Without a serving release nothing is taken from the mailbox: a source whose every item counts
   waits with it.
4. Who serves is read once per item, when it is taken. A swap takes effect between two items.
5. Results leave in the order of items (in_order.py), and are concluded there: what is remembered
   from item to item lives in telling.py.
6. A run that fails makes a MissedItem; the loop goes on.
7. A trial's companion runs after the decision, by whichever lane comes by (companion.py).
8. `change` takes effect from the next item that is taken; nothing is lost.
"""

import threading
from collections.abc import Sequence

from edge_agent.inference.active_model import ActiveModel, Line
from edge_agent.inference.companion import CompanionRuns
from edge_agent.inference.in_order import InOrder
from edge_agent.inference.lane_work import Finished, RawRun, RunError, Work
from edge_agent.inference.runner_pool import RunnerPools
from edge_agent.inference.slots import InferenceSlots
from edge_agent.inference.stage_times import StageTimes
from edge_agent.inference.telling import FrameSink, Sink, Telling
from edge_agent.inference.tensor_runner import Ready, TensorRunner
from edge_agent.sources.item import Frame, Item
from edge_agent.sources.mailbox import Mailbox
from edge_agent.sources.opencv_frames import Held
from shared.clock import Clock
from shared.errors import RefusedError, TransientError
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.frames import FrameSettings

WAIT_S = 0.2  # How long a wait lasts at most before it looks whether to stop


class InferenceLoop:
    """See the rules above. `run` in threads of its own; the rest from any."""

    def __init__(
        self,
        pipeline: str,
        mailbox: Mailbox,
        active_model: ActiveModel,
        *,
        sinks: Sequence[Sink],
        clock: Clock,
        settings: DecisionSettings | None = None,
        frames: FrameSettings | None = None,
        frame_sinks: Sequence[FrameSink] = (),
        slots: InferenceSlots | None = None,
        lanes: int = 1,
    ) -> None:
        """Put the parts together.

        Args:
            pipeline: its name.
            mailbox: where items come from.
            active_model: who decides them.
            sinks: get every result, in this order; they must not wait.
            clock: for times of stages.
            settings: how this device reads outputs.
            frames: what becomes of frames before the model sees them.
            frame_sinks: get every result with its item, after the sinks.
            slots: shared with all other pipelines; None: one for each lane of this one.
            lanes: how many threads call `run`.
        """
        self._mailbox = mailbox
        self._active_model = active_model
        self._clock = clock
        # Read once per item, replaced as one value.
        self._plan = (settings or DecisionSettings(), RunnerPools(frames or FrameSettings()))
        self._slots = slots or InferenceSlots(lanes)
        self._companions = CompanionRuns(active_model, clock)
        self._telling = Telling(
            pipeline,
            sinks=tuple(sinks),
            frame_sinks=tuple(frame_sinks),
            companions=self._companions,
            clock=clock,
        )
        # One more than lanes: a lane need not wait for one that is a little slower.
        self._order = InOrder(self._tell, open_max=2 * lanes)
        self._leading = threading.Lock()
        self._is_over = False

    @property
    def is_waiting_for_model(self) -> bool:
        """Whether no release serves yet."""
        return self._active_model.line.serving is None

    @property
    def is_over(self) -> bool:
        """Whether the source ended and every item was decided."""
        return self._is_over

    @property
    def failing(self) -> str:
        """Return why inference failed on the last item; empty if it did not."""
        return self._telling.failing

    @property
    def gated_count(self) -> int:
        """Return on how many frames the model was not asked, because nothing moved."""
        return self._telling.gated_count

    @property
    def is_frozen(self) -> bool:
        """Whether the source's picture does not change any more, where that is looked at."""
        return self._plan[1].is_frozen

    @property
    def times(self) -> StageTimes:
        """Return how long each stage took with the last items."""
        return self._telling.times

    def change(
        self,
        *,
        settings: DecisionSettings | None = None,
        frames: FrameSettings | None = None,
        sinks: Sequence[Sink] | None = None,
        frame_sinks: Sequence[FrameSink] | None = None,
    ) -> None:
        """Go on with these; None leaves what is. See rule 8."""
        decisions, pools = self._plan
        self._plan = (settings or decisions, pools if frames is None else RunnerPools(frames))
        if self._plan[0] != decisions:
            self._plan[1].ask_again()  # What is held was concluded by the settings before
        if sinks is not None:
            self._telling.sinks = tuple(sinks)
        if frame_sinks is not None:
            self._telling.frame_sinks = tuple(frame_sinks)

    def run(self, stop: threading.Event) -> None:
        """Decide items until `stop` is set or the source has ended."""
        while not stop.is_set():
            with self._leading:
                if stop.is_set():
                    return
                work = self._lead(stop)
                if work is None and self._mailbox.is_over:
                    self._is_over = self._order.open_count == 0
                    return
            if work is not None:
                try:
                    self._decide(work)
                finally:
                    self._slots.release()

    def _lead(self, stop: threading.Event) -> Work | None:
        """Return the next item with a slot in hand; None if there is none within WAIT_S."""
        line = self._active_model.line
        self._plan[1].keep_only(on.session for on in (line.serving, line.companion) if on)
        if line.serving is None:
            self._active_model.wait_until_serving(WAIT_S)
            return None
        if not self._mailbox.wait_for_item(WAIT_S) or not self._order.wait_for_room(WAIT_S):
            return None
        if not self._slots.acquire(stop):
            return None
        work = None
        try:
            work = self._begin(self._active_model.line)
        finally:
            if work is None:
                self._slots.release()
        return work

    def _begin(self, line: Line) -> Work | None:
        """Take the item; None if the release was withdrawn meanwhile: the item stays inside."""
        item = None if line.serving is None else self._mailbox.take(0.0)
        if line.serving is None or item is None:
            return None
        taken_s = self._clock.monotonic_s()
        decisions, pools = self._plan
        pool = pools.of(line.serving)
        ready: Ready | Held | RunError | None = None
        runner, prepare_ms = None, 0.0
        try:
            runner = pool.take()
        except (RefusedError, TransientError) as error:  # No room for another input
            ready = error
        if runner and pools.is_gating and isinstance(item, Frame):  # In order: not in the lane
            ready = _prepared(runner, item, is_gated=True)
            prepare_ms = (self._clock.monotonic_s() - taken_s) * 1000.0
        return Work(
            ticket=self._order.begin(),
            item=item,
            line=line,
            release=line.serving,
            decisions=decisions,
            pools=pools,
            pool=pool,
            runner=runner,
            ready=ready,
            taken_s=taken_s,
            prepare_ms=prepare_ms,
        )

    def _decide(self, work: Work) -> None:
        finished = None
        try:
            finished = Finished(work, self._run(work))
        finally:
            self._order.finish(work.ticket, finished)
        self._companions.run()

    def _run(self, work: Work) -> RawRun | Held | RunError:
        started_s = self._clock.monotonic_s()
        ready, runner = work.ready, work.runner
        if ready is None and runner is not None:
            ready = _prepared(runner, work.item, is_gated=False)
        if not isinstance(ready, Ready) or runner is None:
            assert ready is not None, "without a runner there is an error"
            assert not isinstance(ready, Ready), "what is ready is in a runner"
            return ready
        prepared_s = self._clock.monotonic_s()
        try:
            rows = runner.infer(ready)
        except (RefusedError, TransientError) as error:
            return error
        return RawRun(
            rows=rows,
            placement=ready.placement,
            prepare_ms=work.prepare_ms + (prepared_s - started_s) * 1000.0,
            run_ms=(self._clock.monotonic_s() - prepared_s) * 1000.0,
        )

    def _tell(self, finished: Finished) -> None:
        try:
            self._telling.tell(finished)
        finally:
            if finished.work.runner is not None:
                finished.work.pool.give_back(finished.work.runner)


def _prepared(runner: TensorRunner, item: Item, *, is_gated: bool) -> Ready | Held | RunError:
    try:
        return runner.prepare(item, is_gated=is_gated)
    except RefusedError as error:
        return error
