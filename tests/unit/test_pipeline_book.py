"""Which pipelines a device runs: its owner's word against the hub's orders."""

import msgspec
import pytest

from edge_agent.config import RemoteSettings
from edge_agent.pipeline_book import REFUSED, open_book
from shared.pipeline.decisions import DecisionSettings
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import HubSinkSettings, MqttSinkSettings, SinkSettings
from shared.pipeline.sources import (
    CameraSettings,
    MqttSettings,
    SourceSettings,
    StreamSettings,
    VideoSettings,
    WindowSettings,
)
from shared.wire.target import PipelineOrder, Target

OWN = PipelineSettings(name="door", model="people", source=VideoSettings(path="/srv/door.mp4"))
STREAM = StreamSettings(url="rtsp://camera.local/1")
DECISIONS = DecisionSettings()


def order(
    name: str = "gate",
    source: SourceSettings = STREAM,
    sinks: tuple[SinkSettings, ...] = (HubSinkSettings(),),
    decisions: DecisionSettings = DECISIONS,
) -> PipelineOrder:
    settings = PipelineSettings(
        name=name, model="cars", source=source, sinks=sinks, decisions=decisions
    )
    return PipelineOrder(name=name, settings=msgspec.json.encode(settings))


def target(*orders: PipelineOrder, names: tuple[str, ...] | None = None) -> Target:
    return Target(revision=1, issued_ms=1, orders=orders, pipelines=names)


def test_without_a_word_from_the_hub_its_own_pipelines_run() -> None:
    for told in (None, Target(revision=1, issued_ms=1)):
        book = open_book((OWN,), RemoteSettings(), told)
        assert (book.pipelines, book.wanted, book.refused) == ((OWN,), {"door"}, ())


def test_an_ordered_pipeline_comes_beside_its_own() -> None:
    book = open_book((OWN,), RemoteSettings(), target(order()))
    assert [pipeline.name for pipeline in book.pipelines] == ["door", "gate"]
    assert book.wanted == {"door", "gate"}
    assert book.ordered == {"gate"}
    assert book.models == ("people", "cars")


def test_one_of_the_same_name_stands_in_place_of_its_own_until_it_is_taken_back() -> None:
    book = open_book((OWN,), RemoteSettings(), target(order("door")))
    assert [pipeline.model for pipeline in book.pipelines] == ["cars"]
    assert open_book((OWN,), RemoteSettings(), target()).pipelines == (OWN,)


def test_the_list_of_names_holds_for_both_kinds() -> None:
    book = open_book((OWN,), RemoteSettings(), target(order(), names=("gate", "gone")))
    assert book.wanted == {"gate"}


@pytest.mark.parametrize(
    ("remote", "asked", "said"),
    [
        (RemoteSettings(pipelines=False), order("door"), "remote.pipelines"),
        (RemoteSettings(), order("door", VideoSettings(path="/x.mp4")), "kind video"),
        (RemoteSettings(sources=("camera",)), order("door"), "remote.sources has: camera"),
        (RemoteSettings(), order("door", sinks=(MqttSinkSettings(),)), "kind mqtt"),
        (
            RemoteSettings(sinks=("mqtt",)),
            order("door", sinks=(MqttSinkSettings(password_file="/etc/shadow"),)),
            "password_file",
        ),
        (
            RemoteSettings(),
            order(
                "door",
                MqttSettings(topic="a", window=WindowSettings(samples=1), ca_file="/etc/ca"),
            ),
            "ca_file",
        ),
        (RemoteSettings(), PipelineOrder(name="door", settings=b"{"), "cannot read"),
        (RemoteSettings(), PipelineOrder(name="door", settings=b'{"lens": 3}'), "lens"),
        (RemoteSettings(), PipelineOrder(name="door", settings=order().settings), "gate within"),
    ],
)
def test_what_is_not_allowed_is_refused_alone_and_says_why(
    remote: RemoteSettings, asked: PipelineOrder, said: str
) -> None:
    good = order("yard", CameraSettings())
    book = open_book((OWN,), remote, target(asked, good))
    assert OWN in book.pipelines, "its own runs on"
    refused = {report.pipeline: report for report in book.refused}
    assert refused["door"].state == REFUSED
    assert said in refused["door"].detail
    assert refused["door"].detail.endswith("runs on.")
    assert refused["door"].is_ordered is True
    assert ("yard" in book.wanted) == (
        remote.pipelines and "camera" in remote.sources and "hub" in remote.sinks
    )


def test_the_digest_of_a_models_settings_changes_with_an_order() -> None:
    before = open_book((OWN,), RemoteSettings(), None)
    one = open_book((OWN,), RemoteSettings(), target(order()))
    other = open_book(
        (OWN,), RemoteSettings(), target(order(decisions=DecisionSettings(confidence_min=0.7)))
    )
    assert before.digest_for("people") == one.digest_for("people")
    assert one.digest_for("cars") != other.digest_for("cars")
