"""What bench_infer compares, each as a block that runs so many frames: bare, front, ours.

1. bare: the model alone, on as many threads as cores, one session. front: a video decoded and
   resized, nothing else. Both are the least that any pipeline must spend.
2. ours: the real source, mailbox, lanes, decisions; made once, let go for so many frames a block.
3. naive (bench_infer_naive.py): what a tutorial writes, in a process of its own.
"""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_hub.candidates import onnx_folding
from cloud_hub.candidates.folding import folded_spec
from cloud_hub.candidates.onnx_inspection import inspect_model
from edge_agent.decisions.decision import ItemResult
from edge_agent.inference.active_model import ActiveModel, LoadedRelease
from edge_agent.inference.loop import InferenceLoop
from edge_agent.inference.session import ModelSession
from edge_agent.inference.slots import InferenceSlots, cores_count
from edge_agent.sources.capture import CaptureLoop
from edge_agent.sources.item import Item
from edge_agent.sources.mailbox import Keep, Mailbox
from edge_agent.sources.opening import open_source
from edge_agent.sources.source import Source
from shared.clock import SystemClock
from shared.model.preprocess import place
from shared.model.spec import ImageInput, ModelSpec
from shared.pipeline.sources import Delivery, Pace, VideoSettings

CLOCK = SystemClock()
CORES = cores_count()
WAIT_S_MAX = 120.0
OPSET_MIN = 1  # Whatever the runtime still loads

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A model, as it came and with its preprocessing folded in, and a video."""

    original: Path
    folded: Path
    spec: ModelSpec  # Of the original
    folded_spec: ModelSpec
    video: Path

    @property
    def image(self) -> ImageInput:
        assert isinstance(self.spec.input, ImageInput)
        return self.spec.input


def fold(model: Path, spec: ModelSpec, to: Path) -> ModelSpec:
    """Write `model` as the hub would release it, uint8 frames in; return the spec it then has."""
    known = inspect_model(model.read_bytes(), opset_min=OPSET_MIN).model_bytes
    to.write_bytes(onnx_folding.fold(known, spec))
    return folded_spec(spec)


@dataclass
class Cost:
    """Of one block, per frame."""

    wall_ms: float
    cpu_ms: float


def measured(block: Callable[[int], None], frames: int, cpu_s: Callable[[], float]) -> Cost:
    """Return what a block cost, once whatever ran before has stopped spinning."""
    time.sleep(0.15)
    cpu, wall = cpu_s(), time.perf_counter()
    block(frames)
    return Cost((time.perf_counter() - wall) / frames * 1e3, (cpu_s() - cpu) / frames * 1e3)


def cpu_s_of(pid: int | None) -> float:
    """Return the CPU seconds of another process, to the microsecond where the kernel tells."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        return 0.0


class Bare:
    """See rule 1."""

    def __init__(self, session: ModelSession) -> None:
        self._session = session
        self._inputs = [session.new_input() for _ in range(CORES)]
        for batch in self._inputs:
            batch.fill(114)

    def __call__(self, frames: int) -> None:
        def run(batch: NDArray[Any]) -> None:
            for _ in range(frames // CORES):
                self._session.run(batch)

        threads = [threading.Thread(target=run, args=(batch,)) for batch in self._inputs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def alone_ms(self, runs: int = 60) -> float:
        """Return the median of one run with the machine to itself."""
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            self._session.run(self._inputs[0])
            times.append((time.perf_counter() - started) * 1e3)
        return float(np.median(times))

    def paced_p95_ms(self, runs_per_s: float, seconds: float) -> float:
        """Return the 95th percentile of runs that come one at a time, with nothing in between."""
        times, due_s = [], time.perf_counter()
        for _ in range(int(runs_per_s * seconds)):
            due_s += 1.0 / runs_per_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            started = time.perf_counter()
            self._session.run(self._inputs[0])
            times.append((time.perf_counter() - started) * 1e3)
        return float(np.percentile(times, 95))


class Front:
    """See rule 1."""

    def __init__(self, case: Case) -> None:
        options = [cv2.CAP_PROP_N_THREADS, 1]
        self._capture = cv2.VideoCapture(str(case.video), cv2.CAP_FFMPEG, options)
        self._image = case.image
        self._frame: Any = None
        self._out = np.full((case.image.height, case.image.width, 3), 114, np.uint8)

    def __call__(self, frames: int) -> None:
        for _ in range(frames):
            is_read, self._frame = self._capture.read(self._frame)
            if not is_read:
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                _, self._frame = self._capture.read(self._frame)
            height, width = self._frame.shape[:2]
            at = place(width, height, self._image)
            inside = self._out[at.top : at.top + at.height, at.left : at.left + at.width]
            cv2.resize(self._frame, (at.width, at.height), dst=inside)


class GatedSource:
    """A real source that gives as many items as it is allowed, at a pace or as fast as it goes."""

    def __init__(self, video: Path, *, fps: float = 0.0, phase_s: float = 0.0) -> None:
        settings = VideoSettings(
            path=str(video), pace=Pace.AS_FAST, loop=True, delivery=Delivery.EVERY
        )
        self._source: Source = open_source(settings, CLOCK)
        self.is_every_item = fps == 0.0
        self._fps, self._phase_s = fps, phase_s
        self._allowed = threading.Semaphore(0)
        self._due_s = 0.0

    @property
    def description(self) -> str:
        return self._source.description

    def allow(self, items: int) -> None:
        self._allowed.release(items)

    def open(self) -> None:
        self._source.open()

    def close(self) -> None:
        self._source.close()

    def read(self, stop: threading.Event) -> Item | None:
        if not self._fps:
            while not self._allowed.acquire(timeout=0.2):
                if stop.is_set():
                    return None
            return self._source.read(stop)
        now_s = CLOCK.monotonic_s()
        self._due_s = self._due_s + 1.0 / self._fps if self._due_s else now_s + self._phase_s
        CLOCK.wait(stop, max(0.0, self._due_s - now_s))
        return None if stop.is_set() else self._source.read(stop)


class WatchedMailbox(Mailbox):
    """Counts the items that were taken although a newer one was there."""

    def __init__(self, keep: Keep) -> None:
        super().__init__(keep, CLOCK)
        self.newest = -1
        self.stale_count = 0

    def put(self, item: Item, stop: threading.Event) -> bool:
        is_put = super().put(item, stop)
        self.newest = item.sequence
        return is_put

    def take(self, seconds_max: float = 0.2) -> Item | None:
        newest = self.newest
        item = super().take(seconds_max)
        if item is not None and item.sequence < newest:
            self.stale_count += 1
        return item


@dataclass
class Ours:
    """See rule 2. One camera."""

    case: Case
    session: ModelSession
    slots: InferenceSlots = field(default_factory=lambda: InferenceSlots(0))
    fps: float = 0.0
    phase_s: float = 0.0

    def __post_init__(self) -> None:
        active = ActiveModel(self.case.spec.model)
        active.swap(LoadedRelease(self.case.spec.model, 1, "0" * 64, "fp32", self.session))
        self.source = GatedSource(self.case.video, fps=self.fps, phase_s=self.phase_s)
        self.mailbox = WatchedMailbox(Keep.NEWEST if self.fps else Keep.EVERY)
        self.loop = InferenceLoop(
            "bench",
            self.mailbox,
            active,
            sinks=[self._count],
            clock=CLOCK,
            slots=self.slots,
            lanes=self.slots.count,
        )
        self._capture = CaptureLoop(self.source, self.mailbox, CLOCK)
        self._told, self._left_count = threading.Event(), 0
        self._stop = threading.Event()
        self.results: list[ItemResult] = []
        runs = [self._capture.run, *itertools.repeat(self.loop.run, self.slots.count)]
        self._threads = [threading.Thread(target=run, args=(self._stop,)) for run in runs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S_MAX)

    def __call__(self, frames: int) -> None:
        self.results.clear()
        self._told.clear()
        self._left_count = frames
        self.source.allow(frames)
        assert self._told.wait(WAIT_S_MAX), "the pipeline stands still"

    def _count(self, result: ItemResult) -> None:
        """One lane at a time; this wakes nobody but for the last one of a block."""
        self.results.append(result)
        self._left_count -= 1
        if not self._left_count:
            self._told.set()
