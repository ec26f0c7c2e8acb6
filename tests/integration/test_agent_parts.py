"""The agent's composition: its order of start and stop, its pipelines, its status file."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cloud_hub.sql_database import Database
from edge_agent.agent import Agent
from edge_agent.command_line.doctor import examine
from edge_agent.config import AgentConfig, RemoteSettings, TelemetrySettings
from edge_agent.file_status import LOCK_NAME, STALE_S, STATUS_NAME, WRITE_S, StatusFile
from edge_agent.inference.active_model import ActiveModel
from edge_agent.pipeline_book import PipelineBook, open_book
from edge_agent.pipelines import Pipelines
from edge_agent.telemetry.sql_outbox import OutboxSettings, SqlOutbox
from edge_agent.uplink.file_identity import FileIdentity
from edge_agent.uplink.joining import join
from shared.clock import SystemClock
from shared.errors import IsthmusError, UnavailableError
from shared.file_lock import FileLock, is_locked
from shared.findings import Finding, Level
from shared.ids import DeviceId
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import FileSinkSettings
from shared.pipeline.sources import CsvSettings, WindowSettings
from shared.wire.records import TelemetryRecord
from shared.wire.report import Report
from shared.wire.target import Target
from tests.support.joining_hub import JoiningHub, run_joining_hub
from tests.support.manual_clock import ManualClock
from tests.support.tiny_items import SAMPLES
from tests.support.tiny_releases import Kind, publish
from tests.support.updater_bench import Bench
from tests.support.waiting import wait_until

REPORT = Report(target_revision=0, at_ms=0, models=(), pipelines=())
DEVICE = DeviceId("dev-x")


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "values.csv"
    path.write_text("value\n" + "\n".join(str(n % 7) for n in range(40 * SAMPLES)) + "\n")
    return path


def pipeline(name: str, csv: Path, **changes: object) -> PipelineSettings:
    source = CsvSettings(
        path=str(csv),
        columns=("value",),
        rate_hz=0.0,
        loop=bool(changes.pop("loop", True)),
        window=WindowSettings(samples=SAMPLES, step=SAMPLES),
    )
    return PipelineSettings(name=name, model="tones", source=source, **changes)  # type: ignore[arg-type]


# The status file


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SqlOutbox]:
    made = SqlOutbox(tmp_path / "outbox.db", OutboxSettings(), ManualClock())
    yield made
    made.close()


def write(status: StatusFile, outbox: SqlOutbox, *, now_s: float, connected: bool = True) -> None:
    status.write(
        report=REPORT,
        device=DEVICE,
        hub_url="https://hub",
        is_connected=connected,
        outbox=outbox,
        crashes={},
        now_s=now_s,
    )


@contextmanager
def running(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK_NAME, code="agent.running", holder="A test")
    yield
    lock.release()


def test_the_status_is_that_of_the_agent_that_runs(tmp_path: Path, outbox: SqlOutbox) -> None:
    status = StatusFile(tmp_path)
    assert status.read(now_s=100.0) is None
    with running(tmp_path):
        assert status.read(now_s=100.0) is None
        write(status, outbox, now_s=100.0)
        found = StatusFile(tmp_path).read(now_s=100.0)
        assert found is not None
        assert (found.device, found.pid, found.is_connected) == (DEVICE, os.getpid(), True)
        assert found.report == REPORT
    assert StatusFile(tmp_path).read(now_s=100.0) is None, "nobody holds the lock any more"


def test_the_status_is_written_once_a_second_whatever_the_clock_does(
    tmp_path: Path, outbox: SqlOutbox
) -> None:
    status = StatusFile(tmp_path)
    with running(tmp_path):
        write(status, outbox, now_s=100.0)
        write(status, outbox, now_s=100.0 + WRITE_S / 2, connected=False)
        found = status.read(now_s=100.0)
        assert found is not None
        assert found.is_connected
        write(status, outbox, now_s=50.0, connected=False)  # The clock was set back.
        found = status.read(now_s=50.0)
        assert found is not None
        assert not found.is_connected
        assert found.started_s == 100.0


def test_an_agent_that_hangs_has_no_status(tmp_path: Path, outbox: SqlOutbox) -> None:
    status = StatusFile(tmp_path)
    with running(tmp_path):
        write(status, outbox, now_s=100.0)
        assert status.read(now_s=100.0 + STALE_S) is not None
        assert status.read(now_s=101.0 + STALE_S) is None


@pytest.mark.parametrize("data", [b"", b"junk", b"{}", b"[1]", b"x" * (2 << 20), b'{"device":1}'])
def test_a_file_that_is_no_status_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / STATUS_NAME).write_bytes(data)
    with running(tmp_path):
        assert StatusFile(tmp_path).read(now_s=0.0) is None


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path: Path, outbox: SqlOutbox) -> None:
    status = StatusFile(tmp_path / "none")
    write(status, outbox, now_s=100.0)
    status.remove()


# Pipelines


@pytest.fixture
def active(tmp_path: Path) -> ActiveModel:
    """A model that serves."""
    (tmp_path / "device").mkdir()
    bench = Bench(tmp_path / "device", tmp_path / "store")
    bench.start()
    bench.target(publish(tmp_path / "store", version=1, kind=Kind.GOOD), revision=1)
    bench.settle()
    return bench.active


def make_pipelines(
    outbox: SqlOutbox, active: ActiveModel, *, models: dict[str, ActiveModel] | None = None
) -> Pipelines:
    return Pipelines(
        {"tones": active} if models is None else models,
        outbox=outbox,
        telemetry=TelemetrySettings(window_s=3600.0),
        clock=SystemClock(),
    )


def book(*found: PipelineSettings, names: tuple[str, ...] | None = None) -> PipelineBook:
    return open_book(found, RemoteSettings(), Target(revision=1, issued_ms=1, pipelines=names))


def states(pipelines: Pipelines) -> dict[str, str]:
    return {report.pipeline: report.state for report in pipelines.reports()}


@pytest.mark.slow
def test_the_target_says_which_pipelines_run(
    outbox: SqlOutbox, active: ActiveModel, csv: Path
) -> None:
    pipelines = make_pipelines(outbox, active)
    both = pipeline("one", csv), pipeline("two", csv)
    try:
        pipelines.follow(book(*both))
        wait_until(lambda: states(pipelines) == {"one": "running", "two": "running"})
        pipelines.follow(book(*both, names=("two", "elsewhere")))
        assert states(pipelines) == {"one": "stopped", "two": "running"}
        pipelines.follow(book(*both, names=()))
        assert states(pipelines) == {"one": "stopped", "two": "stopped"}
        pipelines.follow(book(*both, names=("one",)))
        wait_until(lambda: states(pipelines)["one"] == "running")
    finally:
        pipelines.stop()
    assert states(pipelines) == {"one": "stopped", "two": "stopped"}
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("capture", "infer"))]


@pytest.mark.slow
def test_a_changed_pipeline_goes_on_between_two_items_and_loses_none(
    tmp_path: Path, outbox: SqlOutbox, active: ActiveModel, csv: Path
) -> None:
    """Other decisions, other sinks; its neighbour notices nothing."""
    first, second, other = (tmp_path / name for name in ("first.jsonl", "second.jsonl", "other"))
    neighbour = pipeline("two", csv, sinks=(FileSinkSettings(path=str(other)),))
    pipelines = make_pipelines(outbox, active)
    try:
        before = pipeline("one", csv, sinks=(FileSinkSettings(path=str(first)),))
        pipelines.follow(book(before, neighbour))
        wait_until(lambda: first.exists() and len(_items(first)) > 50)
        after = msgspec.structs.replace(
            before,
            decisions=DecisionSettings(hysteresis_margin=0.9),
            sinks=(FileSinkSettings(path=str(second)),),
        )
        pipelines.follow(book(after, neighbour))
        wait_until(lambda: second.exists() and len(_items(second)) > 50)
        counts = {one.pipeline: one for one in pipelines.numbers()}
        assert counts["one"].items_decided > 100, "it is the same pipeline, not a new one"
    finally:
        pipelines.stop()
    items = _items(first) + _items(second)
    assert items == list(range(len(items)))
    assert _items(other) == list(range(len(_items(other))))


@pytest.mark.slow
def test_a_pipeline_of_another_source_is_made_anew_and_a_new_model_is_added(
    outbox: SqlOutbox, active: ActiveModel, csv: Path
) -> None:
    models = {"tones": active}
    pipelines = make_pipelines(outbox, active, models=models)
    try:
        pipelines.follow(book(pipeline("one", csv)))
        wait_until(lambda: states(pipelines) == {"one": "running"})
        new = msgspec.structs.replace(pipeline("one", csv, loop=False), model="hums")
        pipelines.follow(book(new))
        wait_until(lambda: states(pipelines) == {"one": "waiting for a model"})
        assert set(models) == {"tones", "hums"}
    finally:
        pipelines.stop()


def _items(path: Path) -> list[int]:
    return [json.loads(line)["item"] for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_a_pipeline_that_runs_again_begins_its_file_again(
    tmp_path: Path, outbox: SqlOutbox, active: ActiveModel, csv: Path
) -> None:
    out = tmp_path / "decisions.jsonl"
    sink = FileSinkSettings(path=str(out))
    pipelines = make_pipelines(outbox, active)
    for turn in (1, 2):
        pipelines.follow(book(pipeline("one", csv, loop=False, sinks=(sink,))))
        wait_until(lambda: states(pipelines)["one"] == "ended")
        pipelines.stop()
        items = [json.loads(line)["item"] for line in out.read_text().splitlines()]
        assert items == list(range(40)) * turn


@pytest.mark.slow
def test_a_recording_begins_with_its_model_and_the_wait_for_it_is_no_latency(
    tmp_path: Path, outbox: SqlOutbox, active: ActiveModel, csv: Path
) -> None:
    waiting = ActiveModel("tones")
    pipelines = make_pipelines(outbox, waiting)
    try:
        began_s = time.monotonic()
        pipelines.follow(book(pipeline("one", csv, loop=False)))
        wait_until(lambda: states(pipelines) == {"one": "waiting for a model"})
        wait_until(lambda: time.monotonic() - began_s > 1.0)
        (numbers,) = pipelines.numbers()
        assert numbers.items_in == 0
        serving = active.line.serving
        assert serving is not None
        waiting.swap(serving)
        wait_until(lambda: states(pipelines) == {"one": "ended"})
    finally:
        pipelines.stop()
    assert outbox.flush()
    told = [record.body for record in outbox.read(0, records_max=100, bytes_max=1 << 20)]
    (window,) = (body for body in told if isinstance(body, TelemetryRecord))
    assert window.items_decided == 40
    assert window.latency_ms_max < 900.0


@pytest.mark.slow
def test_a_pipeline_without_a_model_waits_and_one_without_a_source_says_why(
    tmp_path: Path, outbox: SqlOutbox, csv: Path
) -> None:
    pipelines = make_pipelines(outbox, ActiveModel("tones"))
    try:
        pipelines.follow(book(pipeline("one", csv), pipeline("two", tmp_path / "none.csv")))
        wait_until(lambda: states(pipelines) == {"one": "waiting for a model", "two": "failed"})
        two = pipelines.reports()[1]
        assert "none.csv" in two.detail
    finally:
        pipelines.stop()


# The whole agent


@pytest.fixture
def hub(migrated_sqlite_file: Path, tmp_path: Path) -> Iterator[JoiningHub]:
    (tmp_path / "hub.db").write_bytes(migrated_sqlite_file.read_bytes())
    database = Database(f"sqlite:///{tmp_path}/hub.db")
    with run_joining_hub(database, tmp_path) as served:
        yield served
    database.close()


@pytest.fixture
def state(tmp_path: Path, hub: JoiningHub) -> Path:
    """The folder of a device that has joined a hub whose broker is not there."""
    folder = tmp_path / "state"
    join(hub.url, hub.token(), FileIdentity(folder / "identity"), find_hub=lambda _print: ())
    return folder


@pytest.mark.slow
def test_an_agent_starts_and_stops_in_its_order(
    state: Path, csv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(AgentConfig(pipelines=(pipeline("one", csv),)), state, SystemClock())
    stop = threading.Event()
    with caplog.at_level("INFO"):
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        status = StatusFile(state / "run")
        wait_until(lambda: status.read(now_s=SystemClock().now_s()) is not None)
        stop.set()
        thread.join(30.0)
    assert not thread.is_alive()
    order = ["agent.starting", "pipeline.started", "agent.started", "agent.stopping"]
    order.append("pipeline.stopped")
    events = [record.message for record in caplog.records if record.message in order]
    assert events == order
    assert not (state / "run" / STATUS_NAME).exists()
    assert not is_locked(state / "run" / LOCK_NAME)


@pytest.mark.slow
def test_a_second_agent_on_the_same_folder_is_refused_and_the_first_goes_on(
    state: Path, csv: Path
) -> None:
    config = AgentConfig(pipelines=(pipeline("one", csv),))
    agent = Agent(config, state, SystemClock())
    with pytest.raises(UnavailableError) as raised:
        Agent(config, state, SystemClock())
    assert raised.value.code == "agent.running"
    agent._stop()
    Agent(config, state, SystemClock())._stop()


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", ["device.key", "hub.json", "ca.crt", "root.json"])
def test_an_agent_that_cannot_be_built_leaves_nothing_open(
    state: Path, csv: Path, spoiled: str
) -> None:
    config = AgentConfig(pipelines=(pipeline("one", csv),))
    file = state / "identity" / spoiled
    good = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(IsthmusError) as raised:
        Agent(config, state, SystemClock())
    assert raised.value.remedy
    assert not is_locked(state / "run" / LOCK_NAME)
    file.write_bytes(good)
    Agent(config, state, SystemClock())._stop()


# The doctor


def look(
    state: Path, config: Path | None = None, clock: ManualClock | None = None
) -> dict[str, Finding]:
    found = examine(state, config, clock or SystemClock())
    return {finding.topic: finding for finding in found}


def test_the_doctor_of_a_device_that_has_not_joined(tmp_path: Path) -> None:
    found = look(tmp_path / "none")
    assert found["state folder"].level is Level.WARNING
    assert found["identity"].level is Level.BAD
    assert "cloud-hub token create" in found["identity"].remedy
    assert "broker" not in found
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_doctor_of_a_device_whose_broker_is_away(
    state: Path, csv: Path, tmp_path: Path
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[[pipelines]]\nname = "one"\nmodel = "tones"\n[pipelines.source]\nkind = "csv"\n'
        f'path = "{csv}"\ncolumns = ["value"]\n[pipelines.source.window]\nsamples = 4\n'
    )
    found = look(state, config)
    assert {topic: f.level for topic, f in found.items() if topic != "broker"} == {
        "state folder": Level.GOOD,
        "identity": Level.GOOD,
        "certificate": Level.GOOD,
        "clock": Level.GOOD,
        "configuration": Level.GOOD,
        "source of one": Level.GOOD,
        "sharing": Level.GOOD,
        "disk": found["disk"].level,
        "agent": Level.WARNING,
    }
    assert "8883" in found["broker"].remedy
    assert all(f.remedy for f in found.values() if f.level is not Level.GOOD)


@pytest.mark.slow
def test_the_doctor_tells_a_clock_from_a_certificate(state: Path) -> None:
    now_s = SystemClock().now_s()
    assert look(state, clock=ManualClock(now_s + 600.0))["clock"].level is Level.BAD
    found = look(state, clock=ManualClock(now_s + 80 * 86_400.0))
    assert found["certificate"].level is Level.WARNING
    assert look(state, clock=ManualClock(now_s + 900 * 86_400.0))["certificate"].level is Level.BAD


@pytest.mark.slow
def test_the_doctor_of_a_damaged_identity_stops_there(state: Path) -> None:
    (state / "identity" / "hub.json").write_text("{}")
    found = look(state)
    assert found["identity"].level is Level.BAD
    assert "edge-agent join --again" in found["identity"].remedy
    assert "broker" not in found


def test_the_doctor_does_not_wait_for_whole_windows(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        '[[pipelines]]\nname = "one"\nmodel = "m"\n[pipelines.source]\nkind = "host"\n'
        'channels = ["memory_share"]\nrate_hz = 20\n[pipelines.source.window]\nsamples = 4000\n'
    )
    assert look(tmp_path, config)["source of one"].level is Level.GOOD


@pytest.mark.slow
def test_the_doctor_of_a_wrong_configuration_names_the_key(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("pipelines = 1")
    found = look(tmp_path, config)
    assert found["configuration"].level is Level.BAD
    assert "$.pipelines" in found["configuration"].text
    config.write_text(
        '[[pipelines]]\nname = "one"\nmodel = "m"\n[pipelines.source]\nkind = "csv"\n'
        f'path = "{tmp_path}/none.csv"\ncolumns = ["v"]\n[pipelines.source.window]\nsamples = 4\n'
    )
    assert look(tmp_path, config)["source of one"].level is Level.BAD
