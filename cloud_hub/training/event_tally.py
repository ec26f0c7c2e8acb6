"""EventTally: what a ServerApp's events add up to, for each device and each Round. Pure.

1. Events come in order and each once; a Round that is repeated starts its counts again, the bytes
   that were sent stay sent.
2. Accuracy belongs to weights: what a device measured before it trained in Round N is of the
   weights of Round N - 1, an evaluation in Round N of those of Round N. `accuracy_before` is of
   the Job's first weights, `accuracy_after` of the newest ones that the device has measured.
3. What a device did not tell stays None. Events of devices that the Job was not planned with count
   for nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloud_hub.training.job_folder import JobEvent

FIRST_ROUND = 1


@dataclass(slots=True)
class DeviceTally:
    """One device's part, so far."""

    rounds_answered: int = 0
    last_round: int = 0  # That it answered
    updates_refused: int = 0
    bytes_up: int = 0
    samples_count: int | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    accuracy_after_round: int = 0  # Whose weights `accuracy_after` is of
    epsilon_spent: float | None = None


@dataclass(slots=True)
class RoundTally:
    """One Round, so far."""

    started_ms: int
    closed_ms: int | None = None
    devices_asked: int = 0
    devices_counted: int = 0
    devices_refused: int = 0
    devices_silent: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    evaluated_sum: float = 0.0  # Accuracy of this Round's weights, by evaluations ...
    evaluated_count: int = 0
    next_before_sum: float = 0.0  # ... and as measured before training in the next Round
    next_before_count: int = 0
    epsilon: float | None = None


class EventTally:
    """Adds events to what is known. Give it the rows that `events` name, take them back after."""

    def __init__(
        self, devices: Mapping[str, DeviceTally], rounds: Mapping[int, RoundTally]
    ) -> None:
        """Args: rows as stored; they are changed in place, and Rounds are added."""
        self.devices = dict(devices)
        self.rounds = dict(rounds)
        self.rounds_done = 0

    def add(self, events: Iterable[JobEvent]) -> None:
        """Count events, in order."""
        for event in events:
            self._add(event)

    def _add(self, event: JobEvent) -> None:
        device = self.devices.get(event.device or "")
        match event.code:
            case "round.started":
                self._start(event)
            case "update.accepted" if device is not None:
                self._accept(event, device)
            case "update.refused" if device is not None:
                device.updates_refused += 1
                self._round(event).devices_refused += 1
                self._count_bytes(event, device)
            case "device.silent" | "device.failed" if device is not None:
                self._round(event).devices_silent += 1
            case "evaluation" if device is not None:
                self._evaluate(event, device)
            case "round.repeated":
                found = self._round(event)
                found.devices_counted = found.devices_refused = found.devices_silent = 0
                found.loss_sum, found.loss_count = 0.0, 0
            case "privacy.paid":
                found = self._round(event)
                found.epsilon = _larger(found.epsilon, event.numbers.get("epsilon"))
            case "round.closed":
                self._close(event)
            case "job.resumed" | "job.started" | "job.ended":
                self.rounds_done = max(self.rounds_done, _whole(event, "rounds_done") or 0)
            case _:
                pass

    def _round(self, event: JobEvent) -> RoundTally:
        return self.rounds.setdefault(event.round, RoundTally(started_ms=event.at_ms))

    def _start(self, event: JobEvent) -> None:
        found = self._round(event)
        found.devices_asked = _whole(event, "devices_asked") or found.devices_asked

    def _accept(self, event: JobEvent, device: DeviceTally) -> None:
        found = self._round(event)
        found.devices_counted += 1
        self._count_bytes(event, device)
        if event.round > device.last_round:
            device.rounds_answered += 1
            device.last_round = event.round
        samples = _whole(event, "samples_count")
        device.samples_count = samples if samples is not None else device.samples_count
        device.epsilon_spent = _larger(device.epsilon_spent, event.numbers.get("epsilon_spent"))
        loss = event.numbers.get("loss")
        if loss is not None:
            found.loss_sum += loss
            found.loss_count += 1
        before = event.numbers.get("accuracy_before")
        if before is None or event.numbers.get("rounds_late", 0.0) > 0:
            return  # A late update measured older weights.
        _measure(device, before, of_round=event.round - 1)
        previous = self.rounds.get(event.round - 1)
        if previous is not None:
            previous.next_before_sum += before
            previous.next_before_count += 1

    def _evaluate(self, event: JobEvent, device: DeviceTally) -> None:
        accuracy = event.numbers.get("accuracy_before")
        if accuracy is None:
            return
        _measure(device, accuracy, of_round=event.round)
        found = self.rounds.get(event.round)
        if found is not None:
            found.evaluated_sum += accuracy
            found.evaluated_count += 1

    def _close(self, event: JobEvent) -> None:
        found = self._round(event)
        found.closed_ms = event.at_ms
        counted, asked = _whole(event, "devices_counted"), _whole(event, "devices_asked")
        found.devices_counted = counted if counted is not None else found.devices_counted
        found.devices_asked = asked if asked is not None else found.devices_asked
        found.bytes_down = _whole(event, "bytes_down") or found.bytes_down
        found.epsilon = _larger(found.epsilon, event.numbers.get("epsilon"))
        self.rounds_done = max(self.rounds_done, event.round)

    def _count_bytes(self, event: JobEvent, device: DeviceTally) -> None:
        payload_bytes = _whole(event, "payload_bytes") or 0
        device.bytes_up += payload_bytes
        self._round(event).bytes_up += payload_bytes


def _measure(device: DeviceTally, accuracy: float, *, of_round: int) -> None:
    if of_round < FIRST_ROUND:
        if device.accuracy_before is None:
            device.accuracy_before = accuracy
    elif of_round >= device.accuracy_after_round:
        device.accuracy_after = accuracy
        device.accuracy_after_round = of_round


def _whole(event: JobEvent, key: str) -> int | None:
    number = event.numbers.get(key)
    return int(number) if number is not None else None


def _larger(known: float | None, told: float | None) -> float | None:
    return told if known is None else known if told is None else max(known, told)
