"""Supervision: the thread that starts a worker, watches it and starts it again.

1. A crash is noticed at once: by the process's own descriptor, and by the run in flight.
2. A run that takes longer than `run_s_max`, or a ping unanswered for as long, means stuck:
   terminated, killed, started again.
3. While there is no worker, those who come wait for the next one WAIT_S_MAX at most.
4. A worker that dies within STEADY_S of the death before it is one more in a row: the first is
   started again at once, the next after a growing pause. After `deaths_max` in a row the model is
   given up: runs are refused as `worker.crashed`, and it is tried again every REST_S.
5. What the worker is started for is checked every time it is: loaded, the spec's input, a warm run.
"""

import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_agent.inference import worker_messages as words
from edge_agent.inference.engine import Array, Node
from edge_agent.inference.input_check import checked_dtype, is_batch_fixed
from edge_agent.inference.process_child import WorkerChild
from edge_agent.inference.process_lane import refusal_in, run_on
from edge_agent.inference.process_slots import Slot, Slots
from shared.clock import Clock
from shared.errors import RefusedError, TransientError
from shared.model.postprocess import check_outputs
from shared.model.spec import ModelSpec

log = logging.getLogger(__name__)

LOAD_S_MAX = 120.0  # A large model from a slow card
WARM_RUN_FACTOR = 2.0  # The first run also allocates: it may take longer than others
HEARTBEAT_S = 1.0
WAIT_S_MAX = 5.0
STEADY_S = 30.0
BACKOFF_S_MIN = 0.2
REST_S = 60.0
CAUSE_S_MAX = 1.0  # From a broken lane to how the process ended


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What one worker may take."""

    bytes_max: int = 1 << 30
    run_s_max: float = 5.0
    load_s_max: float = LOAD_S_MAX
    deaths_max: int = 5
    steady_s: float = STEADY_S
    wait_s_max: float = WAIT_S_MAX


class Supervision:
    """See the rules above. Holds everything of a session but the session itself."""

    def __init__(
        self,
        module: str,
        path: Path,
        spec: ModelSpec,
        *,
        limits: WorkerLimits,
        threads: int,
        clock: Clock,
    ) -> None:
        """Start nothing yet. Args: module: what `python -m` runs."""
        self.spec = spec
        self.runtime = ""
        self.slots: Slots | None = None
        self.is_batch_fixed = False  # Whether the graph takes no more rows than the spec says
        self.restarts_count = 0
        self.last_cause = ""
        self._start_child: Callable[[int], WorkerChild] = lambda number: WorkerChild(
            module, spec.model, path,
            threads=threads, bytes_max=limits.bytes_max, number=number,
        )  # fmt: skip
        self._limits = limits
        self._clock = clock
        self._child: WorkerChild | None = None  # Ready to run
        self._starting: WorkerChild | None = None
        self._changed = threading.Condition()
        self._first_error: RefusedError | TransientError | None = None
        self._is_given_up = False
        self._is_closed = False
        self._deaths_count = 0  # In a row
        self._has_begun = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(
            target=self._supervise, name=f"worker {spec.model}", daemon=True
        )

    def __del__(self) -> None:
        """Close what wakes the thread, which is over by now."""
        if hasattr(self, "_wake"):
            os.close(self._wake)

    @property
    def child(self) -> WorkerChild | None:
        """Return the worker that runs now, if one does."""
        return self._child

    def start(self) -> None:
        """Return when the first worker is warm. Raises what it was refused for."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._child is not None or self._is_closed)
        if self._first_error is not None:
            self._thread.join()
            raise self._first_error

    def stop(self) -> None:
        """Kill the worker and have the thread end; from any thread, harmless when repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        for child in (self._child, self._starting):
            if child is not None:
                child.kill()
        with suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def join(self, seconds_max: float) -> None:
        """Wait until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join(seconds_max)

    def run(self, slot: Slot, rows: int) -> tuple[Array, ...]:
        """Return the outputs for what is in `slot`. Raises as ModelSession.run."""
        child = self._child
        if child is None or child.is_lost.is_set():
            child = self._wait_for_child()
        lane = child.take_lane(self._limits.run_s_max)
        if lane is None:  # Those who run have deadlines of their own: nothing is to be ended here
            raise TransientError(
                "worker.lost",
                f"The process that runs {self.spec.model} was busy with other runs.",
                remedy="Let fewer threads run one model.",
            )
        if child.is_lost.is_set():
            child.give_back_lane(lane)
            raise self._lost(child)
        return self._run_on(child, lane, slot, rows)

    def _run_on(
        self, child: WorkerChild, lane: socket.socket, slot: Slot, rows: int
    ) -> tuple[Array, ...]:
        is_answered = False
        try:
            outputs = run_on(lane, child.number, slot, rows)
            is_answered = True
        except BlockingIOError as error:
            self._lose(child, f"stuck for {self._limits.run_s_max:g} s")
            raise self._lost(child) from error
        except OSError as error:
            self._lose(child, "")
            raise self._lost(child) from error
        finally:
            if not is_answered:  # What comes on this lane from now on is nobody's
                self._lose(child, "")
            child.give_back_lane(lane)
        if isinstance(outputs, RefusedError):
            raise outputs
        return outputs

    def _lose(self, child: WorkerChild, cause: str) -> None:
        """Say that a worker is of no use any more, and why if that is known."""
        child.cause = child.cause or cause
        child.is_lost.set()
        with suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _lost(self, child: WorkerChild) -> TransientError:
        """Return what to raise, with the cause if it comes to light soon."""
        if not child.cause:
            with self._changed:
                self._changed.wait_for(lambda: child.cause, CAUSE_S_MAX)
        return TransientError(
            "worker.lost",
            f"The process that ran {self.spec.model} was {child.cause or 'lost'}.",
            remedy="It is being started again.",
        )

    def _wait_for_child(self) -> WorkerChild:
        """Return the next worker; see rules 3 and 4."""
        assert not self._is_closed, "the session is closed"
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready() or self._is_given_up, self._limits.wait_s_max
            )
            child = self._ready()
        if child is not None:
            return child
        if self._is_given_up:
            raise self._crashed()
        raise TransientError(
            "worker.lost",
            f"The process that ran {self.spec.model} was {self.last_cause or 'lost'}.",
            remedy="It is being started again.",
        )

    def _ready(self) -> WorkerChild | None:
        child = self._child
        return None if child is None or child.is_lost.is_set() else child

    def _crashed(self) -> RefusedError:
        return RefusedError(
            "worker.crashed",
            f"The process that runs {self.spec.model} died {self._deaths_count} times in a row; "
            f"at last it was {self.last_cause}.",
            remedy="Give the device another release of the model, or more memory.",
        )

    def _supervise(self) -> None:
        number = 0
        while not self._is_closed and self._first_error is None:
            number += 1
            error, text = self._live_through(number)
            if not self._has_begun:
                self._first_error = error
                break
            self._tell_death(text)
            self._pause()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _tell_death(self, text: str) -> None:
        """Count and log a death that nobody asked for."""
        if not self._is_closed:
            self.restarts_count += 1
            fields = {"model": self.spec.model, "cause": self.last_cause, "text": text}
            log.warning("worker.lost", extra=fields)

    def _live_through(self, number: int) -> tuple[RefusedError | TransientError, str]:
        """Start a worker and watch it to its end; return why it could not begin, and its words."""
        started_s = self._clock.monotonic_s()
        try:
            child = self._start_child(number)
        except OSError as failure:
            cause = f"not started: {failure.strerror}"
            self._note_end(cause, started_s)
            return TransientError("worker.lost", f"A worker was {cause}."), ""
        self._starting = child
        if self._is_closed:  # stop() came before it could see this one
            child.kill()
        error = None
        try:
            self._warm_up(child)
            self._publish(child)
            self._watch(child)
        except RefusedError as refusal:
            error = refusal
            child.cause = refusal.message
        except OSError:
            child.is_lost.set()
        ended = child.end() if child.cause else child.reap()
        child.cause = child.cause or ended
        self._note_end(child.cause, started_s)
        text = child.last_words()
        child.close()
        return error or self._not_begun(child.cause, text), text

    def _not_begun(self, cause: str, text: str) -> RefusedError:
        """Return what a first worker's end means that never answered."""
        code = "worker.stuck" if cause.startswith("stuck") else "worker.crashed"
        said = f" It said: {text}." if text else ""
        return RefusedError(
            code,
            f"The process that was to run {self.spec.model} was {cause}.{said}",
            remedy="Test the model on a machine like this one: edge-agent bench MODEL.",
        )

    def _publish(self, child: WorkerChild) -> None:
        with self._changed:
            self._child, self._starting = child, None
            self._is_given_up = False
            self._changed.notify_all()

    def _note_end(self, cause: str, started_s: float) -> None:
        is_steady = self._clock.monotonic_s() - started_s >= self._limits.steady_s
        self._deaths_count = 1 if is_steady else self._deaths_count + 1
        with self._changed:
            self.last_cause = cause
            self._child = self._starting = None
            self._is_given_up = self._deaths_count >= self._limits.deaths_max
            self._changed.notify_all()

    def _pause(self) -> None:
        """Wait before the next start; see rule 4."""
        if self._is_given_up:
            seconds = REST_S
        elif self._deaths_count <= 1:
            return
        else:
            seconds = min(BACKOFF_S_MIN * 2 ** (self._deaths_count - 2), REST_S)
        deadline_s = self._clock.monotonic_s() + seconds
        while not self._is_closed:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            self._wait([], left_s)

    def _warm_up(self, child: WorkerChild) -> None:
        """Have the model loaded, checked and run once.

        Raises RefusedError for what it was refused, OSError where the worker is gone or stuck.
        """
        slots = self._checked(self._answer(child, self._limits.load_s_max))
        rows = self.spec.input_shape[0]
        seconds_max = self._limits.run_s_max * WARM_RUN_FACTOR
        child.limit_runs(seconds_max)
        slot = slots.take(rows)
        if child.number == 1:
            slot.input(rows).fill(0)
        lane = child.take_lane(0.0)
        assert lane is not None, "nobody else knows this worker yet"
        try:
            outputs = run_on(lane, child.number, slot, rows)
        except BlockingIOError:
            child.cause = f"stuck for {seconds_max:g} s"
            raise
        finally:
            child.give_back_lane(lane)
        if isinstance(outputs, RefusedError):
            raise outputs
        check_outputs(outputs, self.spec)
        slots.give_back(slot)
        if not self._has_begun:
            slots.learn_output_bytes(sum(one.nbytes for one in outputs) // rows)
            self._has_begun = True
        child.limit_runs(self._limits.run_s_max)
        child.control.send(words.READY)  # It hands back what only loading needed
        self._answer(child, self._limits.load_s_max)

    def _checked(self, packet: bytes) -> Slots:
        """Return the slots for what the worker says that the model takes."""
        if packet[:1] == words.REFUSED:
            raise refusal_in(packet)
        told = words.parse_json(packet)
        nodes = [Node(name, dtype, tuple(shape)) for name, dtype, shape in told["inputs"]]
        dtype = checked_dtype(nodes, self.spec)
        if self.slots is None:
            self.runtime = str(told["runtime"])
            self.is_batch_fixed = is_batch_fixed(nodes)
            self.slots = Slots(self.spec.input_shape, dtype)
        return self.slots

    def _answer(self, child: WorkerChild, seconds_max: float) -> bytes:
        """Return the next packet on the control socket. Raises OSError."""
        deadline_s = self._clock.monotonic_s() + seconds_max
        control = child.control.fileno()
        while not self._is_closed:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                child.cause = f"stuck for {seconds_max:g} s"
                raise TimeoutError
            if control in self._wait([control], left_s):
                packet = child.control.recv(words.PACKET_BYTES_MAX)
                if packet:
                    return packet
                break
        raise ConnectionResetError

    def _watch(self, child: WorkerChild) -> None:
        """Return when `child` has ended, is to be ended, or the session is closed."""
        control = child.control.fileno()
        silence_s_max = max(self._limits.run_s_max, HEARTBEAT_S)
        asked_s: float | None = None
        while not self._is_closed and not child.is_lost.is_set():
            if asked_s is None:
                child.control.send(words.PING)
                asked_s = self._clock.monotonic_s()
            ready = self._wait([child.pidfd, control], HEARTBEAT_S)
            if child.pidfd in ready:
                child.is_lost.set()
            elif control in ready:
                if not child.control.recv(words.PACKET_BYTES_MAX):
                    child.is_lost.set()
                asked_s = None
                self._wait([child.pidfd], HEARTBEAT_S)
            elif self._clock.monotonic_s() - asked_s > silence_s_max:
                self._lose(child, f"stuck for {silence_s_max:g} s")

    def _wait(self, descriptors: list[int], seconds: float) -> set[int]:
        """Return which of `descriptors` can be read, when one can, or someone woke this thread."""
        poller = select.poll()
        for descriptor in (*descriptors, self._wake):
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(seconds * 1000)}
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        return ready
