"""RoundIntake: takes answers into the open Round, and tells what became of each.

1. An update is on disk (RoundStore) before anything says so; then its event is written.
2. An answer to an earlier Round, or to an earlier repetition of this one, is taken as long as its
   question is remembered; how much it counts for is aggregation/late.py's business.
3. One update of a device counts on time in one Round; what it sends twice is left out.
4. A held update is told about when it is decided: by a later one, or when the Round closes.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cloud_hub.training.aggregation.entry import Standing, Verdict
from cloud_hub.training.aggregation.file_round_store import OUTCAST_CODES
from cloud_hub.training.answers import Question, read_measurements, read_reply, read_update
from cloud_hub.training.event_log import EventLog
from cloud_hub.training.fleet import Answer, AskId, Failure, Reply
from cloud_hub.training.job_folder import JobEvent, JobPlan
from cloud_hub.training.open_round import OpenRound
from cloud_hub.training.round_rules import Asked, Part
from shared.clock import Clock
from shared.errors import ContractError
from shared.learning.task import TaskKind
from shared.model.weights import Layout

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Overdue:
    """A question that its Round, or the repetition it was asked in, did not wait for."""

    device: str
    round: int
    asked_s: float  # Monotonic


class RoundIntake:
    """See the rules above. One per Job and attempt."""

    def __init__(self, plan: JobPlan, layout: Layout, events: EventLog, clock: Clock) -> None:
        self._plan = plan
        self._layout = layout
        self._events = events
        self._clock = clock
        self._overdue: dict[AskId, _Overdue] = {}
        self._digests: dict[int, str] = {}  # Of what a Round was asked with

    def begin(self, opened: OpenRound) -> tuple[AskId, ...]:
        """Let a Round begin; return the questions to forget, for they came too late by now."""
        self._digests[opened.number] = opened.digest
        oldest = opened.number - max(self._plan.order.late.rounds_max, 1)
        gone = [ask for ask, one in self._overdue.items() if one.round < oldest]
        for ask in gone:
            del self._overdue[ask]
        self._digests = {n: digest for n, digest in self._digests.items() if n >= oldest}
        return tuple(gone)

    def busy(self, opened: OpenRound) -> Collection[str]:
        """Return the devices that still work for an earlier Round, and may for all we know."""
        return {one.device for one in self._overdue.values() if one.round < opened.number}

    def leave(self, opened: OpenRound) -> None:
        """Wait no longer for those who have not answered; they may still, rule 2."""
        for device, one in opened.asked.items():
            if one.part in (Part.WAITED_FOR, Part.OUT_OF_REACH):
                for ask in one.asks:
                    self._overdue[ask] = _Overdue(device, opened.number, one.asked_s)

    def take(self, answer: Answer, opened: OpenRound) -> None:
        """Take one answer. Raises TransientError `disk.write_failed`."""
        overdue = self._overdue.pop(answer.ask, None)
        one = opened.asked.get(answer.device)
        if overdue is None and (one is None or answer.ask not in one.asks):
            return  # Forgotten
        number = opened.number if overdue is None else overdue.round
        is_late = number != opened.number
        if not is_late and one is not None and one.part in (Part.ANSWERED, Part.REFUSED):
            return  # Asked twice, answered twice
        match answer:
            case Failure() if overdue is None and one is not None:
                self._failed(answer, one, opened)
            case Failure():
                log.info("late.failed", extra={"device": answer.device, "round": number})
            case Reply() if is_late:
                assert overdue is not None
                self._reply(answer, opened, None, number=number, asked_s=overdue.asked_s)
            case Reply():
                known = opened.asked.setdefault(answer.device, Asked())
                asked_s = known.asked_s if overdue is None else overdue.asked_s
                self._reply(answer, opened, known, number=number, asked_s=asked_s)

    def tell(self, verdicts: Iterable[Verdict], opened: OpenRound) -> None:
        """Write what was decided about updates."""
        self._events.write(*self.decided(verdicts, opened))

    def decided(self, verdicts: Iterable[Verdict], opened: OpenRound) -> tuple[JobEvent, ...]:
        """Return the events of what was decided; mark who was refused."""
        made = []
        for verdict in verdicts:
            if verdict.standing is Standing.HELD:
                continue
            is_refused = verdict.standing is Standing.REFUSED
            if verdict.rounds_late == 0:
                part = Part.REFUSED if is_refused else Part.ANSWERED
                opened.asked.setdefault(verdict.device, Asked()).part = part
            numbers = {**verdict.details, "rounds_late": float(verdict.rounds_late)}
            if verdict.norm is not None and verdict.norm <= 1e18:
                numbers["norm"] = verdict.norm
            if not is_refused:
                numbers["weight"] = verdict.weight
            made.append(
                self._events.make(
                    "update.refused" if is_refused else "update.accepted",
                    numbers,
                    number=opened.number,
                    device=verdict.device,
                    text=f"{verdict.code}: {verdict.text}" if is_refused else "",
                )
            )
        return tuple(made)

    def _failed(self, failure: Failure, one: Asked, opened: OpenRound) -> None:
        if not failure.is_out_of_reach:
            self._fail(failure.device, one, failure.text, opened)
        elif one.asks[-1] == failure.ask:
            one.part = Part.OUT_OF_REACH

    def _fail(self, device: str, one: Asked, text: str, opened: OpenRound) -> None:
        one.part = Part.FAILED
        repeat = {"repeat": float(opened.repeat)}
        self._events.write(
            self._events.make(
                "device.failed", repeat, number=opened.number, device=device, text=text
            )
        )

    def _reply(
        self, reply: Reply, opened: OpenRound, one: Asked | None, *, number: int, asked_s: float
    ) -> None:
        """Take a reply to Round `number`. Args: one: None: it is late."""
        rounds_late = opened.number - number
        opened.bytes_up += reply.payload_bytes
        details = {
            "payload_bytes": float(reply.payload_bytes),
            "rounds_late": float(rounds_late),
            "wait_s": self._clock.monotonic_s() - asked_s,
        }
        question = Question(self._plan.job, number, TaskKind.TRAIN, self._digests[number])
        try:
            said = read_reply(reply.text, question)
            details |= read_measurements(reply.measurements)
            details["is_repeated"] = float(said.is_repeated)
            if said.epsilon_spent is not None:
                details["epsilon_spent"] = said.epsilon_spent
            if said.refusal_code is not None:
                if one is not None:
                    text = f"{said.refusal_code}: {said.refusal_text}"
                    self._fail(reply.device, one, text, opened)
                return
            entry = read_update(
                reply,
                said,
                order=self._plan.order,
                layout=self._layout,
                rounds_late=rounds_late,
                details=details,
            )
        except ContractError as error:
            if one is not None and error.code in OUTCAST_CODES:
                opened.store.cast_out(reply.device)
            refusal = Verdict(
                reply.device,
                rounds_late,
                Standing.REFUSED,
                error.code,
                error.message,
                details=details,
            )
            self.tell([refusal], opened)
            return
        verdicts = opened.store.add(entry)
        if one is not None and verdicts[0].standing is Standing.HELD:
            one.part = Part.ANSWERED
        self.tell(verdicts, opened)
