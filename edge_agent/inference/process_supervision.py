"""Supervision: the thread that keeps a worker running for a session, and what is asked of it.

1. It is one thread for all workers of a session: the kernel kills a worker when the thread ends
   that started it.
2. `start` ends whatever becomes of that thread: an exception that nobody foresaw is its cause then.
   Later the thread goes on after one.
3. Nothing here refers back to the session or to itself: what is let go of is gone at once.
"""

from pathlib import Path

from edge_agent.inference.engine import Array
from edge_agent.inference.process_child import WorkerChild
from edge_agent.inference.process_runs import WorkerRuns
from edge_agent.inference.process_slots import Slot, Slots
from edge_agent.inference.process_wake import Wake
from edge_agent.inference.process_warming import Warming
from edge_agent.inference.process_watch import StartChild, Watch
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import Clock
from shared.errors import RefusedError, TransientError
from shared.model.spec import ModelSpec
from shared.worker import Worker

UNBEGUN_S_MAX = 10.0  # To clean up after a first worker that was refused


class Supervision:
    """See the rules above. Holds everything of a session but the session itself."""

    def __init__(
        self, start_child: StartChild, spec: ModelSpec, *, limits: WorkerLimits, clock: Clock
    ) -> None:
        """Start nothing yet."""
        self.spec = spec
        self._wake = Wake()
        self._runs = WorkerRuns(spec.model, limits=limits, wake=self._wake)
        self._warming = Warming(spec, limits=limits, wake=self._wake, clock=clock)
        self._watch = Watch(
            start_child, spec.model,
            warming=self._warming, runs=self._runs, limits=limits, wake=self._wake, clock=clock,
        )  # fmt: skip
        self._worker = Worker(f"worker {spec.model}", self._watch.run, clock=clock)

    @property
    def child(self) -> WorkerChild | None:
        """Return the worker that runs now, if one does."""
        return self._runs.child

    @property
    def last_cause(self) -> str:
        """Return how the last worker ended that did; empty before."""
        return self._runs.last_cause

    @property
    def restarts_count(self) -> int:
        """Return how many workers ended unasked."""
        return self._watch.restarts_count

    @property
    def runtime(self) -> str:
        """Return what runs the model, as the first worker said."""
        return self._warming.runtime

    @property
    def slots(self) -> Slots | None:
        """Return what inputs lie in; None before `start`."""
        return self._warming.slots

    @property
    def is_batch_fixed(self) -> bool:
        """Whether the graph takes no more rows than the spec says."""
        return self._warming.is_batch_fixed

    def start(self) -> None:
        """Return when the first worker is warm. Raises what it was refused for."""
        self._worker.start()
        try:
            self._runs.wait_for_first()
        except (RefusedError, TransientError):
            self._wake.end()
            self.join(UNBEGUN_S_MAX)
            raise

    def stop(self) -> None:
        """Kill the worker and have the thread end; from any thread, harmless when repeated."""
        if not self._wake.is_over:
            self._wake.end()
            self._watch.kill()

    def join(self, seconds_max: float) -> None:
        """Wait until the thread has ended, after `stop`."""
        self._worker.stop(seconds_max=seconds_max)

    def run(self, slot: Slot, rows: int) -> tuple[Array, ...]:
        """Return the outputs for what is in `slot`. Raises as ModelSession.run."""
        return self._runs.run(slot, rows)


def child_starter(
    module: str, path: Path, spec: ModelSpec, *, limits: WorkerLimits, threads: int
) -> StartChild:
    """Return what starts workers for a model. Args: module: what `python -m` runs."""
    return lambda number: WorkerChild(
        module, spec.model, path, threads=threads, bytes_max=limits.bytes_max, number=number
    )
