"""InferenceLoop: one pass per item. Knows no sink's business and no model's.

1. Without a serving release nothing is taken from the mailbox: a source whose every item counts
   waits with it.
2. Who serves is read once per item. A swap takes effect between two items.
3. A run that fails makes a MissedItem; the loop goes on.
4. The Decision is handed to the sinks before the companion runs, so that a trial costs the next
   item at most, never this one. The companion sees the same item and the same previous
   outcome, on `companion_share` of the items, evenly spread.
5. An item that neither release can take (a sensor's window, where the model wants a frame) is the
   pipeline's fault and no evidence: it is not compared.
6. The first item after a swap tells what the swap cost: its latency beyond the median of the last
   HISTORY_ITEMS_MAX items, never below 0.
"""

import logging
import statistics
import threading
from collections import deque
from collections.abc import Callable, Sequence

from edge_agent.decisions.agreement import agrees
from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from edge_agent.decisions.settings import DecisionSettings
from edge_agent.inference.active_model import ActiveModel, Comparison, Line, LoadedRelease
from edge_agent.inference.item_runner import ItemRun, ItemRunner
from edge_agent.sources.item import Item
from edge_agent.sources.mailbox import Mailbox
from shared.clock import Clock
from shared.errors import RefusedError
from shared.wire.records import Outcome

log = logging.getLogger(__name__)

HISTORY_ITEMS_MAX = 32
WRONG_ITEM_CODE = "inference.input"
WAIT_S = 0.2  # How long a wait lasts at most before it looks whether to stop

Sink = Callable[[ItemResult], None]


class InferenceLoop:
    """See the rules above. `run` in a thread of its own; the rest from any."""

    def __init__(
        self,
        pipeline: str,
        mailbox: Mailbox,
        active_model: ActiveModel,
        *,
        sinks: Sequence[Sink],
        clock: Clock,
        settings: DecisionSettings | None = None,
    ) -> None:
        """Args: sinks get every result, in this order, in the loop's thread; they must not wait."""
        self._pipeline = pipeline
        self._mailbox = mailbox
        self._active_model = active_model
        self._sinks = tuple(sinks)
        self._clock = clock
        self._settings = settings or DecisionSettings()
        self._runners: dict[int, ItemRunner] = {}  # By id of the session they hold
        self._held: Item | None = None  # Taken, not yet decided
        self._previous: Outcome | None = None
        self._latencies_ms: deque[float] = deque(maxlen=HISTORY_ITEMS_MAX)
        self._swaps_count = 0
        self._companion_due = 0.0
        self._failing = ""
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
        return self._failing

    def run(self, stop: threading.Event) -> None:
        """Decide items until `stop` is set or the source has ended."""
        while not stop.is_set():
            if self.is_waiting_for_model:
                self._active_model.wait_until_serving(WAIT_S)
                continue
            item = self._held or self._mailbox.take(WAIT_S)
            if item is not None:
                self._held = item
                self._hold_or_pass(item)
            elif self._mailbox.is_over:
                self._is_over = True
                return
            self._forget_gone(self._active_model.line)

    def _hold_or_pass(self, item: Item) -> None:
        """Decide one item; keep it if the release was withdrawn while it was waited for."""
        line = self._active_model.line  # Once: this item is decided by who is on now
        if line.serving is None:
            return
        self._held = None
        previous = self._previous
        serving = self._run(line.serving, item, previous)
        self._tell(self._result(item, line, line.serving, serving))
        if line.companion is not None and self._is_companion_due():
            companion = self._run(line.companion, item, previous)
            if not (_is_wrong_item(serving) and _is_wrong_item(companion)):
                comparison = _compare(line.serving, serving, line.companion, companion)
                self._active_model.record(comparison)

    def _run(
        self, release: LoadedRelease, item: Item, previous: Outcome | None
    ) -> ItemRun | RefusedError:
        try:
            return self._runner(release).run(item, previous=previous)
        except RefusedError as error:
            return error

    def _runner(self, release: LoadedRelease) -> ItemRunner:
        runner = self._runners.get(id(release.session))
        if runner is None:
            runner = ItemRunner(release.session, self._settings, self._clock)
            self._runners[id(release.session)] = runner
        return runner

    def _forget_gone(self, line: Line) -> None:
        """Let go of sessions that are not on any more, so that their memory comes back."""
        on = {id(release.session) for release in (line.serving, line.companion) if release}
        for gone in self._runners.keys() - on:
            del self._runners[gone]

    def _result(
        self, item: Item, line: Line, release: LoadedRelease, run: ItemRun | RefusedError
    ) -> ItemResult:
        swap_pause_ms = 0.0
        latency_ms = max(0.0, (self._clock.monotonic_s() - item.captured_s) * 1000.0)
        if line.swaps_count != self._swaps_count:
            self._swaps_count = line.swaps_count
            if self._latencies_ms:
                swap_pause_ms = max(0.0, latency_ms - statistics.median(self._latencies_ms))
        self._latencies_ms.append(latency_ms)
        self._note_health(release, run)
        if isinstance(run, RefusedError):
            return MissedItem(
                pipeline=self._pipeline,
                model=release.model,
                version=release.version,
                item=item.sequence,
                code=run.code,
            )
        self._previous = run.conclusion.outcome
        return Decision(
            pipeline=self._pipeline,
            model=release.model,
            version=release.version,
            item=item.sequence,
            captured_ms=item.captured_ms,
            outcome=run.conclusion.outcome,
            confidence=run.conclusion.confidence,
            latency_ms=latency_ms,
            inference_ms=run.inference_ms,
            swap_pause_ms=swap_pause_ms,
        )

    def _tell(self, result: ItemResult) -> None:
        for sink in self._sinks:
            sink(result)

    def _is_companion_due(self) -> bool:
        self._companion_due += self._settings.companion_share
        if self._companion_due < 1.0:
            return False
        self._companion_due -= 1.0
        return True

    def _note_health(self, release: LoadedRelease, run: ItemRun | RefusedError) -> None:
        """Log where failing begins and ends, not every item."""
        was_failing = bool(self._failing)
        self._failing = str(run) if isinstance(run, RefusedError) else ""
        if was_failing == bool(self._failing):
            return
        fields = {"pipeline": self._pipeline, "model": release.model, "version": release.version}
        if isinstance(run, RefusedError):
            log.warning("inference.failing", extra={**fields, "code": run.code, "detail": str(run)})
        else:
            log.info("inference.recovered", extra=fields)


def _is_wrong_item(run: ItemRun | RefusedError) -> bool:
    return isinstance(run, RefusedError) and run.code == WRONG_ITEM_CODE


def _compare(
    serving_release: LoadedRelease,
    serving: ItemRun | RefusedError,
    companion_release: LoadedRelease,
    companion: ItemRun | RefusedError,
) -> Comparison:
    ours = serving if isinstance(serving, ItemRun) else None
    theirs = companion if isinstance(companion, ItemRun) else None
    agreement = None
    if ours and theirs:
        agreement = agrees(ours.conclusion.outcome, theirs.conclusion.outcome)
    return Comparison(
        serving_version=serving_release.version,
        companion_version=companion_release.version,
        serving_ms=ours.inference_ms if ours else None,
        companion_ms=theirs.inference_ms if theirs else None,
        serving_confidence=ours.conclusion.confidence if ours else None,
        companion_confidence=theirs.conclusion.confidence if theirs else None,
        agrees=agreement,
    )
