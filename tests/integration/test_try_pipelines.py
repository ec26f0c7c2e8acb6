"""`edge-agent try --config`: the pipelines of an agent's file as they would run, without a hub."""

import json
import threading
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from edge_agent.__main__ import main
from edge_agent.command_line.try_live import TryLive
from edge_agent.command_line.try_pipelines import (
    PipelinesSummary,
    pipelines_as_text,
    try_pipelines,
)
from edge_agent.config import AgentConfig
from edge_agent.inference.settings import InferenceSettings, Isolation
from shared.clock import SystemClock
from shared.errors import RefusedError
from shared.exit_codes import NOT_REACHED
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import FileSinkSettings, HubSinkSettings, MqttSinkSettings, Which
from shared.pipeline.sources import Delivery, Pace, SourceSettings, VideoSettings
from tests.benchmarks.bench_counts import CARS_BY_HAND, SETTINGS, SPEC
from tests.support.http_streams import free_port
from tests.support.local_broker import Listener, LocalBroker
from tests.support.onnx_models import colour_spec, write_colour_model
from tests.support.pictures import write_video
from tests.support.requirements import require_data
from tests.support.waiting import wait_until

NEVER = threading.Event()
IN_PROCESS = InferenceSettings(isolation=Isolation.IN_PROCESS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_colour_model(tmp_path / "m.onnx")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_bytes(msgspec.toml.encode(colour_spec()))
    return path


def pipeline(
    source: SourceSettings, *, name: str = "door", sinks: tuple[FileSinkSettings, ...] = ()
) -> PipelineSettings:
    return PipelineSettings(
        name=name, model=colour_spec().model, source=source, sinks=(HubSinkSettings(), *sinks)
    )


def clip(path: Path, frames: int = 6, *, loop: bool = False) -> VideoSettings:
    video = write_video(path, [10] * frames)
    return VideoSettings(path=str(video), pace=Pace.AS_FAST, delivery=Delivery.EVERY, loop=loop)


def run(config: AgentConfig, model: Path, spec: Path, *, items_max: int = 0) -> PipelinesSummary:
    return try_pipelines(config, model, spec, items_max=items_max, clock=SystemClock(), stop=NEVER)


def write_config(folder: Path, video: Path) -> Path:
    """Return the file of an agent that looks at `video` with the model of colours."""
    path = folder / "agent.toml"
    path.write_text(
        '[inference]\nisolation = "in-process"\n\n'
        f'[[pipelines]]\nname = "door"\nmodel = "{colour_spec().model}"\n\n'
        f'[pipelines.source]\nkind = "video"\npath = "{video}"\n'
    )
    return path


def test_cars_are_counted_as_by_hand_however_fast_the_video_is_read(tmp_path: Path) -> None:
    """Through everything that `edge-agent run` has: a worker process, lanes, tracks, sinks."""
    video = require_data("data/video/car-detection.mp4")
    told = tmp_path / "told.jsonl"
    road = PipelineSettings(
        name="road",
        model="fastestdet",
        source=VideoSettings(path=str(video), pace=Pace.AS_FAST, delivery=Delivery.EVERY),
        decisions=SETTINGS,
        sinks=(FileSinkSettings(path=str(told)),),
    )
    summary = run(
        AgentConfig(pipelines=(road,), inference=InferenceSettings(isolation=Isolation.PROCESS)),
        require_data("models/FastestDet.onnx"),
        SPEC,
    )
    (tried,) = summary.pipelines
    assert tried.numbers.state == "ended"
    assert sum(tried.totals.values()) == CARS_BY_HAND
    lines = told.read_text().splitlines()
    assert len(lines) == tried.numbers.items_decided == tried.numbers.items_in > 300
    assert sum(json.loads(lines[-1])["outcome"]["totals"].values()) == CARS_BY_HAND
    assert summary.worker_rss_mb > 0
    text = pipelines_as_text(summary)
    assert "road: ended; " in text
    assert "counted: road/" in text
    assert "of the model's own process" in text


def test_pipelines_of_another_model_are_left_out(tmp_path: Path, model: Path, spec: Path) -> None:
    other = msgspec.structs.replace(
        pipeline(clip(tmp_path / "b.avi"), name="other"), model="another"
    )
    config = AgentConfig(
        pipelines=(other, pipeline(clip(tmp_path / "a.avi"))), inference=IN_PROCESS
    )
    told: list[str] = []
    (tried,) = try_pipelines(
        config, model, spec, items_max=0, clock=SystemClock(), stop=NEVER, tell=told.append
    ).pipelines
    assert told[0] == "Pipeline other is not tried: its model is another."
    assert tried.numbers.pipeline == "door"
    assert tried.numbers.items_decided == 6
    assert sum(tried.labels.values()) == 6
    with pytest.raises(RefusedError, match="names the model colours; they name: another") as error:
        run(AgentConfig(pipelines=(other,)), model, spec)
    assert error.value.code == "try.no_pipeline"


def test_a_looped_video_ends_with_the_items_that_were_asked_for(
    tmp_path: Path, model: Path, spec: Path
) -> None:
    config = AgentConfig(
        pipelines=(pipeline(clip(tmp_path / "a.avi", loop=True)),), inference=IN_PROCESS
    )
    (tried,) = run(config, model, spec, items_max=20).pipelines
    assert tried.numbers.items_decided >= 20
    assert tried.numbers.state == "running"


def test_nothing_of_a_try_stays_at_a_broker(tmp_path: Path, model: Path, spec: Path) -> None:
    broker = LocalBroker(tmp_path, free_port())
    broker.start()
    sink = MqttSinkSettings(port=broker.port, discovery_prefix="homeassistant", which=Which.ALL)
    door = msgspec.structs.replace(
        pipeline(clip(tmp_path / "a.avi", loop=True)), sinks=(HubSinkSettings(), sink)
    )
    config, stop = AgentConfig(pipelines=(door,), inference=IN_PROCESS), threading.Event()

    def tries() -> None:
        try_pipelines(config, model, spec, items_max=0, clock=SystemClock(), stop=stop)

    thread, listener = threading.Thread(target=tries), Listener(broker.port)

    def found() -> list[str]:
        """Return what Home Assistant was told of things that there are."""
        return [p for topic, p in listener.last.items() if topic.startswith("homeassistant/")]

    try:
        thread.start()
        wait_until(found)
        stop.set()
        thread.join(20)
        wait_until(lambda: not any(found()))
    finally:
        stop.set()
        thread.join(20)
        listener.close()
        broker.kill()


def test_a_source_that_fails_is_said_and_is_no_success(
    tmp_path: Path, model: Path, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tmp_path / "gone.avi")
    arguments = ["try", str(model), "--spec", str(spec), "--config", str(config)]
    assert main(arguments) == NOT_REACHED
    said = capsys.readouterr()
    assert "door: failed" in said.out
    assert "There is no video" in said.out
    assert "Pipeline door has stopped" in said.err
    assert main([*arguments, "--json"]) == NOT_REACHED
    (tried,) = json.loads(capsys.readouterr().out)["pipelines"]
    assert tried["numbers"]["state"] == "failed"


def test_a_snapshot_is_of_a_source(
    tmp_path: Path, model: Path, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, write_video(tmp_path / "a.avi", [10]))
    arguments = ["try", str(model), "--spec", str(spec), "--config", str(config)]
    assert main([*arguments, "--snapshot", str(tmp_path / "x.png")]) != 0
    assert 'kind = "snapshots"' in capsys.readouterr().err


def test_it_can_be_watched_under_its_pipelines_names(
    tmp_path: Path, model: Path, spec: Path
) -> None:
    config = AgentConfig(
        pipelines=(pipeline(clip(tmp_path / "a.avi", loop=True)),), inference=IN_PROCESS
    )
    stop = threading.Event()
    with TryLive(0, clock=SystemClock()) as live:
        address, _, token = live.address.partition("/?token=")
        thread = threading.Thread(
            target=try_pipelines,
            args=(config, model, spec),
            kwargs={"items_max": 0, "clock": SystemClock(), "stop": stop, "live": live},
        )
        thread.start()
        try:
            wait_until(lambda: picture(address, token) == 200)
        finally:
            stop.set()
            thread.join(10.0)


def picture(address: str, token: str) -> int:
    split = urlsplit(address)
    assert split.hostname is not None
    connection = HTTPConnection(split.hostname, split.port, timeout=10.0)
    try:
        path = "/snapshot/door.jpg"
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()
