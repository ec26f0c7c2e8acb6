"""A device that decides while its updater works: real workers, real pipelines, a peer for the hub.

What the agent puts together, without identity, link and hub: releases come from a folder, and one
pipeline replays a recording into a file of JSON lines.
"""

import dataclasses
import threading
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import psutil

from edge_agent.config import TelemetrySettings
from edge_agent.decisions.decision import Decision
from edge_agent.inference.session_loader import session_loader
from edge_agent.inference.settings import InferenceSettings, Isolation
from edge_agent.pipeline_book import PipelineBook
from edge_agent.pipelines import Pipelines
from edge_agent.telemetry.numbers import PipelineNumbers
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from edge_agent.updates.fit_building import build_fitter
from edge_agent.updates.updater import UpdateSettings
from edge_agent.uplink.procfs_machine import read_hardware
from shared.clock import SystemClock
from shared.pipeline.pipeline import PipelineLimits, PipelineSettings
from shared.pipeline.sinks import FileSinkSettings
from shared.pipeline.sources import CsvSettings, WindowSettings
from shared.wire.report import ModelReport
from shared.wire.target import TargetRelease
from shared.worker import Worker
from tests.support.tiny_items import SAMPLES, templates
from tests.support.updater_bench import Bench
from tests.support.waiting import wait_until

CLOCK = SystemClock()
ROWS = 3000
TICK_S = 0.5
UPDATE_S_MAX = 60.0
MODEL, PIPELINE, RUNTIME = "tones", "bench", "onnxruntime"


def write_tones(path: Path) -> Path:
    """Write a recording of the three patterns with a little noise."""
    noise = np.random.default_rng(1).normal(0.0, 0.05, ROWS // (3 * SAMPLES) * 3 * SAMPLES)
    values = np.resize(templates().reshape(-1), len(noise)) + noise
    path.write_text("value\n" + "\n".join(f"{value:.5f}" for value in values) + "\n")
    return path


class BusyDevice:
    """See above. Releases are what tests/support/tiny_releases.py published into `store`."""

    def __init__(
        self, folder: Path, store: Path, *, windows_per_s: float = 0.0, run_s_max: float = 5.0
    ) -> None:
        """Put it together. Args: windows_per_s: 0: as fast as it can."""
        self.lines_path = folder / "decisions.jsonl"
        inference = InferenceSettings(isolation=Isolation.PROCESS, run_s_max=run_s_max)
        limits = PipelineLimits()
        measured = build_fitter(inference, lambda _model: limits, read_hardware(), CLOCK)
        # One runtime, also where others are installed: what they weigh is not what is asked here.
        fitter = dataclasses.replace(measured, backends={RUNTIME: measured.backends[RUNTIME]})
        self.bench = Bench(
            folder / "state",
            store,
            clock=CLOCK,
            settings=UpdateSettings(poll_s=0.01),
            fitter=fitter,
            load_session=session_loader(inference, CLOCK),
        )
        self._outbox = SqlOutbox(folder / "outbox.db", OutboxSettings(), CLOCK)
        self.pipelines = Pipelines(
            self.bench.actives, outbox=self._outbox, telemetry=TelemetrySettings(), clock=CLOCK
        )
        source = CsvSettings(
            path=str(write_tones(folder / "tones.csv")),
            columns=("value",),
            rate_hz=windows_per_s * SAMPLES,
            loop=True,
            window=WindowSettings(samples=SAMPLES, step=SAMPLES),
        )
        sink = FileSinkSettings(path=str(self.lines_path), bytes_max=1 << 32)
        own = PipelineSettings(name=PIPELINE, model=MODEL, source=source, sinks=(sink,))
        self._book = PipelineBook(
            pipelines=(own,), ordered=frozenset(), wanted=frozenset({PIPELINE})
        )
        self._revision = 0
        self._workers = [
            Worker("outbox", self._outbox.run, clock=CLOCK),
            Worker("updater", self.bench.updater.run, clock=CLOCK),
            Worker("ticks", self._tick, clock=CLOCK),
        ]

    def __enter__(self) -> "BusyDevice":
        self.bench.start()
        self.pipelines.follow(self._book)
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in reversed(self._workers):
            assert worker.stop()
        self.pipelines.stop()
        self._outbox.close()
        line = self.bench.active.line
        self.bench.active.withdraw()
        for release in (line.serving, line.companion):
            if release is not None:
                release.session.close()  # type: ignore[attr-defined]

    def _tick(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.pipelines.tick()
            CLOCK.wait(stop, TICK_S)

    def ask_for(self, release: TargetRelease) -> None:
        """Let a Target arrive that names `release`."""
        self._revision += 1
        self.bench.target(release, revision=self._revision)

    def bring(self, release: TargetRelease) -> None:
        """Return when `release` has settled."""
        self.ask_for(release)

        def has_settled() -> bool:
            model = self.bench.model
            assert model.failure is None, model.failure
            return (model.version, model.state) == (release.version, "idle")

        wait_until(has_settled, seconds_max=UPDATE_S_MAX)

    def refused(self, version: int) -> ModelReport:
        """Return the report that says that release `version` was refused, when it does."""

        def found() -> ModelReport | None:
            model = self.bench.model
            is_it = model.failure is not None and model.failure.version == version
            return model if is_it and model.state == "refused" else None

        model = wait_until(found, seconds_max=UPDATE_S_MAX)
        assert model is not None
        return model

    @property
    def numbers(self) -> PipelineNumbers:
        """Return what the pipeline says of itself."""
        (numbers,) = self.pipelines.numbers()
        return numbers

    def decide(self, count: int) -> None:
        """Return when so many more items are decided."""
        goal = self.numbers.items_decided + count
        wait_until(lambda: self.numbers.items_decided >= goal, seconds_max=UPDATE_S_MAX)

    def decisions(self) -> list[Decision]:
        """Return every decision in the file, in its order."""
        decoder = msgspec.json.Decoder(Decision)
        with self.lines_path.open("rb") as file:
            return [decoder.decode(line) for line in file]


def worker_pids() -> set[int]:
    """Return the processes of this one that run models."""
    found = set()
    for child in psutil.Process().children():
        try:
            words = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if any(word.endswith("_worker") for word in words):
            found.add(child.pid)
    return found
