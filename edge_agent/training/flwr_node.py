"""The learning process: `python -m edge_agent.training.flwr_node <state>/learning`.

1. It reads node.json, keeps a lease at the hub, takes one message at a time, answers it, and writes
   standing.json. It ends at SIGTERM, at `until_ms`, and when the agent that started it is gone.
2. A message is a LearningTask or it is refused. Nothing that comes from the hub is executed.
3. The owner's policy is asked for every task, as node.json holds it by then, whatever the Target
   said before.
4. Training runs in a child (warm_training.py): it is killed when the Job is over, when it takes
   longer than the task allows, and with this process.
5. An answer is on the disk before it is sent, and sent until the hub has it or the run is over.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from shared.quick_imports import quick_imports

with quick_imports():
    import msgspec
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from flwr.app import Message

    from edge_agent.training.file_ledger import open_ledger
    from edge_agent.training.file_replies import FileReplies
    from edge_agent.training.flwr_fleet_link import NOT_READY, NOT_REGISTERED, FleetLink, Incoming
    from edge_agent.training.flwr_messages import TEXT_MAX, failure, read_task, refusal, success
    from edge_agent.training.node_files import (
        FILE_BYTES_MAX,
        ORDER,
        REPLIES,
        STANDING,
        STANDING_S,
        NodeOrder,
        NodeStanding,
        NodeState,
    )
    from edge_agent.training.policy import decide
    from edge_agent.training.warm_training import Outcome, WarmTraining
    from shared.backoff import Backoff
    from shared.clock import SystemClock, now_ms
    from shared.durable_file import write_durably
    from shared.errors import ContractError, IsthmusError, RefusedError, TransientError
    from shared.learning.task import LearningTask
    from shared.logs import set_up_logging
    from shared.model.weights import Array

log = logging.getLogger("edge_agent.training.flwr_node")  # Its name when it is run: __main__

RETRY_S_MIN, RETRY_S_MAX = 0.5, 10.0
READY_S_MIN, READY_S_MAX = 0.05, 5.0  # For the rest of a message that is still being sent
LOAD_S_MAX = 300.0  # For torch itself, before a training's own time begins
CHECK_S = 1.0  # How often a training's run is asked after
STEP_S = 0.1
LEAVE_S_MAX = 3.0  # From SIGTERM on, whatever a call to the hub hangs in

T = TypeVar("T")


class Node:
    """See the rules above."""

    def __init__(self, folder: Path, order: NodeOrder, key: ec.EllipticCurvePrivateKey) -> None:
        """Args: folder: `<state>/learning`."""
        self._folder, self._order = folder, order
        self._clock = SystemClock()
        self._link = FleetLink(
            order.address,
            ca_path=Path(order.ca_path),
            key=key,
            clock=self._clock,
            silent_s_max=order.settings.hub_silent_s_max,
            lease_s=order.settings.lease_s,
            message_bytes_max=order.settings.task_bytes_max,
        )
        self._training = WarmTraining(folder)
        self._replies = FileReplies(folder / REPLIES)
        self._ledger = open_ledger(folder, Path(order.key_path), order.settings.privacy)
        self._former_id = _former_node_id(folder)
        self._parent = os.getppid()
        self._stop = threading.Event()
        self._state = NodeState.CONNECTING
        self._task: LearningTask | None = None
        self._rounds_count = 0
        self._text = ""

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Serve until stopped."""
        pulse = threading.Thread(target=self._pulse, daemon=True)
        pulse.start()
        try:
            self._connect()
            beat = threading.Thread(target=self._link.keep_alive, args=(self._stop,), daemon=True)
            beat.start()
            self._serve()
        finally:
            self._stop.set()
            self._training.close()
            self._link.disconnect()
            self._state = NodeState.ENDED
            with suppress(TransientError):
                self._write_standing()

    def _connect(self) -> None:
        backoff = Backoff(delay_s_min=RETRY_S_MIN, delay_s_max=RETRY_S_MAX)
        while not self._stop.is_set():
            try:
                self._link.connect(self._former_id)
            except (TransientError, RefusedError, ContractError) as error:
                self._trouble(error)
                self._clock.wait(self._stop, backoff.next_delay_s())
            else:
                self._state = NodeState.ONLINE
                log.info("learning.online", extra={"node_id": self._link.node_id})
                return

    def _serve(self) -> None:
        backoff = Backoff(delay_s_min=RETRY_S_MIN, delay_s_max=RETRY_S_MAX)
        has_lease = True
        while not self._stop.is_set():
            try:
                if not has_lease:  # A hub that lost its database knows this node by another id
                    self._link.connect(self._link.node_id)
                    has_lease = True
                incoming = self._link.pull()
                self._state = NodeState.ONLINE
                backoff.reset()
                if incoming is not None:
                    self._answer(incoming)
                    continue
                self._training.rest()
                delay_s = self._order.settings.poll_s
            except (TransientError, RefusedError, ContractError) as error:
                self._trouble(error)
                is_network = isinstance(error, TransientError) and error.code != NOT_REGISTERED
                has_lease = has_lease and is_network
                delay_s = backoff.next_delay_s()
            self._clock.wait(self._stop, delay_s)

    def _answer(self, incoming: Incoming) -> None:
        """Answer one message."""
        started_s = time.monotonic()
        try:
            message = self._persist(incoming, lambda: self._link.fetch(incoming))
            self._persist(incoming, lambda: self._link.confirm(incoming))
            reply = self._reply_to(message, incoming)
        except ContractError as error:
            reply = failure(incoming.message, error)
        except RefusedError as error:
            _give_up(incoming, error)
            return
        finally:
            self._task = None
        if reply is None or self._stop.is_set():
            return
        runtime_s = time.monotonic() - started_s
        try:
            self._persist(incoming, lambda: self._link.send(reply, runtime_s=runtime_s))
            self._rounds_count += 1
        except (RefusedError, ContractError) as error:
            _give_up(incoming, error)
        self._state = NodeState.ONLINE

    def _persist(self, incoming: Incoming, act: Callable[[], T]) -> T:
        """Return what `act` returns, tried until it works, the message expired or we stop."""
        backoff = Backoff(delay_s_min=RETRY_S_MIN, delay_s_max=RETRY_S_MAX)
        rest = Backoff(delay_s_min=READY_S_MIN, delay_s_max=READY_S_MAX)
        metadata = incoming.message.metadata
        while True:
            try:
                return act()
            except TransientError as error:
                is_coming = error.code == NOT_READY
                if not is_coming:
                    self._trouble(error)
                if self._clock.now_s() > metadata.created_at + metadata.ttl:
                    raise RefusedError("task.expired", "The message expired.") from error
                delay_s = (rest if is_coming else backoff).next_delay_s()
                if self._clock.wait(self._stop, delay_s):
                    raise RefusedError("learning.stopped", "The process ends.") from error

    def _reply_to(self, message: Message, incoming: Incoming) -> Message | None:
        """Return the reply; None: the run is over. Raises ContractError for what is no task."""
        task, weights = read_task(message)
        self._task, self._state = task, NodeState.WORKING
        try:
            self._check(task)
            if (known := self._replies.find(task)) is not None:
                return success(message, known, is_repeated=True)
            outcome = self._train(task, weights, incoming)
        except IsthmusError as error:
            outcome = Outcome(code=error.code, text=str(error))
        if outcome is None:
            return None
        if outcome.code:
            log.warning("learning.refused", extra={"job": task.job, "code": outcome.code})
            return refusal(message, task, outcome)
        answer = self._replies.find(task)
        if answer is None:
            return refusal(message, task, Outcome(code="training.lost", text="No answer is kept."))
        return success(message, answer, is_repeated=False)

    def _check(self, task: LearningTask) -> None:
        """Raise RefusedError or IntegrityError where the task is not to be done here."""
        self._renew_policy()
        if task.job not in self._order.jobs:
            raise RefusedError("task.job", f"This device does not learn in the Job {task.job}.")
        spent, is_charged = self._ledger.spent(task.spec.model), False
        if task.privacy is not None:
            is_charged = self._ledger.is_charged(
                task.spec.model,
                task.job,
                task.round,
                task.privacy.noise_multiplier,
                base_digest=task.base_digest,
            )
        veto = decide(self._order.settings, task, spent, is_charged=is_charged)
        if veto is not None:
            raise veto.as_error()

    def _renew_policy(self) -> None:
        """Take up what the owner changed. Raises RefusedError `policy.unreadable`."""
        try:
            settings = _read_order(self._folder).settings
        except (OSError, msgspec.MsgspecError) as error:
            text = f"The owner's policy cannot be read: {error}."
            raise RefusedError("policy.unreadable", text) from error
        if settings == self._order.settings:
            return
        self._training.close()  # It was started with the old one
        key_path = Path(self._order.key_path)
        self._ledger = open_ledger(self._folder, key_path, settings.privacy)
        self._order = msgspec.structs.replace(self._order, settings=settings)
        log.info("learning.policy_renewed")

    def _train(
        self, task: LearningTask, weights: Mapping[str, Array], incoming: Incoming
    ) -> Outcome | None:
        """Return what came of it; None: it was stopped because nobody wants it any more."""
        # Loading torch is not the task's time: on a slow device each short Round would end in it,
        # and the next begin anew.
        deadline_s = time.monotonic() + LOAD_S_MAX
        is_loaded = False
        next_check_s = time.monotonic() + CHECK_S
        self._training.start(task, weights)
        while True:
            outcome = self._training.wait(STEP_S)
            if outcome is not None:
                return outcome
            if self._training.is_ready and not is_loaded:
                is_loaded = True
                deadline_s = time.monotonic() + task.seconds_max
            if time.monotonic() > deadline_s:
                self._training.cancel()
                limit_s = task.seconds_max if is_loaded else LOAD_S_MAX
                text = f"The training took over {limit_s:g} s."
                return Outcome(code="training.too_long", text=text)
            is_due = time.monotonic() > next_check_s
            if self._stop.is_set() or (is_due and not self._link.is_wanted(incoming.run_id)):
                self._training.cancel()
                log.info("learning.cancelled", extra={"job": task.job, "round": task.round})
                return None
            if is_due:
                next_check_s = time.monotonic() + CHECK_S

    def _pulse(self) -> None:
        """Write the standing; end what must end, even while a call to the hub hangs."""
        while not self._stop.is_set():
            with suppress(TransientError):
                self._write_standing()
            is_over = now_ms(self._clock) > self._order.until_ms
            if is_over or os.getppid() != self._parent:
                log.info("learning.ends", extra={"is_over": is_over})
                self._stop.set()
            self._clock.wait(self._stop, STANDING_S)
        threading.Event().wait(LEAVE_S_MAX)
        os._exit(0)  # The zygote and its child end with this process.

    def _write_standing(self) -> None:
        task = self._task
        standing = NodeStanding(
            at_ms=now_ms(self._clock),
            pid=os.getpid(),
            state=self._state,
            answered_ms=self._link.answered_ms,
            node_id=self._link.node_id or self._former_id,
            job=task.job if task else None,
            round=task.round if task else 0,
            rounds_count=self._rounds_count,
            text=self._text,
        )
        write_durably(self._folder / STANDING, msgspec.json.encode(standing), mode=0o600)

    def _trouble(self, error: IsthmusError) -> None:
        if self._text != str(error)[:TEXT_MAX]:
            log.warning("learning.trouble", extra={"code": error.code, "text": str(error)})
        self._text = str(error)[:TEXT_MAX]
        if self._state is NodeState.ONLINE:
            self._state = NodeState.CONNECTING


def _give_up(incoming: Incoming, error: IsthmusError) -> None:
    """Say that a message is answered no more: its run is over, or its time."""
    log.info("learning.given_up", extra={"run_id": incoming.run_id, "code": error.code})


def _read_order(folder: Path) -> NodeOrder:
    """Return what the agent wrote. Raises OSError, MsgspecError."""
    with (folder / ORDER).open("rb") as file:
        return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=NodeOrder)


def _former_node_id(folder: Path) -> int:
    """Return the node's id in its former life, 0 if that is not known."""
    try:
        with (folder / STANDING).open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=NodeStanding).node_id
    except (OSError, msgspec.MsgspecError):
        return 0


def _tell_why(folder: Path, error: Exception) -> None:
    standing = NodeStanding(
        at_ms=now_ms(SystemClock()),
        pid=os.getpid(),
        state=NodeState.ENDED,
        node_id=_former_node_id(folder),
        text=f"The learning process cannot run: {error}"[:TEXT_MAX],
    )
    with suppress(TransientError):
        write_durably(folder / STANDING, msgspec.json.encode(standing), mode=0o600)


def main() -> int:
    """Run; return the exit status: 0 ended as asked, 1 it cannot run."""
    set_up_logging()
    folder = Path(sys.argv[1])
    try:
        order = _read_order(folder)
        key = load_pem_private_key(Path(order.key_path).read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ContractError("learning.key", "The device's key is not an ECDSA key.")
        node = Node(folder, order, key)
    except (OSError, ValueError, msgspec.MsgspecError, IsthmusError) as error:
        log.error("learning.cannot_run", extra={"text": str(error)})
        _tell_why(folder, error)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: node.stop())
    signal.signal(signal.SIGINT, lambda *_: node.stop())
    node.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
