"""What a worker process costs beside a bare run: microseconds a frame, memory, start, recovery.

Prints one JSON line. Worker and bare onnxruntime take turns in blocks of RUNS, each with input of
its own for every frame, so that what else the machine does falls on both.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.inference.process_session import WorkerSession, start_worker
from edge_agent.inference.worker_limits import WorkerLimits
from shared.clock import SystemClock
from shared.errors import TransientError
from shared.model.spec import ModelSpec, parse_spec
from tests.support.requirements import require_data

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "deploy" / "examples" / "fastestdet.toml"
OVERHEAD_US_MAX = 60.0
NEXT_RESULT_MS_MAX = 300.0
RUNS, TURNS, STARTS = 40, 15, 7


def measure(model: Path, spec: ModelSpec) -> dict[str, object]:
    """Return every figure for one model."""
    own_before = _uss_mb(os.getpid())
    with closing(_start(model, spec)) as session:
        buffer = session.new_input()
        session.run(buffer)
        own_mb = _uss_mb(os.getpid()) - own_before
        worker_mb = _uss_mb(session.standing.pid or 0)
        next_ms = [_next_result_ms(session, buffer) for _ in range(STARTS)]
        bare_us, worker_us = _interleaved(model, spec, session)
    start_ms = []
    for _ in range(STARTS):
        began_s = time.perf_counter()
        with closing(_start(model, spec)):
            start_ms.append((time.perf_counter() - began_s) * 1e3)
    overhead_us = worker_us - bare_us
    next_ms_median = statistics.median(next_ms)
    return {
        "model": model.name,
        "bare_us": round(bare_us, 1),
        "worker_us": round(worker_us, 1),
        "overhead_us": round(overhead_us, 1),
        "overhead_us_limit": OVERHEAD_US_MAX,
        "agent_uss_mb": round(own_mb, 1),
        "worker_uss_mb": round(worker_mb, 1),
        "cold_to_warm_ms": round(statistics.median(start_ms)),
        "kill_to_next_result_ms": round(next_ms_median),
        "kill_to_next_result_ms_worst": round(max(next_ms)),
        "kill_to_next_result_ms_limit": NEXT_RESULT_MS_MAX,
        "is_within": overhead_us <= OVERHEAD_US_MAX and next_ms_median <= NEXT_RESULT_MS_MAX,
    }


def _start(model: Path, spec: ModelSpec) -> WorkerSession:
    limits = WorkerLimits(steady_s=0.0)
    return start_worker(model, spec, limits, threads=2, clock=SystemClock())


def _interleaved(model: Path, spec: ModelSpec, session: WorkerSession) -> tuple[float, float]:
    """Return the median of a bare run and of one through the worker, in microseconds."""
    bare = load_onnx_session(model, spec)
    frames = np.random.default_rng(1).uniform(0, 1, (8, *spec.input_shape[1:]))
    frames = frames.astype(session.input_dtype)
    own, shared = bare.new_input(), session.new_input()
    for frame in frames:  # Both see the frame, or the figures mean nothing
        own[0], shared[0] = frame, frame
        for one, other in zip(bare.run(own), session.run(shared), strict=True):
            np.testing.assert_array_equal(one, other)
    bare_us: list[float] = []
    worker_us: list[float] = []
    for _ in range(TURNS):
        bare_us += _timed(lambda: bare.run(own), own, frames)
        worker_us += _timed(lambda: session.run(shared), shared, frames)
    return statistics.median(bare_us), statistics.median(worker_us)


def _timed(run: Callable[[], object], buffer: np.ndarray, frames: np.ndarray) -> list[float]:
    times = []
    for index in range(RUNS):
        buffer[0] = frames[index % len(frames)]
        began_s = time.perf_counter()
        run()
        times.append((time.perf_counter() - began_s) * 1e6)
    return times[RUNS // 4 :]  # The first ones find the other's data in the caches


def _next_result_ms(session: WorkerSession, buffer: np.ndarray) -> float:
    pid = session.standing.pid
    assert pid is not None
    began_s = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while session.standing.restarts_count == 0 or session.standing.pid in (None, pid):
        with contextlib.suppress(TransientError):
            session.run(buffer)
    session.run(buffer)
    return (time.perf_counter() - began_s) * 1e3


def _uss_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().uss) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--spec", type=Path, default=SPEC)
    asked = parser.parse_args()
    chosen = asked.model or require_data("models/FastestDet.onnx")
    figures = measure(chosen, parse_spec(asked.spec.read_bytes()))
    print(json.dumps({"bench": "worker", **figures}))
