"""run_try on small models: what a stranger gets, and what he is told when something is wrong."""

import json
import threading
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from edge_agent.__main__ import main
from edge_agent.command_line.try_live import TryLive
from edge_agent.command_line.try_model import guess_source, run_try
from edge_agent.command_line.try_summary import TrySummary, summary_as_json, summary_as_text
from shared.clock import SystemClock
from shared.errors import ContractError, RefusedError
from shared.exit_codes import NOT_REACHED
from shared.model.spec import Decoder, ModelSpec, OutputSpec, Task, TextInput
from shared.pipeline.sources import (
    CameraSettings,
    CsvSettings,
    FolderSettings,
    LinesSettings,
    ModbusSettings,
    MqttSettings,
    MqttTextSettings,
    Pace,
    StreamSettings,
    VideoSettings,
)
from tests.support.onnx_models import (
    SIDE,
    colour_spec,
    echo_spec,
    write_colour_model,
    write_zero_model,
)
from tests.support.pictures import write_coloured_pictures, write_video
from tests.support.waiting import wait_until


def fetch(url: str, *, token: str) -> tuple[int, bytes]:
    address = urlsplit(url)
    assert address.hostname is not None
    connection = HTTPConnection(address.hostname, address.port, timeout=10.0)
    try:
        connection.request("GET", address.path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def write_spec(path: Path, spec: ModelSpec) -> Path:
    path.write_bytes(msgspec.toml.encode(spec))
    return path


def test_pictures_are_classified_and_the_best_is_drawn(tmp_path: Path) -> None:
    write_coloured_pictures(tmp_path / "p", count=9, side=SIDE)
    model = write_colour_model(tmp_path / "m.onnx")
    spec = write_spec(tmp_path / "s.toml", colour_spec())
    picture = tmp_path / "best.png"
    summary = run_try(model, spec, str(tmp_path / "p"), snapshot=picture)
    assert summary.labels == {"blue": 3, "green": 3, "red": 3}
    assert summary.items == 9
    assert summary.fps > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(summary_as_json(summary))["snapshot"] == str(picture)
    assert "found: blue 3, green 3, red 3" in summary_as_text(summary)


def test_items_max_ends_it(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.avi", [10] * 20)
    spec = write_spec(tmp_path / "s.toml", colour_spec())
    assert (
        run_try(write_colour_model(tmp_path / "m.onnx"), spec, str(video), items_max=5).items == 5
    )


def test_a_watched_try_serves_its_frames_and_goes_on_until_it_is_stopped(tmp_path: Path) -> None:
    write_coloured_pictures(tmp_path / "p", count=3, side=SIDE)
    model = write_colour_model(tmp_path / "m.onnx")
    spec = write_spec(tmp_path / "s.toml", colour_spec())
    stop = threading.Event()
    summaries: list[TrySummary] = []
    with TryLive(0, clock=SystemClock()) as live:
        address, _, token = live.address.partition("/?token=")

        def watch() -> None:
            summaries.append(
                run_try(model, spec, str(tmp_path / "p"), items_max=0, live=live, stop=stop)
            )

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            assert fetch(f"{address}/snapshot/try.jpg", token="wrong")[0] == 401
            wait_until(lambda: fetch(f"{address}/snapshot/try.jpg", token=token)[0] == 200)
            told = json.loads(fetch(f"{address}/api/pipelines", token=token)[1])["pipelines"][0]
        finally:
            stop.set()
            thread.join(10.0)
    assert told["latest"]["outcome"]["label"] in {"blue", "green", "red"}
    assert summaries[0].items > 0


def test_the_mean_confidence_is_of_what_was_found(tmp_path: Path) -> None:
    write_coloured_pictures(tmp_path / "p", count=3, side=SIDE)
    spec = write_spec(tmp_path / "s.toml", colour_spec())
    summary = run_try(write_colour_model(tmp_path / "m.onnx"), spec, str(tmp_path / "p"))
    assert "mean confidence" in summary_as_text(summary)
    nothing = replace(summary, labels={}, confidence_mean=0.0)
    assert "found: nothing" in summary_as_text(nothing)
    assert "mean confidence" not in summary_as_text(nothing)


def test_what_is_watched_plays_at_its_own_pace_over_and_over(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    video = guess_source(str(tmp_path / "a.mp4"), colour_spec(), is_watched=True)
    assert video == VideoSettings(path=str(tmp_path / "a.mp4"), pace=Pace.REALTIME, loop=True)
    folder = guess_source(str(tmp_path), colour_spec(), is_watched=True)
    assert folder == FolderSettings(path=str(tmp_path), loop=True)


def test_a_sensor_file_is_scored(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,name,x\n" + "t,pump,2\n" * 16)
    model = write_zero_model(tmp_path / "m.onnx", samples=8)
    summary = run_try(model, write_spec(tmp_path / "s.toml", echo_spec(8)), str(tmp_path / "a.csv"))
    assert summary.labels == {"anomalous": 2}
    assert summary.snapshot == ""


def test_a_column_of_numbers_that_are_times_is_not_taken_for_readings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Time,x,y\n" + "7,1,2\n" * 8)
    model = write_zero_model(tmp_path / "m.onnx", samples=8)
    spec = write_spec(tmp_path / "s.toml", echo_spec(8))
    assert run_try(model, spec, str(tmp_path / "a.csv")).source.endswith("a.csv (x)")
    (tmp_path / "a.csv").write_text("time\n" + "7\n" * 8)
    assert run_try(model, spec, str(tmp_path / "a.csv")).source.endswith("a.csv (time)")


def test_failed_items_are_counted_and_the_first_is_told(tmp_path: Path) -> None:
    write_coloured_pictures(tmp_path / "p", count=3, side=SIDE)
    model = write_zero_model(tmp_path / "m.onnx", samples=8)
    spec = write_spec(tmp_path / "s.toml", echo_spec(8))
    summary = run_try(model, spec, str(tmp_path / "p"))
    assert summary.items_failed == 3
    assert "takes windows of samples" in summary.first_failure
    assert "failed: 3 items" in summary_as_text(summary)
    named = [str(model), "--spec", str(spec), "--source", str(tmp_path / "p")]
    assert main(["try", *named]) == NOT_REACHED  # Nothing came of any item


@pytest.mark.parametrize(("text", "kind"), [
    ("rtsp://host/a", StreamSettings), ("http://host/a", StreamSettings), ("0", CameraSettings),
    ("/dev/video2", CameraSettings), ("mqtt://host:1884/a/b", MqttSettings),
    ("p", FolderSettings), ("v.avi", VideoSettings), ("a.csv", CsvSettings),
])  # fmt: skip
def test_a_source_is_told_from_how_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "v.avi").write_bytes(b"")
    (tmp_path / "a.csv").write_text("name,x,y\npump,1,2\n")
    settings = guess_source(text, echo_spec(8, channels=2))
    assert isinstance(settings, kind)
    if isinstance(settings, CsvSettings):
        assert settings.columns == ("x", "y")
    if isinstance(settings, MqttSettings):
        assert (settings.host, settings.port, settings.topic) == ("host", 1884, "a/b")
        assert (settings.channels, settings.window.samples) == (2, 8)


def text_spec() -> ModelSpec:
    return ModelSpec(
        model="moods",
        task=Task.CLASSIFICATION,
        input=TextInput(length=16),
        output=OutputSpec(decoder=Decoder.LOGITS, classes=("good", "bad")),
    )


def test_a_source_of_registers_and_sources_of_texts_are_guessed(tmp_path: Path) -> None:
    registers = guess_source("modbus://10.0.0.9:1502/40", echo_spec(8, channels=2))
    assert isinstance(registers, ModbusSettings)
    assert (registers.host, registers.port) == ("10.0.0.9", 1502)
    assert [channel.address for channel in registers.channels] == [40, 41]
    (tmp_path / "a.txt").write_text("hello")
    lines = guess_source(str(tmp_path / "a.txt"), text_spec())
    assert lines == LinesSettings(path=str(tmp_path / "a.txt"))
    messages = guess_source("mqtt://10.0.0.9/alarms/hall", text_spec())
    assert messages == MqttTextSettings(host="10.0.0.9", topic="alarms/hall")
    for text in ("nowhere.txt", "rtsp://10.0.0.9/a", str(tmp_path)):
        with pytest.raises(ContractError, match="text file") as caught:
            guess_source(text, text_spec())
        assert caught.value.code == "source.guess"


@pytest.mark.parametrize(
    "text",
    ["modbus://plc", "modbus://plc/x", "modbus://plc:0/1", "modbus://plc:99999/1",
     "modbus://plc/65535", "mqtt://host:99999/a"],
)  # fmt: skip
def test_an_address_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        guess_source(text, echo_spec(8, channels=2))
    assert caught.value.code == "source.guess"


@pytest.mark.parametrize(("text", "code"), [
    ("nowhere.mp4", "source.missing"), ("mqtt://host", "source.guess"), ("a.csv", "source.guess"),
])  # fmt: skip
def test_what_cannot_be_told_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("name\npump\n")
    with pytest.raises(ContractError) as caught:
        guess_source(text, echo_spec(8))
    assert caught.value.code == code
    assert caught.value.remedy


def test_a_missing_spec_and_a_folder_that_is_not_there_are_told(tmp_path: Path) -> None:
    write_coloured_pictures(tmp_path / "p", count=1, side=SIDE)
    model = write_colour_model(tmp_path / "m.onnx")
    with pytest.raises(ContractError, match=r"s\.toml"):
        run_try(model, tmp_path / "s.toml", str(tmp_path / "p"))
    spec = write_spec(tmp_path / "s.toml", colour_spec())
    with pytest.raises(RefusedError) as caught:
        run_try(model, spec, str(tmp_path / "p"), snapshot=tmp_path / "no" / "a.png")
    assert caught.value.code == "snapshot.unwritable"
