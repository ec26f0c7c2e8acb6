"""HubSink, WindowSink, FileSink and ProcfsHost."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from edge_agent.decisions.decision import Decision, MissedItem
from edge_agent.sinks.file_sink import FileSink
from edge_agent.telemetry.procfs_host import ProcfsCpu, ProcfsHost
from edge_agent.telemetry.sinks import HubSink, ItemCounts, WindowSink
from shared.errors import ContractError
from shared.pipeline.sinks import FileSinkSettings, HubSinkSettings, SinkSettings, Which
from shared.settings import Settings, parse_toml
from shared.wire.records import (
    Body,
    Box,
    Classified,
    DecisionRecord,
    Detected,
    HostRecord,
    Outcome,
    Scored,
    TelemetryRecord,
)
from tests.support.manual_clock import ManualClock


class Heard:
    """Plays the outbox: keeps what it is given."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []

    def append(self, body: Body) -> None:
        self.bodies.append(body)

    def items(self) -> list[int]:
        return [body.item for body in self.bodies if isinstance(body, DecisionRecord)]

    def windows(self) -> list[TelemetryRecord]:
        return [body for body in self.bodies if isinstance(body, TelemetryRecord)]


def digit(item: int, label: str = "7", *, version: int = 1) -> Decision:
    return _decision(item, Classified(label=label, confidence=0.9), version=version)


def cars(item: int, *labels: str) -> Decision:
    return _decision(item, Detected(boxes=tuple(Box(b, 0.9, 0, 0, 1, 1) for b in labels)))


def score(item: int, value: float) -> Decision:
    return _decision(item, Scored(score=value, threshold=1.0, is_anomalous=value > 1.0))


def _decision(item: int, outcome: Outcome, *, version: int = 1) -> Decision:
    return Decision(
        pipeline="door",
        model="digits",
        version=version,
        item=item,
        captured_ms=1000 + item,
        outcome=outcome,
        confidence=0.9,
        latency_ms=5.0,
        inference_ms=3.0,
    )


MISSED = MissedItem("door", "digits", 1, item=9, code="inference.failed")


def hub_sink(heard: Heard, clock: ManualClock, which: Which) -> HubSink:
    return HubSink(heard, HubSinkSettings(which=which, repeat_s=60.0), clock)


def test_all_decisions_are_told_as_they_are() -> None:
    heard = Heard()
    sink = hub_sink(heard, ManualClock(), Which.ALL)
    for result in (digit(1), digit(2), MISSED):
        sink(result)
    assert heard.bodies[0] == DecisionRecord(
        pipeline="door",
        model="digits",
        version=1,
        item=1,
        captured_ms=1001,
        latency_ms=5.0,
        outcome=Classified(label="7", confidence=0.9),
    )
    assert heard.items() == [1, 2]


def test_none_is_none() -> None:
    heard = Heard()
    hub_sink(heard, ManualClock(), Which.NONE)(digit(1))
    assert heard.bodies == []


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ([digit(1), digit(2), digit(3, "1"), digit(4, "1"), digit(5)], [1, 3, 5]),
        ([cars(1, "car"), cars(2, "car", "car"), cars(3, "car", "bus"), cars(4)], [1, 3, 4]),
        ([cars(1, "car", "bus"), cars(2, "bus", "car")], [1]),
        ([score(1, 0.2), score(2, 0.9), score(3, 1.1), score(4, 5.0), score(5, 0.1)], [1, 3, 5]),
        ([digit(1), digit(2, version=2), digit(3, version=2)], [1, 2]),
    ],
    ids=["class", "boxes", "order of boxes", "score", "release"],
)
def test_of_changes_only_other_conclusions_are_told(
    results: list[Decision], told: list[int]
) -> None:
    heard = Heard()
    sink = hub_sink(heard, ManualClock(), Which.CHANGES)
    for result in results:
        sink(result)
    assert heard.items() == told


def test_of_changes_the_same_conclusion_is_told_now_and_then() -> None:
    heard, clock = Heard(), ManualClock()
    sink = hub_sink(heard, clock, Which.CHANGES)
    for item in range(13):
        sink(digit(item))
        clock.advance(10.0)
    assert heard.items() == [0, 6, 12]


class Counts:
    """What a source would count."""

    def __init__(self) -> None:
        self.items_in = self.items_dropped = 0

    def __call__(self) -> ItemCounts:
        return ItemCounts(self.items_in, self.items_dropped)


def test_a_window_is_told_when_its_time_is_over() -> None:
    heard, clock, counts = Heard(), ManualClock(), Counts()
    counts.items_in = 5  # Before the sink was there
    sink = WindowSink("door", heard, counts, clock, window_s=10.0)
    for item in range(4):
        counts.items_in += 2
        counts.items_dropped += 1
        sink(digit(item))
        clock.advance(2.5)
    assert heard.bodies == []
    sink.tick()
    (window,) = heard.windows()
    assert (window.items_in, window.items_dropped, window.items_decided) == (8, 4, 4)
    assert window.window_s == 10.0


def test_a_swap_closes_the_window_of_the_release_before() -> None:
    heard, clock, counts = Heard(), ManualClock(), Counts()
    sink = WindowSink("door", heard, counts, clock, window_s=10.0)
    for item, version in enumerate((1, 1, 2, 2, 2)):
        counts.items_in += 1
        sink(digit(item, version=version))
        clock.advance(1.0)
    sink(MISSED)
    sink.close()
    sink.close()
    told = [(w.version, w.items_in, w.items_decided, w.items_failed) for w in heard.windows()]
    assert told == [(1, 3, 2, 0), (2, 2, 3, 0), (1, 0, 0, 1)]


def test_a_pipeline_that_went_silent_is_told_with_no_items() -> None:
    heard, clock = Heard(), ManualClock()
    sink = WindowSink("door", heard, Counts(), clock, window_s=10.0)
    sink.tick()
    assert heard.bodies == [], "no release has served: nothing to tell"
    sink(digit(1))
    for _ in range(3):
        clock.advance(10.0)
        sink.tick()
    assert [w.items_decided for w in heard.windows()] == [1, 0, 0]
    assert [w.version for w in heard.windows()] == [1, 1, 1]


# FileSink -------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["item"] for line in path.read_text().splitlines()]


def test_lines_are_whole_and_rotate_within_the_bounds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "decisions.jsonl"
    sink = FileSink(FileSinkSettings(path=str(path), bytes_max=4096, files_max=3))
    for item in range(200):
        sink(digit(item))
    sink(MISSED)
    sink.close()
    names = sorted(p.name for p in path.parent.iterdir())
    assert names == ["decisions.jsonl", "decisions.jsonl.1", "decisions.jsonl.2"]
    assert all(p.stat().st_size <= 4096 for p in path.parent.iterdir())
    kept = [n for name in reversed(names) for n in lines_of(path.parent / name)]
    assert kept == list(range(kept[0], 200)), "the newest, without a hole"
    assert sink.lost_count == 0


def test_a_restart_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    for item in range(2):
        sink = FileSink(FileSinkSettings(path=str(path)))
        sink(digit(item))
        sink.close()
    assert lines_of(path) == [0, 1]


def test_one_file_alone_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    sink = FileSink(FileSinkSettings(path=str(path), bytes_max=4096, files_max=1))
    for item in range(100):
        sink(digit(item))
    sink.close()
    assert [p.name for p in tmp_path.iterdir()] == ["decisions.jsonl"]
    assert lines_of(path)[-1] == 99


def test_a_file_that_another_moved_or_removed_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    busy, quiet = (
        FileSink(FileSinkSettings(path=str(path), bytes_max=4096, files_max=2)) for _ in range(2)
    )
    quiet(digit(1000))
    for item in range(100):
        busy(digit(item))
    quiet(digit(1001))
    assert lines_of(path)[-1] == 1001
    assert all(p.stat().st_size <= 4096 for p in tmp_path.iterdir())
    path.unlink()  # Somebody makes room
    quiet(digit(1002))
    busy(digit(100))
    assert lines_of(path) == [1002, 100]
    for sink in (busy, quiet):
        sink.close()
    assert busy.lost_count == quiet.lost_count == 0


def test_what_is_no_file_is_written_to_and_never_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "stdout"  # As /dev/stdout is, where somebody reads a container's output
    path.symlink_to("/dev/null")
    sink = FileSink(FileSinkSettings(path=str(path), bytes_max=4096))
    for item in range(100):
        sink(digit(item))
    sink.close()
    assert [p.name for p in tmp_path.iterdir()] == ["stdout"]
    assert path.is_symlink()
    assert sink.lost_count == 0


def test_a_place_that_cannot_be_written_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    sink = FileSink(FileSinkSettings(path=str(blocked / "decisions.jsonl")))
    sink(digit(1))
    sink(digit(2))
    assert sink.lost_count == 2
    blocked.unlink()
    sink(digit(3))
    sink.close()
    assert lines_of(blocked / "decisions.jsonl") == [3]


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which this system does not have")
    sink = FileSink(FileSinkSettings(path="/dev/full"))
    sink(digit(1))
    assert sink.lost_count == 1


# Settings -------------------------------------------------------------------------------------


class Pipeline(Settings, frozen=True):
    sinks: tuple[SinkSettings, ...]


def test_sinks_are_told_apart_by_kind(tmp_path: Path) -> None:
    text = f"""
        [[sinks]]
        kind = "hub"
        which = "all"
        [[sinks]]
        kind = "jsonl"
        path = "{tmp_path}/x.jsonl"
    """
    hub, lines = parse_toml(text.encode(), Pipeline, name="agent.toml").sinks
    assert hub == HubSinkSettings(which=Which.ALL)
    assert lines == FileSinkSettings(path=f"{tmp_path}/x.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        'kind = "kafka"',
        'kind = "hub"\nwhich = "some"',
        'kind = "jsonl"',
        'kind = "jsonl"\npath = "x"\nbytes_max = 1',
    ],
)
def test_a_wrong_sink_is_named_at_the_start(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_toml(f"[[sinks]]\n{text}".encode(), Pipeline, name="agent.toml")
    assert "sinks" in str(caught.value)


# ProcfsHost -----------------------------------------------------------------------------------


def test_the_hosts_own_numbers_are_plausible(tmp_path: Path) -> None:
    clock = ManualClock()
    host = ProcfsHost(tmp_path, clock)
    clock.advance(10.0)
    record = host.read()
    assert record.window_s == 10.0
    assert 0.0 <= record.cpu_share < 64.0
    assert 10 << 20 < record.rss_bytes < 4 << 30
    assert record.disk_free_bytes > 0
    assert msgspec.convert(msgspec.to_builtins(record), HostRecord) == record


def test_cpu_is_the_share_of_one_core_since_the_last_reading(tmp_path: Path) -> None:
    clock, ticks = ManualClock(), os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "self" / "stat"
    stat.parent.mkdir()

    def use(user_s: float, system_s: float) -> None:
        before = "1 (a (b) c) S" + " 0" * 10
        stat.write_text(f"{before} {int(user_s * ticks)} {int(system_s * ticks)} 0 0")

    use(100.0, 50.0)
    host = ProcfsHost(tmp_path, clock, proc=tmp_path)
    clock.advance(10.0)
    use(104.0, 51.0)
    assert host.read().cpu_share == pytest.approx(0.5)
    clock.advance(5.0)
    assert host.read().cpu_share == 0.0


def test_the_hottest_zone_counts_and_broken_ones_do_not(tmp_path: Path) -> None:
    for number, text in enumerate(("41500", "nonsense", "55250\n", "99999999", "")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    host = ProcfsHost(tmp_path, ManualClock(), thermal=tmp_path)
    assert host.read().temperature_c == 55.25


def test_what_is_not_there_is_told_as_unknown(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    host = ProcfsHost(nowhere, ManualClock(), proc=nowhere, thermal=nowhere)
    assert host.read() == HostRecord(
        window_s=0.0, cpu_share=0.0, rss_bytes=0, disk_free_bytes=0, temperature_c=None
    )


def test_cpu_of_another_process_is_the_share_since_it_was_last_looked_at(tmp_path: Path) -> None:
    clock, ticks = ManualClock(), os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "77" / "stat"
    stat.parent.mkdir()
    cpu = ProcfsCpu(clock, proc=tmp_path)
    shares = []
    for used_s in (100.0, 107.5):
        stat.write_text(f"77 (a (b) c) S{' 0' * 10} {int(used_s * ticks)} 0 0 0")
        shares.append(cpu.share(77))
        clock.advance(10.0)
    stat.unlink()  # It has ended
    assert [*shares, cpu.share(77), cpu.share(78)] == [0.0, 0.75, 0.0, 0.0]


def test_a_window_tells_what_sinks_lost_in_it_and_the_memory_of_its_process() -> None:
    clock, heard, lost = ManualClock(), Heard(), [5]
    sink = WindowSink(
        "gate",
        heard,
        lambda: ItemCounts(1, 0, sinks_lost=lost[0], worker_rss_bytes=46 << 20),
        clock,
        window_s=10.0,
    )
    sink(digit(1))
    lost[0] = 8
    sink.close()
    sink(digit(2))
    sink.close()
    first, second = heard.windows()
    assert (first.sinks_lost, first.worker_rss_bytes) == (3, 46 << 20)
    assert second.sinks_lost is UNSET
