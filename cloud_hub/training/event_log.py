"""EventLog: writes a Job's events, each no more than once.

1. What is about one device's part in a Round, or how the Round went, is written once however often
   it is told: by code, Round, device, `rounds_late` and `repeat` (ONCE). So whoever resumes tells
   all that follows from what is on the disk, and only what a kill kept back is written.
2. The other events say what was done at that time, and come again if it was done again.
"""

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.job_folder import JobEvent
from shared.clock import Clock, now_ms

TEXT_CHARS_MAX = 2000
ONCE = frozenset(
    {
        "update.accepted",
        "update.refused",
        "device.silent",
        "device.failed",
        "round.repeated",
        "round.closed",
        "evaluation",
    }
)
_Key = tuple[str, int, str | None, float, float]

log = logging.getLogger(__name__)


class EventLog:
    """See the rules above. Belongs to whoever holds the Job's lock."""

    def __init__(self, files: JobFiles, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._told = {_key(event) for event in files.read_events() if event.code in ONCE}

    def make(
        self,
        code: str,
        numbers: Mapping[str, float] = MappingProxyType({}),
        *,
        number: int = 0,
        device: str | None = None,
        text: str = "",
    ) -> JobEvent:
        """Return an event of now that is not written yet.

        Args: number: of its Round; 0: of the whole Job.
        """
        return JobEvent(
            number=1,
            at_ms=now_ms(self._clock),
            code=code,
            round=number,
            device=device,
            text=text[:TEXT_CHARS_MAX],
            numbers=dict(numbers),
        )

    def write(self, *events: JobEvent) -> None:
        """Write those of `events` that are not written yet; rule 1.

        Raises TransientError `disk.write_failed`.
        """
        for event in events:
            if event.code in ONCE:
                if _key(event) in self._told:
                    continue
                self._told.add(_key(event))
            self._files.append_event(event)
            log.info(
                event.code,
                extra={"round": event.round, "device": event.device, "text": event.text[:200]},
            )

    def devices_told(self, code: str, *, number: int) -> set[str]:
        """Return the devices about which `code` was written for a Round."""
        return {key[2] for key in self._told if key[:2] == (code, number) and key[2] is not None}

    def forget_before(self, number: int) -> None:
        """Know nothing of Rounds before `number` any more: nobody tells about them again."""
        self._told = {key for key in self._told if key[1] >= number}


def repeats_of(events: Iterable[JobEvent]) -> int:
    """Return how often the Round of these events was repeated."""
    repeats = (event.numbers["repeat"] for event in events if event.code == "round.repeated")
    return int(max(repeats, default=0))


def _key(event: JobEvent) -> _Key:
    numbers = event.numbers
    late, repeat = numbers.get("rounds_late", 0.0), numbers.get("repeat", 0.0)
    return event.code, event.round, event.device, late, repeat
