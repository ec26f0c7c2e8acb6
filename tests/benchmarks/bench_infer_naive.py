"""naive: what a tutorial writes: onnxruntime's and OpenCV's defaults, one frame after the other.

In a process of its own with Python's and glibc's defaults: nothing that our agent sets up helps it.
"""

import json
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import onnxruntime

from shared.model.opencv_resize import FrameResizer
from shared.model.postprocess import detected_boxes
from shared.model.preprocess import place
from shared.model.spec import Colour, Resize
from tests.benchmarks.bench_infer_parts import WAIT_S_MAX, Case, cpu_s_of

SETTLE_S = 1.0


class Naive:
    """See rule 3."""

    def __init__(self, case: Case, session: onnxruntime.InferenceSession | None = None) -> None:
        self._case = case
        self.session = session or onnxruntime.InferenceSession(
            str(case.original), providers=["CPUExecutionProvider"]
        )
        self._input = self.session.get_inputs()[0].name
        self._capture = cv2.VideoCapture(str(case.video))
        self.boxes_count = 0

    def __call__(self, frames: int) -> None:
        for _ in range(frames):
            self.one()

    def one(self) -> None:
        is_read, frame = self._capture.read()
        if not is_read:
            self._capture = cv2.VideoCapture(str(self._case.video))
            _, frame = self._capture.read()
        image, spec = self._case.image, self._case.spec
        height, width = frame.shape[:2]
        if image.resize is Resize.LETTERBOX:
            picture, _ = FrameResizer(image).resize(frame.astype(np.uint8, copy=False))
        else:
            picture = cv2.resize(frame, (image.width, image.height)).astype(np.uint8, copy=False)
        if image.colour is Colour.RGB:
            picture = picture[:, :, ::-1]
        mean, scale = np.asarray(image.mean, np.float32), np.asarray(image.scale, np.float32)
        values = (picture.astype(np.float32) - mean) / scale
        tensor = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
        outputs = tuple(self.session.run(None, {self._input: tensor}))
        boxes = detected_boxes(outputs, spec, placement=place(width, height, image))
        self.boxes_count += len(boxes)


def naive_cameras(case: Case, *, count: int, fps: float, seconds: float) -> dict[str, float]:
    """Return what the naive loop costs for as many cameras, one thread each, one session."""
    session = onnxruntime.InferenceSession(str(case.original), providers=["CPUExecutionProvider"])
    stop, latencies = threading.Event(), list[float]()

    def camera(phase_s: float) -> None:
        loop = Naive(case, session)
        due_s = time.perf_counter() + phase_s
        while not stop.wait(max(0.0, due_s - time.perf_counter())):
            started = max(due_s, time.perf_counter() - 1.0 / fps)
            loop.one()
            latencies.append((time.perf_counter() - started) * 1e3)
            due_s += 1.0 / fps

    threads = [
        threading.Thread(target=camera, args=(index / fps / count,)) for index in range(count)
    ]
    for thread in threads:
        thread.start()
    time.sleep(SETTLE_S)
    latencies.clear()
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    used, took, told = time.process_time() - cpu, time.perf_counter() - wall, list(latencies)
    stop.set()
    for thread in threads:
        thread.join()
    return {
        "cpu_share": round(used / took, 3),
        "fps": round(len(told) / took, 1),
        "p95_ms": round(float(np.percentile(told, 95)), 2),
    }


class NaiveProcess:
    """Runs both in a process of its own, between `with` and its end."""

    def __init__(self, case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(case, other), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._ask("ready")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()

    def __call__(self, frames: int) -> None:
        """Run one block."""
        self._ask("block", frames)

    def cameras(self, *, count: int, fps: float, seconds: float) -> dict[str, float]:
        """See naive_cameras."""
        return self._ask("cameras", count, fps, seconds)

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used so far."""
        return cpu_s_of(self._process.pid)

    def _ask(self, what: str, *values: float) -> dict[str, float]:
        self._pipe.send((what, *values))
        assert self._pipe.poll(WAIT_S_MAX), "the naive loop stands still"
        found: dict[str, float] = json.loads(self._pipe.recv())
        return found


def _serve(case: Case, pipe: Connection) -> None:
    loop = Naive(case)
    while True:
        what, *values = pipe.recv()
        found: dict[str, float] = {}
        if what == "block":
            loop(values[0])
        elif what == "cameras":
            count, fps, seconds = values
            found = naive_cameras(case, count=count, fps=fps, seconds=seconds)
        pipe.send(json.dumps(found))
