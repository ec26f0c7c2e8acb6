"""WorkerSession: a model that runs in a process of its own.

1. What a model does to its process (crash, run out of memory, never come back) costs the run in
   flight; see process_watch for how the next one is had.
2. A batch from `new_input` is seen by the worker where it lies; any other is copied once into a
   spare slot, and its outputs are copied out.
3. A session that is let go of ends its worker, also without `close`.
4. The agent's process never imports the runtime.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.inference.engine import Array
from edge_agent.inference.input_check import check_rows
from edge_agent.inference.process_supervision import Supervision, child_starter
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import Clock
from shared.errors import RefusedError
from shared.model.spec import ModelSpec

CLOSE_S_MAX = 2.0
STATM = "/proc/{pid}/statm"
PAGE_BYTES = 4096


class Backend(StrEnum):
    """What runs a model."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


MODULES = {
    Backend.ONNXRUNTIME: "edge_agent.inference.onnx_worker",
    Backend.OPENVINO: "edge_agent.inference.openvino_worker",
}


@dataclass(frozen=True, slots=True)
class WorkerStanding:
    """How a session's process stands."""

    pid: int | None  # None while it is being started again
    restarts_count: int
    last_cause: str  # Of the last restart; empty before
    rss_bytes: int


class WorkerSession:
    """Implements ModelSession; see the rules above."""

    def __init__(self, supervision: Supervision) -> None:
        """Use start_worker."""
        assert supervision.slots is not None, "not started"
        self._supervision = supervision
        self._slots = supervision.slots
        self._spec = supervision.spec
        self._dtype = self._slots.dtype
        self._rows = self._spec.input_shape[0]
        self._stop: Callable[[], object] = weakref.finalize(self, supervision.stop)

    def close(self) -> None:
        """End the worker; harmless when repeated."""
        self._stop()
        self._supervision.join(CLOSE_S_MAX)

    @property
    def spec(self) -> ModelSpec:
        """Return what the model takes in and gives out."""
        return self._spec

    @property
    def runtime(self) -> str:
        """Return what runs it, as the worker said."""
        return self._supervision.runtime

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Return float32, uint8, or int64 for texts."""
        return self._dtype

    @property
    def standing(self) -> WorkerStanding:
        """Return how the process stands."""
        child = self._supervision.child
        return WorkerStanding(
            pid=child.pid if child else None,
            restarts_count=self._supervision.restarts_count,
            last_cause=self._supervision.last_cause,
            rss_bytes=_rss_bytes(child.pid) if child else 0,
        )

    def new_input(self) -> Array:
        """Return an array over shared memory.

        Raises RefusedError or TransientError `worker.slots`; see Slots.take.
        """
        return self._slots.lend_input()

    def run(self, batch: Array) -> tuple[Array, ...]:
        """Return raw outputs; see ModelSession.

        Raises RefusedError `inference.failed`, `inference.input`, `worker.memory`,
        `worker.crashed`, `worker.slots`; TransientError `worker.lost`, `worker.slots`.
        """
        slot = self._slots.find(batch)
        if slot is not None:
            return self._supervision.run(slot, slot.rows)
        shape = self._spec.input_shape
        if batch.shape[1:] != shape[1:] or batch.dtype != self._dtype or not batch.shape[0]:
            raise RefusedError(
                "inference.failed",
                f"The model {self._spec.model} takes {self._dtype} {shape}; "
                f"the batch is {batch.dtype} {batch.shape}.",
            )
        check_rows(batch.shape[0], self._spec, is_fixed=self._supervision.is_batch_fixed)
        return self._run_copy(batch)

    def _run_copy(self, batch: Array) -> tuple[Array, ...]:
        rows = batch.shape[0]
        slot = self._slots.take(rows)
        try:
            np.copyto(slot.input(rows), batch)
            return tuple([output.copy() for output in self._supervision.run(slot, rows)])
        finally:
            self._slots.give_back(slot)


def start_worker(
    path: Path,
    spec: ModelSpec,
    limits: WorkerLimits,
    *,
    threads: int,
    clock: Clock,
    backend: Backend = Backend.ONNXRUNTIME,
) -> WorkerSession:
    """Return the model at `path` in a process of its own, checked against `spec` and warm.

    Args: threads: how many runs it takes at the same time.

    Raises RefusedError `model.unloadable`, `model.input_mismatch`, `inference.failed`,
    `inference.output`, `backend.missing`, `worker.memory`, `worker.stuck` or `worker.crashed`;
    TransientError `worker.lost` (no process could be started), `worker.slots` (no shared memory).
    """
    start_child = child_starter(
        MODULES[backend], path.absolute(), spec, limits=limits, threads=threads
    )
    supervision = Supervision(start_child, spec, limits=limits, clock=clock)
    supervision.start()
    return WorkerSession(supervision)


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(STATM.format(pid=pid)).read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):  # It has just gone
        return 0
