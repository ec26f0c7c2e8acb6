"""CompanionRuns: during a trial, the other release on a share of the same items, compared.

1. It runs after the item's Decision was handed to the sinks. Items wait for it in a queue; whoever
   of the lanes comes by runs what waits, in order, one lane at a time.
2. A lane that finds more than QUEUE_ITEMS_MAX waiting waits itself: a trial may slow a pipeline
   down, it does not lose evidence.
3. It has a memory of its own, which begins with what the serving one had concluded until then.
4. An item that neither release can take (a sensor's window, where the model wants a frame) is the
   pipeline's fault and no evidence: it is not compared.
"""

import threading
from collections import deque
from dataclasses import dataclass

from edge_agent.decisions.agreement import agrees
from edge_agent.decisions.concluder import Concluder
from edge_agent.inference.active_model import ActiveModel, Comparison, LoadedRelease
from edge_agent.inference.lane_work import Concluded, RunError, Work
from edge_agent.inference.memory import Memory
from edge_agent.inference.runner_pool import RunnerPool, RunnerPools
from edge_agent.sources.item import own_time_s
from edge_agent.sources.opencv_frames import Held
from shared.clock import Clock
from shared.errors import RefusedError, TransientError

QUEUE_ITEMS_MAX = 2
WRONG_ITEM_CODE = "inference.input"


@dataclass(frozen=True, slots=True)
class _Due:
    """An item on which the companion is to run."""

    work: Work
    companion: LoadedRelease
    pool: RunnerPool  # The companion's
    came: Concluded | RunError  # Of the serving one
    concluder: Concluder


class CompanionRuns:
    """See the rules above. Thread-safe."""

    def __init__(self, active_model: ActiveModel, clock: Clock) -> None:
        """Start with nothing due."""
        self._active_model = active_model
        self._clock = clock
        self._due: deque[_Due] = deque()
        self._running = threading.Lock()
        self._memory = Memory()
        self._share_due = 0.0

    def note(
        self, work: Work, came: Concluded | RunError, *, memory: Memory, pools: RunnerPools
    ) -> None:
        """Let the companion run on an item if it is its turn. Called in the order of items.

        Args:
            work: the item.
            came: what the serving release made of it.
            memory: the serving release's.
            pools: where the companion's runners are.
        """
        companion = work.line.companion
        if companion is None:
            self._memory.forget()
            return
        self._share_due += work.decisions.companion_share
        if self._share_due < 1.0:
            return
        self._share_due -= 1.0
        concluder = self._memory.of(companion.session, work.decisions, before=memory.concluder)
        pool = pools.of(companion)
        self._due.append(_Due(work, companion, pool, came, concluder))

    def run(self) -> None:
        """Run what waits, if nobody else does; see rules 1 and 2."""
        while self._due:
            if not self._running.acquire(blocking=len(self._due) > QUEUE_ITEMS_MAX):
                return
            try:
                if self._due:
                    self._compare(self._due.popleft())
            finally:
                self._running.release()

    def _compare(self, due: _Due) -> None:
        companion = self._run(due)
        if not (_is_wrong_item(due.came) and _is_wrong_item(companion)):
            self._active_model.record(_comparison(due, companion))

    def _run(self, due: _Due) -> Concluded | RunError:
        pool, item = due.pool, due.work.item
        runner, started_s = None, self._clock.monotonic_s()
        try:
            runner = pool.take()
            ready = runner.prepare(item)
            assert not isinstance(ready, Held), "nothing is gated here"
            conclusions = tuple(
                due.concluder.conclude(
                    row.outputs,
                    batch=row.batch,
                    placement=ready.placement,
                    at_s=own_time_s(item),
                    sensor=row.sensor,
                )
                for row in runner.infer(ready)
            )
        except (RefusedError, TransientError) as error:
            return error
        finally:
            if runner is not None:
                pool.give_back(runner)
        return Concluded(conclusions, (self._clock.monotonic_s() - started_s) * 1000.0)


def _is_wrong_item(came: Concluded | RunError) -> bool:
    return isinstance(came, RefusedError) and came.code == WRONG_ITEM_CODE


def _comparison(due: _Due, companion: Concluded | RunError) -> Comparison:
    ours = due.came if isinstance(due.came, Concluded) else None
    theirs = companion if isinstance(companion, Concluded) else None
    agreement = None
    if ours and theirs:
        pairs = zip(ours.conclusions, theirs.conclusions, strict=True)
        agreement = all(agrees(one.outcome, other.outcome) for one, other in pairs)
    return Comparison(
        serving_version=due.work.release.version,
        companion_version=due.companion.version,
        serving_ms=ours.inference_ms if ours else None,
        companion_ms=theirs.inference_ms if theirs else None,
        serving_confidence=_confidence(ours),
        companion_confidence=_confidence(theirs),
        agrees=agreement,
    )


def _confidence(concluded: Concluded | None) -> float | None:
    """Return the mean over the rows of an item; None for a run that failed."""
    if concluded is None:
        return None
    return sum(row.confidence for row in concluded.conclusions) / len(concluded.conclusions)
