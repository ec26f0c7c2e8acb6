"""RoundLoop: runs a Job's Rounds from its order to its result. A shell: the rules are elsewhere.

1. What is on the disk decides: after a kill at any instant the next attempt goes on from there, to
   the same weights, and asks again only those whose update is not there (open_round.py).
2. A Round is done when checkpoint.json says so (file_job.py). What is to be said about it is on the
   disk before, and said after.
3. Whether a Round counts is decided before it is closed: one that is repeated was never closed, and
   nothing was drawn or learned from it.
4. Nothing here waits longer than POLL_S at a time: `stop` and deadlines are seen by then.
5. What a Round costs of its privacy is on the disk before its noise is drawn: whatever is killed
   after, and never resumed, was counted.
6. A failed write ends the process (TransientError): the last checkpoint stands, the reason goes to
   whoever started it, and the next attempt resumes.
"""

from collections.abc import Mapping, Sequence

import msgspec

from cloud_hub.training.aggregation.entry import Aggregate
from cloud_hub.training.common_weights import CommonWeights
from cloud_hub.training.evaluation_round import EvaluationRound
from cloud_hub.training.event_log import EventLog
from cloud_hub.training.file_job import JobFiles
from cloud_hub.training.fleet import Answer, Fleet
from cloud_hub.training.job_folder import JobEvent, JobResult
from cloud_hub.training.open_round import OpenRound
from cloud_hub.training.order import ProximalStrategy
from cloud_hub.training.round_intake import RoundIntake
from cloud_hub.training.round_rules import (
    POLL_S,
    Closing,
    Next,
    Opened,
    Part,
    after_too_few,
    is_closable,
    is_enough,
    is_gathered,
    left_s,
    quorum_count,
    spent_s,
    to_ask_again,
    ttl_s,
)
from cloud_hub.training.selection import choose
from shared.clock import Clock, now_ms
from shared.errors import RefusedError
from shared.learning.task import LearningTask, TaskKind

TEXT_CHARS_MAX = 2000


class _Ended(Exception):  # noqa: N818 - it is how the loop is left, not an error
    """The Job is over."""

    def __init__(self, code: str, text: str = "", *, is_completed: bool) -> None:
        super().__init__(code)
        self.code = code
        self.text = text
        self.is_completed = is_completed


class RoundLoop:
    """See the rules above. Belongs to one thread."""

    def __init__(self, files: JobFiles, fleet: Fleet, clock: Clock) -> None:
        self._files = files
        self._fleet = fleet
        self._clock = clock
        self._plan = files.read_plan()
        self._order = self._plan.order
        self._common = CommonWeights(files, self._plan)

    def run(self) -> JobResult:
        """Run what is left of the Job; return how it ended, which is also on the disk.

        Raises UnavailableError `job.running`, `job.run_gone`; TransientError `disk.write_failed`;
        ContractError or IntegrityError if what is on the disk is damaged.
        """
        with self._files.held(self._clock):
            result = self._files.read_result()
            if result is not None:
                return result
            self._files.make_rounds_folder()
            self._events = EventLog(self._files, self._clock)
            self._intake = RoundIntake(self._plan, self._common.layout, self._events, self._clock)
            try:
                self._resume()
                ended = self._rounds()
                if ended.is_completed:
                    self._evaluate()
            except _Ended as error:
                ended = error
            return self._finish(ended)

    # Beginning and end

    def _resume(self) -> None:
        """Take up what is on the disk, and say what a kill kept back."""
        before = self._files.read_events()
        self._common.restore(releases_count=sum(e.code == "privacy.paid" for e in before))
        closing = self._files.read_closing()
        if closing is not None and closing.round == self._done:
            self._events.write(*closing.events)
        attempts = sum(event.code in ("job.started", "job.resumed") for event in before)
        numbers = {"rounds_done": float(self._done)}
        if attempts == 0:
            self._events.write(self._events.make("job.started", {"attempt": 1.0, **numbers}))
        self._files.drop_rounds_but(self._done)
        kept_count = 0
        if self._done < self._order.rounds:
            self._open = self._opened(self._done + 1)
            verdicts = self._open.restore(self._files.read_opened(), before)
            self._intake.tell(verdicts, self._open)
            kept_count = len(verdicts)
        if attempts > 0:
            numbers["updates_kept"] = float(kept_count)
            self._events.write(self._events.make("job.resumed", numbers))

    def _rounds(self) -> _Ended:
        """Run Rounds until there is a reason to end."""
        try:
            while self._done < self._order.rounds:
                if self._common.is_spent:
                    spent = f"{self._common.epsilon:.4g} is spent."
                    return _Ended(
                        "job.budget_spent",
                        f"One more Round would pass epsilon_max; {spent}",
                        is_completed=self._done > 0,
                    )
                self._round()
        except _Ended as ended:
            if not ended.is_completed:
                raise
            return ended
        return _Ended("job.completed", is_completed=True)

    def _evaluate(self) -> None:
        weights = self._common.shared
        task = self._task(TaskKind.EVALUATE, self._done, self._common.shared_digest)
        EvaluationRound(task, weights, self._events).run(
            self._fleet, self._clock, there=self._there, poll=self._poll
        )

    def _finish(self, ended: _Ended) -> JobResult:
        numbers = {"rounds_done": float(self._done)}
        text = ended.text or ended.code
        self._events.write(self._events.make("job.ended", numbers, text=text))
        result = JobResult(
            job=self._plan.job,
            is_completed=ended.is_completed,
            code=ended.code,
            text=ended.text[:TEXT_CHARS_MAX],
            rounds_done=self._done,
            weights_digest=self._common.digest if self._done else None,
            epsilon=self._common.epsilon,
        )
        self._files.write_result(result)
        return result

    # One Round

    def _opened(self, number: int) -> OpenRound:
        """Return Round `number`, of which nothing is known yet; late updates may come from now."""
        store = self._common.open_store(number)
        opened = OpenRound(number, self._common.shared_digest, store)
        self._fleet.forget(self._intake.begin(opened))
        self._events.forget_before(number - 1)
        return opened

    def _round(self) -> None:
        """Run the open Round, or one repetition of it, or what a kill left to do of it."""
        began_ms = now_ms(self._clock)
        if not self._open.is_chosen:
            self._gather()
            self._choose(began_ms)
        written = self._open.written
        assert written is not None, "who is asked was chosen"
        at_ms, now_s = now_ms(self._clock), self._clock.monotonic_s()
        began_s = now_s - spent_s(written, now_ms=at_ms)
        deadline_s = now_s + left_s(self._order, written, now_ms=at_ms)
        task = self._task(TaskKind.TRAIN, self._open.number, self._open.digest)
        asked = self._open.asked
        while not is_closable(asked, now_s=self._clock.monotonic_s(), deadline_s=deadline_s):
            self._ask(task, deadline_s)
            wait_s = max(deadline_s - self._clock.monotonic_s(), 0.0)
            self._take(min(POLL_S, wait_s))
        self._close(began_s)

    def _gather(self) -> None:
        """Wait until a Round may begin."""
        until_s = self._clock.monotonic_s() + self._order.gather_s
        there = self._there()
        numbers = {
            "devices_there": float(len(there)),
            "devices_min": float(self._order.devices_min),
        }
        gathering = self._events.make("round.gathering", numbers, number=self._open.number)
        self._events.write(gathering)
        while not is_gathered(self._order, there):
            if self._clock.monotonic_s() >= until_s:
                counted = len(self._open.devices(Part.ANSWERED))
                self._too_few(f"{len(there)} devices were there", counted_count=counted)
                until_s = self._clock.monotonic_s() + self._order.gather_s
            self._take(POLL_S)
            there = self._there()

    def _there(self) -> Mapping[str, str]:
        """Return this Job's devices that can be reached."""
        present = self._fleet.present()
        return {device: present[device] for device in self._plan.devices if device in present}

    def _choose(self, began_ms: int) -> None:
        """Decide who is asked, on the disk first; what is there already stays."""
        opened = self._open
        refused = opened.devices(Part.REFUSED)
        chosen = choose(
            self._order,
            job=self._plan.job,
            number=opened.number,
            repeat=opened.repeat,
            there=set(self._there()) - refused,
            busy=self._intake.busy(opened),
        )
        devices = tuple(sorted({*chosen, *refused, *opened.devices(Part.ANSWERED)}))
        written = Opened(
            round=opened.number,
            repeat=opened.repeat,
            devices=devices,
            began_ms=began_ms,
            deadline_ms=now_ms(self._clock) + round(1000 * self._order.deadline_s),
            bytes_down=opened.bytes_down,
        )
        self._files.write_opened(written)
        opened.choose(written)
        numbers = {
            "devices_asked": float(len(devices)),
            "weights_bytes": float(self._common.shared_bytes),
        }
        self._events.write(self._events.make("round.started", numbers, number=opened.number))

    def _ask(self, task: LearningTask, deadline_s: float) -> None:
        """Ask whoever has not been, or lost the question."""
        present = self._there()
        now_s = self._clock.monotonic_s()
        devices = to_ask_again(self._open.asked, present, now_s=now_s)
        if not devices:
            return
        size_bytes = self._common.shared_bytes
        written = self._open.written
        assert written is not None, "who is asked was chosen"
        bytes_down = self._open.bytes_down + size_bytes * len(devices)
        self._files.write_opened(msgspec.structs.replace(written, bytes_down=bytes_down))
        ttl = ttl_s(self._order, left_s=deadline_s - now_s)
        for device, ask in self._fleet.ask(devices, task, self._common.shared, ttl_s=ttl).items():
            one = self._open.asked[device]
            one.part, one.connection, one.asked_s = Part.WAITED_FOR, present[device], now_s
            one.asks.append(ask)
            self._open.bytes_down += size_bytes

    def _close(self, began_s: float) -> None:
        """Close the Round if it counts; else have it repeated, or end the Job."""
        opened = self._open
        silent = self._silent()
        counted: set[str] = set()
        why = "Too few valid updates came"
        try:
            counted = {one.device for one in opened.store.ready() if one.rounds_late == 0}
        except RefusedError as error:
            why = error.message
        self._intake.leave(opened)
        if not is_enough(self._order, asked_count=len(opened.asked), counted=counted):
            self._events.write(*silent)
            self._too_few(why, counted_count=len(counted))
            return
        self._pay()
        aggregate = opened.store.close()
        self._move(aggregate)
        verdicts = self._intake.decided(aggregate.verdicts, opened)
        closed = self._closed(aggregate, self._clock.monotonic_s() - began_s)
        closing = Closing(round=opened.number, events=(*silent, *verdicts, closed))
        self._files.write_closing(closing)
        self._common.checkpoint(opened.number)
        self._events.write(*closing.events)
        opened.store.discard()
        if self._done < self._order.rounds:
            self._open = self._opened(self._done + 1)
            self._open.restore(None, ())

    def _silent(self) -> tuple[JobEvent, ...]:
        """Return the events of those who have not answered."""
        opened = self._open
        now_s = self._clock.monotonic_s()
        return tuple(
            self._events.make(
                "device.silent",
                {
                    "wait_s": now_s - one.asked_s if one.asks else 0.0,
                    "repeat": float(opened.repeat),
                },
                number=opened.number,
                device=device,
            )
            for device, one in opened.asked.items()
            if one.part in (Part.WAITED_FOR, Part.OUT_OF_REACH)
        )

    def _pay(self) -> None:
        """Have the Round's privacy counted on the disk, where any is counted; rule 5."""
        epsilon = self._common.pay()
        if epsilon is not None:
            paid = {"epsilon": epsilon}
            self._events.write(self._events.make("privacy.paid", paid, number=self._open.number))

    def _closed(self, aggregate: Aggregate, seconds: float) -> JobEvent:
        """Return the event of the Round that was just closed."""
        opened = self._open
        numbers = {
            "devices_counted": float(len(aggregate.devices)),
            "devices_asked": float(len(opened.asked)),
            "seconds": seconds,
            "bytes_up": float(opened.bytes_up),
            "bytes_down": float(opened.bytes_down),
            "update_norm": aggregate.norm,
        }
        epsilon = self._common.epsilon
        if epsilon is not None:
            numbers["epsilon"] = epsilon
        return self._events.make("round.closed", numbers, number=opened.number)

    def _move(self, aggregate: Aggregate) -> None:
        """Change the common weights by what the Round came to."""
        try:
            self._common.move(aggregate)
        except RefusedError as error:
            text = f"Round {self._open.number}: {error.message}"
            raise _Ended(error.code, text, is_completed=False) from error

    def _too_few(self, why: str, *, counted_count: int) -> None:
        """Have the Round asked again with what it has, or end the Job."""
        opened = self._open
        text = f"Round {opened.number}: {why.rstrip('.')}."
        match after_too_few(self._order, repeats_done=opened.repeat):
            case Next.REPEAT:
                opened.repeat += 1
                opened.is_chosen = False
                asked_count = max(len(opened.asked), self._order.devices_min)
                numbers = {
                    "devices_counted": float(counted_count),
                    "quorum": float(quorum_count(self._order, asked_count)),
                    "repeat": float(opened.repeat),
                }
                self._events.write(
                    self._events.make("round.repeated", numbers, number=opened.number, text=why)
                )
            case Next.END:
                raise _Ended("job.too_few", text, is_completed=self._done > 0)
            case Next.FAIL:
                raise _Ended("job.too_few", text, is_completed=False)

    # Small things

    @property
    def _done(self) -> int:
        return self._common.rounds_done

    def _take(self, wait_s: float) -> None:
        for answer in self._poll(wait_s):
            self._intake.take(answer, self._open)

    def _poll(self, wait_s: float) -> Sequence[Answer]:
        if self._files.is_stop_asked():
            raise _Ended("job.stopped", "It was asked to end.", is_completed=False)
        return self._fleet.answers(wait_s)

    def _task(self, kind: TaskKind, number: int, digest: str) -> LearningTask:
        order = self._order
        method = order.method
        if isinstance(order.strategy, ProximalStrategy):
            method = msgspec.structs.replace(method, proximal_mu=order.strategy.proximal_mu)
        privacy = order.central_privacy
        return LearningTask(
            job=self._plan.job,
            round=number,
            kind=kind,
            base_digest=digest,
            spec=self._plan.spec,
            network=self._plan.network,
            method=method,
            encoding=order.encoding,
            clip_norm=privacy.clip_norm if privacy is not None else None,
            privacy=order.local_privacy,
            seconds_max=order.deadline_s,
        )
