"""OpenRound: what is known of the Round that runs, and how that is known again after a kill.

1. Whom to ask, until when, and what went down is in rounds/open.json, what came is in the
   RoundStore, what was said about it in the events. Nothing else is kept: a resumed Round is read
   from these three.
2. Who was refused, or failed in this repetition, is not asked again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cloud_hub.training.aggregation.entry import Verdict
from cloud_hub.training.aggregation.file_round_store import OUTCAST_CODES, RoundStore
from cloud_hub.training.event_log import repeats_of
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.round_rules import Asked, Opened, Part


@dataclass(slots=True)
class OpenRound:
    """See the rules above."""

    number: int
    digest: str  # Of the shared weights that devices get
    store: RoundStore
    repeat: int = 0
    is_chosen: bool = False  # Whether it is decided whom to ask
    written: Opened | None = None  # What open.json says of this Round
    asked: dict[str, Asked] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def devices(self, part: Part) -> set[str]:
        """Return the devices that stand so."""
        return {device for device, one in self.asked.items() if one.part is part}

    def choose(self, written: Opened) -> None:
        """Ask its devices; what came from before a repetition stays."""
        stays = (Part.ANSWERED, Part.REFUSED)
        kept = {device: one for device, one in self.asked.items() if one.part in stays}
        self.asked = {
            device: kept.get(device, Asked(Part.OUT_OF_REACH)) for device in written.devices
        }
        self.written, self.is_chosen = written, True

    def restore(self, opened: Opened | None, events: Iterable[JobEvent]) -> tuple[Verdict, ...]:
        """Know what was there before a kill; return how the updates stand that are there.

        Args: opened: what was chosen last; events: of any Rounds.

        Raises IntegrityError `round.damaged`, TransientError `disk.write_failed`.
        """
        own = [event for event in events if event.round == self.number]
        self.repeat = repeats_of(own)
        if opened is not None and opened.round == self.number:
            self.is_chosen = opened.repeat == self.repeat
            self.written, self.bytes_down = opened, opened.bytes_down
            self.asked = {device: Asked(Part.OUT_OF_REACH) for device in opened.devices}
        outcasts = set()
        for event in own:
            if event.device is None:
                continue
            is_late = event.numbers.get("rounds_late", 0.0) > 0.0
            if event.code == "update.refused":
                self.bytes_up += int(event.numbers.get("payload_bytes", 0.0))
                if not is_late:
                    if event.text.split(":")[0] in OUTCAST_CODES:
                        outcasts.add(event.device)
                    self.asked.setdefault(event.device, Asked()).part = Part.REFUSED
            elif event.code == "device.failed" and event.numbers.get("repeat", 0.0) == self.repeat:
                self.asked.setdefault(event.device, Asked()).part = Part.FAILED
        verdicts = self.store.restore(outcasts=outcasts)
        for verdict in verdicts:
            self.bytes_up += int(verdict.details.get("payload_bytes", 0.0))
            if verdict.rounds_late == 0:
                self.asked.setdefault(verdict.device, Asked()).part = Part.ANSWERED
        return verdicts
