"""An agent with bad pipelines and a good one: each says what to do; the hub hears of it."""

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.benchmarks.bench_agent_rss import watch
from tests.support.mjpeg_server import MjpegServer
from tests.support.real_fleet import RealHub
from tests.support.requirements import require_data
from tests.support.video_agent import PIPELINE, VideoAgent, add_detector
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]

PIPELINE_TOML = """
[[pipelines]]
name = "{name}"
model = "fastestdet"
[pipelines.source]
{source}
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    with RealHub(tmp_path) as started:
        yield started


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    """One whose picture stands still."""
    started = MjpegServer()
    started.is_still = True
    started.start()
    yield started
    started.kill()


def bad_pipelines(folder: Path, camera: MjpegServer) -> str:
    (folder / "torn.mp4").write_text("no video\n" * 100)
    (folder / "rows.csv").write_text("x\n" + "1\n" * 50)
    window = "[pipelines.source.window]\nsamples = 4"
    sources = {
        "missing": 'kind = "video"\npath = "/nowhere/gone.mp4"',
        "torn": f'kind = "video"\npath = "{folder}/torn.mp4"',
        "camera": 'kind = "camera"\ndevice = 99',
        "stream": 'kind = "stream"\nurl = "rtsp://user:secret@127.0.0.1:1/a"',
        "still": f'kind = "stream"\nurl = "{camera.url}"\n[pipelines.frames]\nfrozen_s = 1.0',
        "sensor": f'kind = "mqtt"\ntopic = "a"\nport = 1\n{window}',
        "rows": f'kind = "csv"\npath = "{folder}/rows.csv"\ncolumns = ["x"]\nloop = true\n{window}',
    }
    return "".join(PIPELINE_TOML.format(name=n, source=s) for n, s in sources.items())


@pytest.mark.timeout(300)
def test_bad_pipelines_say_what_to_do_and_the_good_one_goes_on(
    tmp_path: Path, hub: RealHub, camera: MjpegServer
) -> None:
    video = require_data("data/video/car-detection.mp4")
    bad = bad_pipelines(tmp_path, camera)
    agent = VideoAgent(tmp_path, hub, video, pace="realtime", more_toml=bad)
    agent.start()
    try:
        version = int(add_detector(hub, require_data("models/FastestDet.onnx"))["version"])
        agent.bring(version)
        watch(agent, 40)
        wait_until(lambda: agent.status()["rows"]["state"] == "failing", seconds_max=20.0)
        wait_until(lambda: agent.status()["still"]["state"] == "frozen", seconds_max=20.0)
        status = agent.status()
        camera.size, camera.is_still = (320, 180), False
        wait_until(lambda: agent.status()["still"]["state"] == "running", seconds_max=20.0)
        # A second release is taken back: too slow for an impossible limit.
        again = int(add_detector(hub, _renamed(tmp_path))["version"])
        agent.bring(again, until="undone", latency_ratio_max=0.1, latency_ms_floor=0.0)
        wait_until(
            lambda: {"model.undone", "source.moving_again", "source.resized"} <= _codes(agent),
            seconds_max=20.0,
        )
        events = agent.events()
        agent.end()
    finally:
        if agent.is_running:
            agent.kill()

    assert status[PIPELINE]["state"] == "running"
    states = {name: pipeline["state"] for name, pipeline in status.items() if name != PIPELINE}
    assert states == {
        "missing": "failed",
        "torn": "failed",
        "camera": "reconnecting",
        "stream": "reconnecting",
        "sensor": "reconnecting",
        "still": "frozen",
        "rows": "failing",
    }
    assert "There is no video /nowhere/gone.mp4. Check the path." in status["missing"]["detail"]
    assert "Check that it is a video" in status["torn"]["detail"]
    assert "There is no /dev/video99." in status["camera"]["detail"]
    assert "does the camera hang?" in status["still"]["detail"]
    assert "secret" not in status["stream"]["detail"]
    assert "Check that the broker runs there." in status["sensor"]["detail"]
    assert "Give the pipeline a source of the model's kind." in status["rows"]["detail"]

    told = {(event["code"], name) for event in events for name in states if name in event["text"]}
    assert {
        ("source.failed", "missing"),
        ("source.failed", "torn"),
        ("source.lost", "camera"),
        ("source.lost", "stream"),
        ("source.lost", "sensor"),
        ("source.frozen", "still"),
        ("source.moving_again", "still"),
        ("source.resized", "still"),
        ("inference.failing", "rows"),
    } <= told
    (undone,) = [event for event in events if event["code"] == "model.undone"]
    assert f"Release {again} of fastestdet" in undone["text"]
    assert "trial.slow" in undone["text"]
    assert not [event for event in events if PIPELINE in event["text"]]


def _codes(agent: VideoAgent) -> set[str]:
    return {event["code"] for event in agent.events()}


def _renamed(folder: Path) -> Path:
    """Return the same model with other bytes: another release."""
    path = folder / "again.onnx"
    model = onnx.load(require_data("models/FastestDet.onnx"))
    model.producer_version = "again"
    onnx.save(model, path)
    return path
