"""CaptureLoop: from a source into a mailbox, over every interruption.

1. RUNNING while items come; RECONNECTING from a TransientError until the next item, STALLED where
   the error says that the source is there and silent; ENDED when the source says so; FAILED on a
   ContractError, which no retry mends.
2. Between two tries it waits with backoff; only an item resets the backoff, so that a stream
   that opens and gives nothing is not asked in a tight loop.
3. An interruption is logged once when it begins and once when it is over, not at every try.
4. Where a taker is waited for, no item is read before there is one, so that none is captured long
   before it can be taken; the source is opened meanwhile, which tells what is wrong with it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.sources.item import Item
from edge_agent.sources.mailbox import STOP_CHECK_S, Mailbox
from edge_agent.sources.source import (
    CountingSource,
    LiveSource,
    Resized,
    ResizingSource,
    Source,
)
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import ContractError, TransientError

log = logging.getLogger(__name__)

RETRY_S_MIN = 0.5
RETRY_S_MAX = 30.0
STALLED_CODE = "source.stalled"


class CaptureState(StrEnum):
    """See rule 1; the words are those of the Report."""

    STARTING = "starting"
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    STALLED = "stalled"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"


AWAY = frozenset({CaptureState.RECONNECTING, CaptureState.STALLED})


@dataclass(frozen=True, slots=True)
class CaptureStatus:
    """How a source stands."""

    state: CaptureState
    detail: str = ""
    code: str = ""  # Of the error, where there is one


class CaptureLoop:
    """See the rules above. `run` in a thread of its own; `status` from any."""

    def __init__(
        self,
        source: Source,
        mailbox: Mailbox,
        clock: Clock,
        *,
        name: str = "",
        wait_for_taker: Callable[[float], bool] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            source: what is captured.
            mailbox: where its items go.
            clock: for pauses between tries.
            name: the pipeline's, for the log.
            wait_for_taker: waits at most so many seconds for somebody who takes items; returns
                whether there is one. None: items are read whether or not. See rule 4.
        """
        self._source = source
        # Asked once: the answer looks up every member of the Protocol, 30 us for each item.
        self._live = source if isinstance(source, LiveSource) else None
        self._mailbox = mailbox
        self._clock = clock
        self._name = name
        self._wait_for_taker = wait_for_taker
        self._status = CaptureStatus(CaptureState.STARTING)
        self._interruptions_count = 0

    @property
    def status(self) -> CaptureStatus:
        """Return how the source stands."""
        return self._status

    @property
    def interruptions_count(self) -> int:
        """Return how often the source was lost."""
        return self._interruptions_count

    @property
    def messages_lost_and_bad(self) -> tuple[int, int]:
        """Return how many messages were lost and could not be read, where the source counts."""
        source = self._source
        if not isinstance(source, CountingSource):
            return 0, 0
        return source.lost_messages_count, source.bad_messages_count

    @property
    def resized(self) -> Resized:
        """Return how often the source's pictures changed their size."""
        source = self._source
        return source.resized if isinstance(source, ResizingSource) else Resized()

    def run(self, stop: threading.Event) -> None:
        """Capture until `stop` is set or the source ends or fails."""
        backoff = Backoff(delay_s_min=RETRY_S_MIN, delay_s_max=RETRY_S_MAX)
        try:
            while not stop.is_set():
                try:
                    self._capture(stop, backoff)
                except TransientError as error:
                    self._note_interruption(error)
                    self._source.close()
                    self._clock.wait(stop, backoff.next_delay_s())
                except ContractError as error:
                    self._note_failure(error)
                    return
                else:
                    self._note_end(is_stopped=stop.is_set())
                    return
            self._note_end(is_stopped=True)
        finally:
            self._source.close()

    def _capture(self, stop: threading.Event, backoff: Backoff) -> None:
        """Hand items over until the source ends or `stop` is set."""
        self._source.open()
        while (item := self._read(stop)) is not None:
            if self._status.state is not CaptureState.RUNNING:
                self._note_item()
                backoff.reset()
            if not self._mailbox.put(item, stop):
                return

    def _read(self, stop: threading.Event) -> Item | None:
        if self._wait_for_taker is not None:
            while not self._wait_for_taker(STOP_CHECK_S):
                if stop.is_set():
                    return None
        if self._live is not None:
            return self._live.read_wanted(stop, self._is_wanted)
        return self._source.read(stop)

    def _is_wanted(self) -> bool:
        """The first item in any case: it says that the source is there."""
        return self._status.state is not CaptureState.RUNNING or self._mailbox.wants()

    def _note_item(self) -> None:
        event = "source.running"
        if self._status.state in AWAY:
            event = "source.back"
        log.info(event, extra={"pipeline": self._name, "source": self._source.description})
        self._status = CaptureStatus(CaptureState.RUNNING)

    def _note_interruption(self, error: TransientError) -> None:
        if self._status.state not in AWAY:
            self._interruptions_count += 1
            log.warning(
                "source.lost",
                extra={"pipeline": self._name, "code": error.code, "detail": str(error)},
            )
        is_stalled = error.code == STALLED_CODE
        state = CaptureState.STALLED if is_stalled else CaptureState.RECONNECTING
        self._status = CaptureStatus(state, str(error), error.code)

    def _note_failure(self, error: ContractError) -> None:
        log.error(
            "source.failed",
            extra={"pipeline": self._name, "code": error.code, "detail": str(error)},
        )
        self._status = CaptureStatus(CaptureState.FAILED, str(error), error.code)
        self._mailbox.end()

    def _note_end(self, *, is_stopped: bool) -> None:
        if is_stopped:
            self._status = CaptureStatus(CaptureState.STOPPED)
            return
        log.info("source.ended", extra={"pipeline": self._name, "source": self._source.description})
        self._status = CaptureStatus(CaptureState.ENDED)
        self._mailbox.end()
