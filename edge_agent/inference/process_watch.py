"""Watch: what one thread does for a session: start a worker, watch it, start it again.

1. A crash is noticed at once: by the process's own descriptor, and by the run in flight.
2. A run that takes longer than `run_s_max`, one that computes without end (run_watch.py), or a ping
   unanswered for `run_s_max` means stuck: terminated, killed, started again.
3. A worker that dies within STEADY_S of the death before it is one more in a row: the first is
   started again at once, the next after a growing pause. After `deaths_max` in a row the model is
   given up: runs are refused as `worker.crashed`, and it is tried again every REST_S.
4. What the worker is started for is checked every time it is; see process_warming.
5. An exception that nobody foresaw ends the worker, is told to those who wait as its cause, and
   counts as a death. Before the first worker was warm there is no other after it.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from threading import Event
from types import TracebackType

from edge_agent.inference import worker_messages as words
from edge_agent.inference.process_child import WorkerChild
from edge_agent.inference.process_runs import WorkerRuns
from edge_agent.inference.process_wake import Wake
from edge_agent.inference.process_warming import Warming
from edge_agent.inference.run_watch import RunWatch
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import Clock
from shared.errors import RefusedError, TransientError

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
LOOK_S = 0.1  # Between two looks at what runs compute
BACKOFF_S_MIN = 0.2
REST_S = 60.0

StartChild = Callable[[int], WorkerChild]  # Its number, from 1. Raises OSError


class Watch:
    """See the rules above. Belongs to one thread, but for `kill`."""

    def __init__(
        self,
        start_child: StartChild,
        model: str,
        *,
        warming: Warming,
        runs: WorkerRuns,
        limits: WorkerLimits,
        wake: Wake,
        clock: Clock,
    ) -> None:
        """Start nothing yet. Args: wake: what `run` waits with; it returns when that is over."""
        self.restarts_count = 0
        self._start_child, self._model = start_child, model
        self._warming, self._runs = warming, runs
        self._limits, self._wake, self._clock = limits, wake, clock
        self._starting: WorkerChild | None = None  # Until it is warm
        self._started_s = 0.0  # The last one
        self._number = 0
        self._deaths_count = 0  # In a row
        self._has_begun = False

    def kill(self) -> None:
        """Kill the worker; from any thread, also from a finalizer."""
        for child in (self._runs.child, self._starting):
            if child is not None:
                child.kill()

    def run(self, _stop: Event) -> None:
        """Serve until the wake is over; when it raises it may be called again."""
        with ExitStack() as ends:
            ends.push(self._note_failure)
            while not self._wake.is_over:
                error, text = self._live_through()
                if not self._has_begun:
                    self._runs.end(error)
                    return
                self._tell_death(text)
                self._pause()
            self._runs.end()

    def _note_failure(
        self,
        _kind: type[BaseException] | None,
        failure: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Tell those who wait, and end the worker; who runs this thread logs it. See rule 5."""
        if failure is None:
            return
        cause = f"not watched: {type(failure).__name__}: {failure}"
        child = self._starting or self._runs.child
        if not self._has_begun:
            self._wake.end()
            text = f"The process that was to run {self._model} was {cause}."
            self._runs.end(TransientError("worker.lost", text, remedy="Look at the agent's log."))
        if child is not None:
            self._runs.lose(child, cause)
        self._note_end(cause)
        self._tell_death("")
        if child is not None:
            child.end()
            child.close()

    def _live_through(self) -> tuple[RefusedError | TransientError, str]:
        """Start a worker and watch it to its end; return why it could not begin, and its words."""
        self._number += 1
        self._started_s = self._clock.monotonic_s()
        try:
            child = self._start_child(self._number)
        except OSError as failure:
            cause = f"not started: {failure.strerror}"
            self._note_end(cause)
            return TransientError("worker.lost", f"A worker was {cause}."), ""
        self._starting = child
        if self._wake.is_over:  # stop() came before it could see this one
            child.kill()
        error: RefusedError | TransientError | None = None
        try:
            self._warming.warm_up(child)
            self._has_begun = True
            self._runs.publish(child)
            self._starting = None
            self._watch(child)
        except (RefusedError, TransientError) as refusal:
            error = refusal
            child.cause = refusal.message
        except OSError:
            child.is_lost.set()
        ended = child.end() if child.cause else child.reap()
        child.cause = child.cause or ended
        self._note_end(child.cause)
        text = child.last_words()
        child.close()
        return error or self._not_begun(child.cause, text), text

    def _not_begun(self, cause: str, text: str) -> RefusedError:
        """Return what a first worker's end means that never answered."""
        code = "worker.stuck" if cause.startswith("stuck") else "worker.crashed"
        said = f" It said: {text}." if text else ""
        return RefusedError(
            code,
            f"The process that was to run {self._model} was {cause}.{said}",
            remedy="Test the model on a machine like this one: edge-agent bench MODEL.",
        )

    def _note_end(self, cause: str) -> None:
        is_steady = self._clock.monotonic_s() - self._started_s >= self._limits.steady_s
        self._deaths_count = 1 if is_steady else self._deaths_count + 1
        self._starting = None
        self._runs.vacate(cause, self._deaths_count)

    def _tell_death(self, text: str) -> None:
        """Count and log a death that nobody asked for."""
        if not self._wake.is_over:
            self.restarts_count += 1
            fields = {"model": self._model, "cause": self._runs.last_cause, "text": text}
            log.warning("worker.lost", extra=fields)

    def _pause(self) -> None:
        """Wait before the next start; see rule 3."""
        if self._runs.is_given_up:
            seconds = REST_S
        elif self._deaths_count <= 1:
            return
        else:
            seconds = min(BACKOFF_S_MIN * 2 ** (self._deaths_count - 2), REST_S)
        deadline_s = self._clock.monotonic_s() + seconds
        while not self._wake.is_over:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return
            self._wake.wait([], left_s)

    def _watch(self, child: WorkerChild) -> None:
        """Return when `child` has ended, is to be ended, or the session is closed."""
        control = child.control.fileno()
        silence_s_max = max(self._limits.run_s_max, HEARTBEAT_S)
        run_watch = RunWatch(child.first_cpu_s)
        asked_s, ask_s = None, self._clock.monotonic_s()  # The ping that is out; the next one
        while not self._wake.is_over and not child.is_lost.is_set():
            now_s = self._clock.monotonic_s()
            if asked_s is None and now_s >= ask_s:
                child.control.send(words.PING)
                asked_s = now_s
            ready = self._wake.wait([child.pidfd, control], LOOK_S)
            if child.pidfd in ready:
                child.is_lost.set()
            elif control in ready:
                if not child.control.recv(words.PACKET_BYTES_MAX):
                    child.is_lost.set()
                asked_s, ask_s = None, self._clock.monotonic_s() + HEARTBEAT_S
            elif asked_s is not None and self._clock.monotonic_s() - asked_s > silence_s_max:
                self._runs.lose(child, f"stuck for {silence_s_max:g} s")
            computed_s = run_watch.look(child.look_at_lanes(), rows_max=child.rows_max)
            if computed_s is not None:
                self._runs.lose(child, f"stuck: a run had computed for {computed_s:.1f} s")
