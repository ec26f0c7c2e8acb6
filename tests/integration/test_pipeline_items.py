"""Source, mailbox, loop and real sessions together: every picture is decided, across swaps."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_agent.decisions.decision import Decision, ItemResult
from edge_agent.inference.active_model import ActiveModel, LoadedRelease
from edge_agent.inference.loop import InferenceLoop, Sink
from edge_agent.inference.onnx_session import load_onnx_session
from edge_agent.sources.capture import CaptureLoop, CaptureState
from edge_agent.sources.mailbox import mailbox_for
from edge_agent.sources.opening import open_source
from shared.clock import SystemClock
from shared.model.spec import ModelSpec
from shared.pipeline.sources import CsvSettings, FolderSettings, SourceSettings, WindowSettings
from shared.wire.records import Classified, Scored
from tests.support.onnx_models import (
    SIDE,
    colour_spec,
    echo_spec,
    write_colour_model,
    write_zero_model,
)
from tests.support.pictures import write_coloured_pictures
from tests.support.waiting import wait_until


class Pipeline:
    """The threads of one pipeline, as the agent puts them together."""

    def __init__(
        self, settings: SourceSettings, active: ActiveModel, sinks: Sequence[Sink] = ()
    ) -> None:
        clock, source = SystemClock(), open_source(settings, SystemClock())
        mailbox = mailbox_for(source, SystemClock())
        self.results: list[ItemResult] = []
        self.capture = CaptureLoop(source, mailbox, clock)
        self.loop = InferenceLoop(
            "p", mailbox, active, sinks=[self.results.append, *sinks], clock=clock
        )
        self.stop = threading.Event()
        self._threads = [
            threading.Thread(target=part.run, args=(self.stop,))
            for part in (self.capture, self.loop)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(30.0)
            assert not thread.is_alive()


def loaded(version: int, path: Path, spec: ModelSpec) -> LoadedRelease:
    return LoadedRelease(
        model=spec.model,
        version=version,
        manifest_digest=f"{version:064x}",
        precision="fp32",
        session=load_onnx_session(path, spec),
    )


@pytest.mark.slow
def test_every_picture_is_decided_once_while_models_are_swapped(tmp_path: Path) -> None:
    labels = write_coloured_pictures(tmp_path / "p", count=240, side=SIDE * 2)
    active = ActiveModel("colours")
    releases = [
        loaded(version, write_colour_model(tmp_path / f"{version}.onnx", gain=gain), colour_spec())
        for version, gain in ((1, 8.0), (2, 16.0))
    ]
    done = threading.Event()

    def swap_every_20_items() -> None:
        for swap in range(12):
            wait_until(lambda swap=swap: len(pipeline.results) >= 20 * swap)  # type: ignore[misc]
            active.swap(releases[swap % 2], companion=releases[1 - swap % 2])
        done.set()

    def wait_for_the_swap(_result: ItemResult) -> None:
        # The loop may run at most 30 items ahead of the swaps, or it would be over before them.
        ahead = len(pipeline.results) - 20 * (active.line.swaps_count - 1)
        if ahead >= 30 and not done.is_set():
            due = active.line.swaps_count + 1
            wait_until(lambda: active.line.swaps_count >= due or done.is_set())

    pipeline = Pipeline(
        FolderSettings(path=str(tmp_path / "p"), fps=0.0), active, sinks=[wait_for_the_swap]
    )
    pipeline.start()
    assert pipeline.loop.is_waiting_for_model
    swap_every_20_items()
    pipeline.finish()
    assert pipeline.capture.status.state is CaptureState.ENDED
    assert [result.item for result in pipeline.results] == list(range(240))
    decided = [result.outcome for result in pipeline.results if isinstance(result, Decision)]
    assert [outcome.label for outcome in decided if isinstance(outcome, Classified)] == labels
    assert {result.version for result in pipeline.results} == {1, 2}
    comparisons = active.take_comparisons()
    assert comparisons
    assert all(comparison.agrees for comparison in comparisons)


def test_a_sensor_file_is_judged_window_by_window(tmp_path: Path) -> None:
    rows = [0.1] * 8 + [2.0] * 8
    (tmp_path / "a.csv").write_text("x\n" + "".join(f"{value}\n" for value in rows))
    active = ActiveModel("echo")
    spec = echo_spec(8, threshold=0.5)
    active.swap(loaded(1, write_zero_model(tmp_path / "m.onnx", samples=8), spec))
    window = WindowSettings(samples=8, step=8)
    pipeline = Pipeline(
        CsvSettings(path=str(tmp_path / "a.csv"), columns=("x",), window=window), active
    )
    pipeline.start()
    pipeline.finish()
    outcomes = [result.outcome for result in pipeline.results if isinstance(result, Decision)]
    assert outcomes == [
        Scored(pytest.approx(0.01, rel=1e-4), 0.5, False),
        Scored(pytest.approx(4.0), 0.5, True),
    ]
