"""EvaluationRound: asks every device that is there how the last weights do on its own samples.

1. It ends when all have told, or at the deadline: a Job waits for no device here.
2. Each device's answer is an event, once: whoever resumes asks only the others.
3. An answer that cannot be is left out, and the log names its sender.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from cloud_hub.training.answers import Question, read_measurements, read_reply
from cloud_hub.training.event_log import EventLog
from cloud_hub.training.fleet import Answer, Failure, Fleet, Reply
from cloud_hub.training.round_rules import POLL_S, Asked, Part, is_closable, to_ask_again
from shared.clock import Clock
from shared.errors import ContractError
from shared.learning.task import LearningTask, Measurement
from shared.model.weights import Weights

_TOLD = (Measurement.ACCURACY_BEFORE, Measurement.HELD_OUT, Measurement.LOSS)

log = logging.getLogger(__name__)


class EvaluationRound:
    """See the rules above."""

    def __init__(self, task: LearningTask, weights: Weights, events: EventLog) -> None:
        self._task = task
        self._weights = weights
        self._events = events
        self._question = Question(task.job, task.round, task.kind, task.base_digest)
        self._asked: dict[str, Asked] = {}

    def run(
        self,
        fleet: Fleet,
        clock: Clock,
        *,
        there: Callable[[], Mapping[str, str]],
        poll: Callable[[float], Sequence[Answer]],
    ) -> None:
        """Ask, and take answers until it is over.

        Args: there: the Job's devices that can be reached; poll: waits for answers, or raises.
        """
        deadline_s = clock.monotonic_s() + self._task.seconds_max
        told = self._events.devices_told("evaluation", number=self._task.round)
        self._asked = {device: Asked(Part.OUT_OF_REACH) for device in there() if device not in told}
        while not is_closable(self._asked, now_s=clock.monotonic_s(), deadline_s=deadline_s):
            now_s = clock.monotonic_s()
            left_s = max(deadline_s - now_s, 0.0)
            self._ask(fleet, there(), now_s=now_s, ttl_s=left_s + 1.0)
            for answer in poll(min(POLL_S, left_s)):
                self._take(answer)

    def _ask(self, fleet: Fleet, present: Mapping[str, str], *, now_s: float, ttl_s: float) -> None:
        devices = to_ask_again(self._asked, present, now_s=now_s)
        if not devices:
            return
        for device, ask in fleet.ask(devices, self._task, self._weights, ttl_s=ttl_s).items():
            one = self._asked[device]
            one.part, one.connection, one.asked_s = Part.WAITED_FOR, present[device], now_s
            one.asks.append(ask)

    def _take(self, answer: Answer) -> None:
        one = self._asked.get(answer.device)
        if one is None or answer.ask not in one.asks or one.part is Part.ANSWERED:
            return
        match answer:
            case Failure():
                one.part = Part.OUT_OF_REACH if answer.is_out_of_reach else Part.FAILED
            case Reply():
                one.part = Part.ANSWERED
                self._tell(answer)

    def _tell(self, reply: Reply) -> None:
        try:
            said = read_reply(reply.text, self._question)
            told = read_measurements(reply.measurements)
        except ContractError as error:
            log.warning("evaluation.invalid", extra={"device": reply.device, "code": error.code})
            return
        if said.refusal_code is not None:
            log.info(
                "evaluation.declined", extra={"device": reply.device, "code": said.refusal_code}
            )
            return
        numbers = {str(name): told[name] for name in _TOLD if name in told}
        self._events.write(
            self._events.make("evaluation", numbers, number=self._task.round, device=reply.device)
        )
