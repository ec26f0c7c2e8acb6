"""WorkerRuns: what those who run a model see: the worker that is there, or why none is.

1. Runs come from any thread. A run that breaks a worker says so (`lose`); the supervising thread
   publishes the next one, or why there will be none.
2. While there is no worker, those who come wait for the next one `wait_s_max` at most; where the
   model is given up they are refused at once, as `worker.crashed`.
"""

import socket
import threading

from edge_agent.inference.engine import Array
from edge_agent.inference.process_child import WorkerChild
from edge_agent.inference.process_lane import run_on
from edge_agent.inference.process_slots import Slot
from edge_agent.inference.process_wake import Wake
from edge_agent.inference.worker_limits import WorkerLimits
from shared.errors import RefusedError, TransientError

CAUSE_S_MAX = 1.0  # From a broken lane to how the process ended


class WorkerRuns:
    """See the rules above. Safe to share between threads."""

    def __init__(self, model: str, *, limits: WorkerLimits, wake: Wake) -> None:
        """Args: wake: of the thread that publishes workers."""
        self.last_cause = ""
        self._model, self._limits, self._wake = model, limits, wake
        self._child: WorkerChild | None = None
        self._changed = threading.Condition()
        self._first_error: RefusedError | TransientError | None = None
        self._has_ended = False
        self._is_given_up = False
        self._deaths_count = 0  # In a row

    @property
    def child(self) -> WorkerChild | None:
        """Return the worker that runs now, if one does."""
        return self._child

    def run(self, slot: Slot, rows: int) -> tuple[Array, ...]:
        """Return the outputs for what is in `slot`. Raises as ModelSession.run."""
        child = self._child
        if child is None or child.is_lost.is_set():
            child = self._wait_for_child()
        lane = child.take_lane(self._limits.run_s_max)
        if lane is None:  # Those who run have deadlines of their own: nothing is to be ended here
            raise TransientError(
                "worker.lost",
                f"The process that runs {self._model} was busy with other runs.",
                remedy="Let fewer threads run one model.",
            )
        if child.is_lost.is_set():
            child.give_back_lane(lane)
            raise self._lost(child)
        return self._run_on(child, lane, slot, rows)

    def lose(self, child: WorkerChild, cause: str) -> None:
        """Say that a worker is of no use any more, and why if that is known."""
        child.cause = child.cause or cause
        child.is_lost.set()
        self._wake.wake()

    # The supervising thread's side, and that of who waits for the first worker.

    def publish(self, child: WorkerChild) -> None:
        """Let runs have `child`, which is warm."""
        with self._changed:
            self._child = child
            self._is_given_up = False
            self._changed.notify_all()

    def vacate(self, cause: str, deaths_count: int) -> None:
        """Say that the worker is gone, and how. Args: deaths_count: how many in a row."""
        with self._changed:
            self.last_cause = cause
            self._child = None
            self._deaths_count = deaths_count
            self._is_given_up = deaths_count >= self._limits.deaths_max
            self._changed.notify_all()

    def end(self, error: RefusedError | TransientError | None = None) -> None:
        """Say that no worker will come any more. Args: error: why there never was one."""
        with self._changed:
            self._first_error = self._first_error or error
            self._has_ended = True
            self._changed.notify_all()

    def wait_for_first(self) -> None:
        """Return when a worker is there. Raises why none will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._child is not None or self._has_ended)
            error, self._first_error = self._first_error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # Through its traceback it would keep this frame, and that all slots

    @property
    def is_given_up(self) -> bool:
        """Whether too many workers died in a row."""
        return self._is_given_up

    # The runs' side.

    def _run_on(
        self, child: WorkerChild, lane: socket.socket, slot: Slot, rows: int
    ) -> tuple[Array, ...]:
        is_answered = False
        child.rows_max = max(child.rows_max, rows)
        try:
            outputs = run_on(lane, child.number, slot, rows)
            is_answered = True
        except BlockingIOError as error:
            self.lose(child, f"stuck for {self._limits.run_s_max:g} s")
            raise self._lost(child) from error
        except OSError as error:
            self.lose(child, "")
            raise self._lost(child) from error
        finally:
            if not is_answered:  # What comes on this lane from now on is nobody's
                self.lose(child, "")
            child.give_back_lane(lane)
        if isinstance(outputs, RefusedError):
            raise outputs
        return outputs

    def _lost(self, child: WorkerChild) -> TransientError:
        """Return what to raise, with the cause if it comes to light soon."""
        if not child.cause:
            with self._changed:
                self._changed.wait_for(lambda: child.cause or self._has_ended, CAUSE_S_MAX)
        return TransientError(
            "worker.lost",
            f"The process that ran {self._model} was {child.cause or 'lost'}.",
            remedy="It is being started again.",
        )

    def _wait_for_child(self) -> WorkerChild:
        """Return the next worker; see rule 2."""
        assert not self._wake.is_over, "the session is closed"
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready() or self._is_given_up or self._has_ended,
                self._limits.wait_s_max,
            )
            child = self._ready()
        if child is not None:
            return child
        if self._is_given_up:
            raise self._crashed()
        raise TransientError(
            "worker.lost",
            f"The process that ran {self._model} was {self.last_cause or 'lost'}.",
            remedy="It is being started again.",
        )

    def _ready(self) -> WorkerChild | None:
        child = self._child
        return None if child is None or child.is_lost.is_set() else child

    def _crashed(self) -> RefusedError:
        return RefusedError(
            "worker.crashed",
            f"The process that runs {self._model} died {self._deaths_count} times in a row; "
            f"at last it was {self.last_cause}.",
            remedy="Give the device another release of the model, or more memory.",
        )
