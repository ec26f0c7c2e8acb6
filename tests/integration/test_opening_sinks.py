"""open_sinks: every kind at once, as a pipeline has them."""

import json
from pathlib import Path

import pytest

from edge_agent.decisions.decision import Decision, ItemResult, MissedItem
from edge_agent.sinks.live_feeds import LiveFeeds
from edge_agent.sinks.live_settings import LiveSettings
from edge_agent.sinks.opening import LiveView, SinkSet, open_sinks
from shared.clock import SystemClock
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import HubSinkSettings
from shared.settings import parse_toml
from tests.support.http_streams import free_port
from tests.support.sink_results import boxes, decided, frame
from tests.support.waiting import wait_until
from tests.support.webhook_receiver import receive

MISSED = MissedItem("gate", "cars", 1, item=9, code="inference.failed")


class Hub:
    """Plays the hub's sink."""

    def __init__(self, settings: HubSinkSettings) -> None:
        self.settings = settings
        self.items: list[int] = []

    def __call__(self, result: ItemResult) -> None:
        if isinstance(result, Decision):
            self.items.append(result.item)


def settings_for(folder: Path, *, hook: str, broker_port: int) -> PipelineSettings:
    text = f"""
        name = "gate"
        model = "cars"
        source = {{kind = "camera"}}
        sinks = [
            {{kind = "hub"}},
            {{kind = "jsonl", path = "{folder}/gate.jsonl"}},
            {{kind = "webhook", url = "{hook}", which = "all"}},
            {{kind = "snapshots", path = "{folder}/pictures", free_bytes_min = 1048576}},
            {{kind = "clips", path = "{folder}/pictures", free_bytes_min = 1048576}},
            {{kind = "mqtt", port = {broker_port}, discovery_prefix = "homeassistant"}},
        ]
    """
    return parse_toml(text.encode(), PipelineSettings, name="test")


def tell(sinks: SinkSet, count: int) -> None:
    for i in range(count):
        item = frame(i)
        result = decided(boxes("car"), i)
        for sink in sinks.sinks:
            sink(result)
        for frame_sink in sinks.frame_sinks:
            frame_sink(result, item)


@pytest.mark.slow
def test_every_sink_is_told_and_says_how_it_stands(tmp_path: Path) -> None:
    feeds = LiveFeeds()
    hubs: list[Hub] = []

    def hub_sink(settings: HubSinkSettings) -> Hub:
        hubs.append(Hub(settings))
        return hubs[-1]

    with receive() as receiver:
        sinks = open_sinks(
            settings_for(tmp_path, hook=receiver.url, broker_port=free_port()),
            device="dev-1",
            clock=SystemClock(),
            hub_sink=hub_sink,
            live=LiveView(LiveSettings(), feeds),
        )
        assert (len(sinks.sinks), len(sinks.frame_sinks)) == (4, 3)
        assert feeds.all() == {}, "nothing runs before start"
        sinks.start()
        tell(sinks, 3)
        for sink in sinks.sinks:
            sink(MISSED)
        for frame_sink in sinks.frame_sinks:
            frame_sink(MISSED, frame())
        wait_until(lambda: receiver.taken == [0, 1, 2])
        wait_until(lambda: list(tmp_path.glob("pictures/gate/*.jpg")))
        assert feeds.all()["gate"].latest == MISSED
        standings = {standing.kind: standing for standing in sinks.standings()}
        assert standings.keys() == {"jsonl", "webhook", "snapshots", "clips", "mqtt"}
        wait_until(lambda: sinks.standings()[-1].lost_count == 0)
        assert standings["mqtt"].standing  # Nobody is there
        assert not any(standing.lost_count for standing in sinks.standings())
        sinks.close()
    assert hubs[0].items == [0, 1, 2]
    lines = (tmp_path / "gate.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == [0, 1, 2]
    assert len(list(tmp_path.glob("pictures/gate/*.webm"))) == 1
    assert feeds.all() == {}


def test_a_line_after_the_close_is_lost_and_nothing_else(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, hook="http://127.0.0.1:9/", broker_port=9)
    sinks = open_sinks(settings, device="dev-1", clock=SystemClock(), hub_sink=Hub)
    sinks.close()
    tell(sinks, 1)  # From a pass of the loop that had begun
    assert not (tmp_path / "gate.jsonl").exists()
