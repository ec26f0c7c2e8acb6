"""The rules of sinks that touch nothing: what is due, worth a picture, said, allowed."""

from collections.abc import Sequence

import msgspec
import pytest

from edge_agent.decisions.decision import Decision
from edge_agent.sinks.due import Due
from edge_agent.sinks.home_assistant import Announcer
from edge_agent.sinks.http_webhook import RETRY_AFTER_S_MAX, retry_after_s
from edge_agent.sinks.live_access import Access
from edge_agent.sinks.live_page import main_page
from edge_agent.sinks.mqtt_states import DRIFT_S, THINGS_MAX, StateBoard
from edge_agent.sinks.mqtt_topics import UNSAFE, Thing, base_topic, safe
from edge_agent.sinks.picking import seen_labels
from shared.errors import ContractError
from shared.pipeline.sinks import MqttSinkSettings, WebhookSinkSettings, Which
from shared.pipeline.sources import SENSORS_MAX
from shared.settings import Settings, parse_toml
from shared.wire.records import Estimated, Segmented, Tracked
from tests.support.sink_results import boxes, classified, decided, scored, tracked


def told(results: Sequence[Decision], *, repeat_s: float = 60.0, step_s: float = 1.0) -> list[int]:
    due = Due(Which.CHANGES, repeat_s)
    return [r.item for i, r in enumerate(results) if due.is_due(r, now_s=i * step_s)]


def test_a_track_that_crosses_is_always_told() -> None:
    outcomes = [tracked("car"), tracked("car"), tracked("car", crosses=True), tracked("car")]
    outcomes += [tracked("car", crosses=True)]
    assert told([decided(o, i) for i, o in enumerate(outcomes)]) == [0, 2, 4]


def test_a_crossing_that_is_only_held_is_not_told_again() -> None:
    crossing = tracked("car", crosses=True)
    results = [decided(crossing, 0), decided(crossing, 1, is_held=True)]
    assert told(results) == [0]


def test_a_zone_that_fills_is_another_conclusion() -> None:
    outcomes = [tracked("car"), tracked("car", in_zone=1), tracked("car", in_zone=2)]
    assert told([decided(o, i) for i, o in enumerate(outcomes)]) == [0, 1]


def test_every_sensor_has_its_own_last_conclusion() -> None:
    results = [decided(scored(0.1), i, sensor="ab"[i % 2]) for i in range(6)]
    assert told(results) == [0, 1]


@pytest.mark.slow
def test_as_many_sensors_as_a_source_may_have_are_told_apart() -> None:
    due = Due(Which.CHANGES, 60.0)
    results = [decided(scored(0.1), sensor=str(i)) for i in range(SENSORS_MAX)]
    assert all(due.is_due(result, now_s=0.0) for result in results)
    assert not any(due.is_due(result, now_s=1.0) for result in results)


@pytest.mark.slow
def test_sensors_that_are_silent_longest_are_forgotten() -> None:
    due = Due(Which.CHANGES, 60.0)
    for i in range(SENSORS_MAX + 1):
        assert due.is_due(decided(scored(0.1), sensor=str(i)), now_s=0.0)
    assert due.is_due(decided(scored(0.1), sensor="0"), now_s=0.0)
    assert not due.is_due(decided(scored(0.1), sensor=str(SENSORS_MAX)), now_s=0.0)


def test_values_that_drift_are_told_once_in_a_while() -> None:
    results = [decided(Estimated((float(i),)), i) for i in range(5)]
    assert told(results, repeat_s=2.0) == [0, 2, 4]


@pytest.mark.parametrize(
    ("decision", "labels", "seen"),
    [
        (decided(boxes("car", "bus")), (), ("bus", "car")),
        (decided(boxes("car", "bus")), ("bus",), ("bus",)),
        (decided(boxes("car", confidence=0.3)), (), ()),
        (decided(boxes("car"), is_held=True), (), ()),
        (decided(tracked("car", "car")), (), ("car",)),
        (decided(classified("cat")), ("dog",), ()),
        (decided(scored(0.5)), (), ()),
        (decided(scored(1.5)), (), ("anomalous",)),
        (decided(Segmented({"road": 0.8, "sky": 0.1})), (), ("road",)),
    ],
)
def test_what_is_worth_a_picture(
    decision: Decision, labels: tuple[str, ...], seen: tuple[str, ...]
) -> None:
    assert seen_labels(decision, labels, confidence_min=0.5) == seen


@pytest.mark.parametrize("name", ["a b", "a+b", "a/b", "a#b", "größe", "", "x" * 300])
def test_names_become_topics_that_no_broker_and_no_home_assistant_minds(name: str) -> None:
    made = safe(name)
    assert made
    assert not UNSAFE.search(made)
    assert made != safe(name + "!")


def test_a_plain_name_stays_as_it_is() -> None:
    assert base_topic("home/isthmus/", "dev-1", "gate") == "home/isthmus/dev-1/gate"


def states(board: StateBoard, decision: Decision, now_s: float) -> dict[str, str]:
    return {state.thing.topic: state.text for state in board.update(decision, now_s=now_s)}


def test_states_are_sent_when_they_are_others() -> None:
    board = StateBoard()
    first = states(board, decided(tracked("car", in_zone=1, dwell_s=2.0, total=3)), 0.0)
    assert first == {
        "objects/all": "1",
        "objects/car": "1",
        "zones/yard/occupancy": "ON",
        "zones/yard/count": "1",
        "zones/yard/dwell": "2.0",
        "lines/gate/in": "3",
        "lines/gate/out": "0",
    }
    assert states(board, decided(tracked("car", in_zone=1, dwell_s=2.0, total=3)), 0.1) == {}
    gone = states(board, decided(tracked(total=4)), 0.2)
    assert gone == {
        "objects/all": "0",
        "objects/car": "0",
        "zones/yard/occupancy": "OFF",
        "zones/yard/count": "0",
        "zones/yard/dwell": "0.0",
        "lines/gate/in": "4",
    }


def test_what_a_zone_counted_is_under_the_zone_even_beside_a_line_of_its_name() -> None:
    outcome = Tracked(tracks=(), totals={"yard/in": 1, "yard/entered": 2, "yard/loitered": 3})
    topics = states(StateBoard(), decided(outcome), 0.0)
    assert topics["lines/yard/in"] == "1"
    assert topics["zones/yard/entered"] == "2"
    assert topics["zones/yard/loitered"] == "3"


def test_a_number_that_drifts_is_sent_at_most_once_in_a_while() -> None:
    board = StateBoard()
    assert states(board, decided(scored(0.1)), 0.0) == {"anomaly": "OFF", "score": "0.1"}
    assert states(board, decided(scored(0.2)), DRIFT_S / 2) == {}
    assert states(board, decided(scored(1.2)), DRIFT_S / 2) == {"anomaly": "ON"}
    assert states(board, decided(scored(1.3)), DRIFT_S) == {"score": "1.3"}


def test_a_share_that_is_gone_is_nothing_and_other_sensors_are_left_alone() -> None:
    board = StateBoard()
    states(board, decided(Segmented({"road": 0.8, "sky": 0.2}), sensor="a"), 0.0)
    states(board, decided(Segmented({"sea": 0.5}), sensor="b"), 0.0)
    later = states(board, decided(Segmented({"road": 1.0}), sensor="a"), 5.0)
    assert later == {"sensors/a/shares/road": "100", "sensors/a/shares/sky": "0"}


def test_there_is_an_end_to_things() -> None:
    board = StateBoard()
    for i in range(THINGS_MAX):
        states(board, decided(classified("x"), sensor=str(i)), 0.0)
    assert len(board.all()) == THINGS_MAX
    assert board.left_out_count == THINGS_MAX


def test_a_pipelines_node_is_its_own() -> None:
    announcer = Announcer("homeassistant", "b", "dev 1", "gate", "cars", "1.0")
    other = Announcer("homeassistant", "b", "dev_1", "gate", "cars", "1.0")
    assert announcer.node != other.node
    assert not UNSAFE.search(announcer.node)
    topic = announcer.topic(Thing("zones/yard/occupancy", "yard", "binary_sensor"))
    assert topic == f"homeassistant/binary_sensor/{announcer.node}/zones-yard-occupancy/config"


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("120", 120.0),
        ("999999", RETRY_AFTER_S_MAX),
        ("Thu, 01 Jan 1970 00:17:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_read_as_written(text: str, wait_s: float) -> None:
    assert retry_after_s(text, now_s=1000.0) == wait_s


ACCESS = Access("t" * 20, port=8088, names={"gatepi", "gatepi.local"})


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8088",
        "localhost:8088",
        "[::1]:8088",
        "192.168.1.7",
        "gatepi:8088",
        "GatePi.local",
    ],
)
def test_the_devices_own_names_are_hosts(host: str) -> None:
    assert ACCESS.is_host(host)


@pytest.mark.parametrize(
    "host", ["evil.example:8088", "", "localhost.evil.example", "127.0.0.1.evil.example", "[::1"]
)
def test_a_strangers_name_is_no_host(host: str) -> None:
    assert ACCESS.is_host(host) == (host == "[::1")  # An address all the same


@pytest.mark.parametrize(
    ("token", "authorization", "cookie", "is_known"),
    [
        ("t" * 20, "", "", True),
        ("t" * 19, "", "", False),
        ("", "Bearer " + "t" * 20, "", True),
        ("", "bearer x", "", False),
        ("", "Basic " + "t" * 20, "", False),
        ("", "", f"a=b; {ACCESS.cookie_name}={ACCESS.cookie_value}", True),
        ("", "", f"{ACCESS.cookie_name}={'t' * 20}", False),
        ("", "", f"{ACCESS.cookie_name}=", False),
        ("", "", "", False),
        ("ü" * 20, "", "", False),
    ],
)
def test_only_the_token_and_its_cookie_are_known(
    token: str, authorization: str, cookie: str, is_known: bool
) -> None:
    found = ACCESS.is_known(query_token=token, authorization=authorization, cookie=cookie)
    assert found is is_known


def test_the_page_escapes_names() -> None:
    page = main_page(['<b>"x'], shown='<b>"x', has_pictures=True)
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


class _Sinks(Settings, frozen=True):
    mqtt: MqttSinkSettings | None = None
    webhook: WebhookSinkSettings | None = None


@pytest.mark.parametrize(
    "text",
    [
        'mqtt = {kind = "mqtt", prefix = "a/+/b"}',
        'mqtt = {kind = "mqtt", discovery_prefix = "#"}',
        'mqtt = {kind = "mqtt", prefix = "$SYS"}',
        'webhook = {kind = "webhook", url = "https://user:secret@example.com/"}',
        'webhook = {kind = "webhook", url = "ftp://example.com/"}',
        'webhook = {kind = "webhook", url = "http://:80/"}',
        'webhook = {kind = "webhook", url = "http://a:99999/"}',
        'webhook = {kind = "webhook", url = "http://a/b c"}',
    ],
)
def test_settings_that_cannot_work_are_refused(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_toml(text.encode(), _Sinks, name="test")
    assert caught.value.code == "config.invalid"


def test_a_decision_is_json_whatever_is_in_it() -> None:
    decision = decided(tracked("car", in_zone=1, total=2, crosses=True), sensor="a")
    assert msgspec.json.decode(msgspec.json.encode(decision))["outcome"]["type"] == "tracks"
