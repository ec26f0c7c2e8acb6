"""One contract, every link: in memory, paho over amqtt, paho over mosquitto (see shared/link)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import ContractError, TransientError
from shared.ids import HUB_ID, DeviceId
from shared.link.link import (
    ARRIVALS_MAX,
    Arrival,
    Connected,
    Delivery,
    Disconnected,
    Link,
    Rejection,
)
from shared.wire.blocks import Block
from shared.wire.codec import encode
from shared.wire.presence import Heartbeat, Presence
from shared.wire.records import EventRecord, Record, RecordBatch, Watermark
from shared.wire.report import Report
from shared.wire.target import Target
from shared.wire.topics import BY_NAME, TOPICS, Message
from tests.support.brokers import AmqttBench, Bench, MemoryBench, MosquittoBench
from tests.support.waiting import wait_until

DEVICE = DeviceId("dev-a")
OTHER = DeviceId("dev-b")
STREAM = "0123456789abcdef"

BENCHES: dict[str, Callable[[Path], Bench]] = {
    "memory": lambda _folder: MemoryBench(),
    "amqtt": AmqttBench,
    "mosquitto": MosquittoBench,
}


@pytest.fixture(
    params=["memory", *(pytest.param(n, marks=pytest.mark.slow) for n in ("amqtt", "mosquitto"))]
)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = BENCHES[request.param](tmp_path)
    yield made
    made.close()


class Taker:
    """The one thread that takes a link's arrivals; keeps what passed by."""

    def __init__(self, link: Link, *, quiet_s: float = 0.3, acknowledges: bool = True) -> None:
        self.link = link
        self.quiet_s = quiet_s  # After so much silence nothing more is on its way
        self.passed: list[Arrival] = []
        self.acknowledges = acknowledges

    def take(self, wanted: Callable[[Arrival], bool], *, wait_s: float = 10.0) -> Arrival:
        """Return the next arrival that is `wanted`."""
        for arrival in self.link.arrivals(wait_s=wait_s):
            if self.acknowledges:
                self.link.acknowledge(arrival)
            if wanted(arrival):
                return arrival
            self.passed.append(arrival)
        raise AssertionError(f"it never came; passed by: {self.passed}")

    def take_message(self, message: type[Message]) -> Delivery:
        arrival = self.take(
            lambda a: isinstance(a, Delivery) and isinstance(a.received.message, message)
        )
        assert isinstance(arrival, Delivery)
        return arrival

    def take_connected(self) -> None:
        self.take(lambda arrival: isinstance(arrival, Connected))

    def assert_nothing(self) -> None:
        assert list(self.link.arrivals(wait_s=self.quiet_s)) == []


def connected(bench: Bench, client: DeviceId, *, acknowledges: bool = True) -> Taker:
    link = bench.link(client)
    link.start()
    taker = Taker(link, quiet_s=bench.quiet_s, acknowledges=acknowledges)
    taker.take_connected()
    return taker


def watermark(sequence: int) -> Watermark:
    return Watermark(stream=STREAM, sequence=sequence)


def heartbeat() -> Heartbeat:
    return Heartbeat(uptime_s=1, outbox_rows=2, outbox_dropped=3)


def test_a_message_reaches_the_other_side_unchanged(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    record = Record(sequence=1, at_ms=2, body=EventRecord(code="source.lost", text="ü"))
    batch = RecordBatch(stream=STREAM, since=0, records=(record,))
    device.link.publish(DEVICE, batch)
    delivery = hub.take_message(RecordBatch)
    assert delivery.received.message == batch
    assert delivery.received.device == DEVICE
    assert delivery.received.session_id == device.link.session_id
    assert delivery.received.topic == BY_NAME["records"]
    assert not delivery.is_retained
    hub.link.publish(DEVICE, watermark(1))
    assert device.take_message(Watermark).received.message == watermark(1)


def test_connected_names_the_session_and_is_there_once_the_link_is_up(bench: Bench) -> None:
    link = bench.link(DEVICE)
    assert not link.is_connected
    link.start()
    wait_until(lambda: link.is_connected)
    assert next(link.arrivals(wait_s=1)) == Connected(session_id=link.session_id)


def test_every_message_type_crosses_and_qos_0_needs_no_acknowledgement(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    device.link.publish(DEVICE, heartbeat())
    assert hub.take_message(Heartbeat).received.message == heartbeat()
    block = Block(path="targets/a.bin", index=0, file_bytes=65536, data=bytes(65536))
    hub.link.publish(DEVICE, block)
    assert device.take_message(Block).received.message == block


def test_a_device_hears_nothing_that_is_for_another(bench: Bench) -> None:
    hub, device, other = (connected(bench, c) for c in (HUB_ID, DEVICE, OTHER))
    hub.link.publish(DEVICE, watermark(7))
    device.take_message(Watermark)
    other.assert_nothing()


def test_what_was_not_acknowledged_comes_again_after_a_reconnect(bench: Bench) -> None:
    hub = connected(bench, HUB_ID)
    device = connected(bench, DEVICE, acknowledges=False)
    hub.link.publish(DEVICE, watermark(1))
    device.take_message(Watermark)
    device.link.reconnect()
    assert device.take_message(Watermark).received.message == watermark(1)


def test_what_was_acknowledged_does_not_come_again(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    hub.link.publish(DEVICE, watermark(1))
    device.take_message(Watermark)
    hub.link.publish(DEVICE, watermark(2))
    device.take_message(Watermark)  # So the acknowledgement of the first is surely out
    device.link.reconnect()
    device.take_connected()
    device.assert_nothing()


def test_what_is_sent_while_a_device_is_away_waits_for_it(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    device.link.stop()
    hub.take_message(Presence)
    hub.link.publish(DEVICE, watermark(5))
    hub.link.publish(OTHER, watermark(6))
    again = bench.link(DEVICE)
    again.start()
    assert Taker(again).take_message(Watermark).received.message == watermark(5)


def test_an_acknowledgement_from_before_a_reconnect_acknowledges_nothing(bench: Bench) -> None:
    hub = connected(bench, HUB_ID)
    device = connected(bench, DEVICE, acknowledges=False)
    hub.link.publish(DEVICE, watermark(1))
    old = device.take_message(Watermark)
    device.link.reconnect()
    device.take_connected()
    device.link.acknowledge(old)
    device.acknowledges = True
    device.passed.clear()
    device.link.reconnect()
    device.take_connected()
    # The second time, too: it was not acknowledged on the second connection.
    again = [a.received.message for a in device.passed if isinstance(a, Delivery)]
    assert again or device.take_message(Watermark).received.message == watermark(1)
    hub.link.publish(DEVICE, watermark(2))
    device.take(lambda a: isinstance(a, Delivery) and a.received.message == watermark(2), wait_s=10)


def test_a_retained_target_meets_a_device_that_comes_later(bench: Bench) -> None:
    hub = connected(bench, HUB_ID)
    target = Target(revision=3, issued_ms=1)
    hub.link.publish(DEVICE, Target(revision=2, issued_ms=1))
    hub.link.publish(DEVICE, target)
    hub.link.publish(OTHER, Target(revision=9, issued_ms=1))
    device = connected(bench, DEVICE)
    delivery = device.take_message(Target)
    assert delivery.received.message == target
    assert delivery.is_retained
    device.assert_nothing()


def test_a_device_receives_retained_messages_of_its_own_only_once(bench: Bench) -> None:
    hub, other = connected(bench, HUB_ID), connected(bench, OTHER)
    hub.link.publish(OTHER, Target(revision=9, issued_ms=1))
    other.take_message(Target)
    device = connected(bench, DEVICE)
    device.assert_nothing()
    other.link.reconnect()
    other.take_connected()
    if not any(isinstance(arrival, Delivery) for arrival in other.passed):
        other.take_message(Target)
    other.assert_nothing()


def test_a_lost_device_is_announced_by_its_last_will(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    device.link.publish(DEVICE, Presence(is_online=True, reason="started"))
    hub.take_message(Presence)
    session = device.link.session_id
    bench.cut(DEVICE)
    death = hub.take_message(Presence).received
    assert death.message == Presence(is_online=False, reason="connection lost")
    assert death.session_id == session


def test_every_connection_is_a_session_of_its_own(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    sessions, deaths = [], []
    for number in range(3):
        device.link.publish(DEVICE, one_record(number + 1))
        sessions.append(hub.take_message(RecordBatch).received.session_id)
        assert sessions[-1] == device.link.session_id
        bench.cut(DEVICE)
        deaths.append(hub.take_message(Presence).received.session_id)
        device.take_connected()
    assert len(set(sessions)) == 3
    assert deaths == sessions
    device.link.reconnect()
    notice = device.take(lambda arrival: isinstance(arrival, Connected))
    assert notice == Connected(session_id=device.link.session_id)
    assert device.link.session_id not in sessions


def test_the_last_will_is_retained_for_a_hub_that_comes_later(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    device.link.publish(DEVICE, Presence(is_online=True, reason="started"))
    hub.take_message(Presence)
    device.link.stop()
    hub.take_message(Presence)
    hub.link.stop()
    again = connected(bench, HUB_ID)
    arrivals = [a for a in again.passed if isinstance(a, Delivery)]
    delivery = arrivals[0] if arrivals else again.take_message(Presence)
    assert delivery.received.message == Presence(is_online=False, reason="stopped")
    assert delivery.is_retained


def test_a_clean_stop_says_goodbye_and_leaves_no_last_will(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    device.link.stop()
    assert hub.take_message(Presence).received.message == Presence(
        is_online=False, reason="stopped"
    )
    assert list(device.link.arrivals(wait_s=5)) == []
    assert not device.link.is_connected
    hub.assert_nothing()
    device.link.stop()  # Twice is once.


def test_the_hub_leaves_no_last_will(bench: Bench) -> None:
    first = connected(bench, HUB_ID)
    first.link.stop()
    second = connected(bench, HUB_ID)
    second.assert_nothing()


def test_links_come_back_by_themselves_when_the_broker_does(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    bench.kill()
    for taker in (hub, device):
        taker.take(lambda arrival: isinstance(arrival, Disconnected))
        assert not taker.link.is_connected
    bench.restart()
    for taker in (hub, device):
        taker.take_connected()
    # Subscriptions are made again, also on a broker that forgot everything.
    device.link.publish(DEVICE, heartbeat())
    hub.take_message(Heartbeat)
    hub.link.publish(DEVICE, watermark(1))
    device.take_message(Watermark)


def test_a_restarted_broker_still_has_what_it_promises_to_keep(bench: Bench) -> None:
    hub = connected(bench, HUB_ID)
    hub.link.publish(DEVICE, Target(revision=4, issued_ms=1))
    first = connected(bench, DEVICE)
    if not any(isinstance(arrival, Delivery) for arrival in first.passed):
        first.take_message(Target)
    first.link.stop()
    hub.take_message(Presence)
    hub.link.stop()  # What it had in flight it would send again to the restarted broker.
    path = BY_NAME["watermark"].path(DEVICE)
    payload = encode(watermark(5), session_id=hub.link.session_id, sent_ms=1)
    bench.send_raw(HUB_ID, path, payload)
    bench.wait_until_saved(payload)
    bench.kill()
    bench.restart()
    device = connected(bench, DEVICE)
    if not bench.keeps_state:  # amqtt: the hub publishes its Targets again, devices their records.
        device.assert_nothing()
        return
    messages = [a.received.message for a in device.passed if isinstance(a, Delivery)]
    while len(messages) < 2:
        arrival = device.take(lambda a: isinstance(a, Delivery))
        assert isinstance(arrival, Delivery)
        messages.append(arrival.received.message)
    assert set(map(type, messages)) == {Target, Watermark}


def test_publish_raises_while_the_link_is_down_and_nothing_is_kept(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    bench.kill()
    wait_until(lambda: not device.link.is_connected)
    for message in (heartbeat(), Report(target_revision=1, at_ms=1, models=())):
        with pytest.raises(TransientError, match="connection") as caught:
            device.link.publish(DEVICE, message)
        assert caught.value.code == "link.down"
    bench.restart()
    hub.take_connected()
    device.take_connected()
    device.link.publish(DEVICE, Presence(is_online=True))
    hub.take_message(Presence)
    assert not any(isinstance(arrival, Delivery) for arrival in hub.passed)


def test_publish_before_start_raises(bench: Bench) -> None:
    with pytest.raises(TransientError) as caught:
        bench.link(DEVICE).publish(DEVICE, heartbeat())
    assert caught.value.code == "link.down"


def test_a_message_over_its_limit_is_refused_before_it_is_sent(bench: Bench) -> None:
    device = connected(bench, DEVICE)
    text = "x" * 2000
    records = tuple(
        Record(sequence=i, at_ms=1, body=EventRecord(code="a", text=text)) for i in range(1, 400)
    )
    with pytest.raises(ContractError) as caught:
        device.link.publish(DEVICE, RecordBatch(stream=STREAM, since=0, records=records))
    assert caught.value.code == "wire.too_large"
    with pytest.raises(ContractError) as caught:
        device.link.publish(DEVICE, Watermark(stream="not one", sequence=1))
    assert caught.value.code == "wire.invalid"
    assert device.link.is_connected


def test_garbage_becomes_a_rejection_and_the_link_lives_on(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    for topic in TOPICS:
        sender, taker = (OTHER, hub) if topic.direction == "up" else (HUB_ID, device)
        owner = OTHER if topic.direction == "up" else DEVICE
        if sender == HUB_ID:
            hub.link.stop()
        bench.send_raw(sender, topic.path(owner), b"\xc1 garbage \x00", qos=topic.qos)
        rejection = taker.take(lambda arrival: isinstance(arrival, Rejection))
        assert isinstance(rejection, Rejection)
        assert rejection.path == topic.path(owner)
        assert rejection.error.code == "wire.invalid"
        assert taker.link.is_connected
    assert device.link.rejected_count == 4  # type: ignore[attr-defined]


def test_an_oversized_message_of_a_foreign_program_is_rejected(bench: Bench) -> None:
    hub = connected(bench, HUB_ID)
    topic = BY_NAME["heartbeat"]
    bench.send_raw(OTHER, topic.path(OTHER), bytes(topic.bytes_max + 1), qos=0)
    rejection = hub.take(lambda arrival: isinstance(arrival, Rejection))
    assert isinstance(rejection, Rejection)
    assert rejection.error.code == "wire.too_large"


@pytest.mark.slow
def test_a_thousand_messages_arrive_once_and_in_order(bench: Bench) -> None:
    hub, device = connected(bench, HUB_ID), connected(bench, DEVICE)
    seen: list[int] = []
    for number in range(1, 1001):
        _publish_when_there_is_room(device.link, one_record(number))
    while len(seen) < 1000:
        batch = hub.take_message(RecordBatch).received.message
        assert isinstance(batch, RecordBatch)
        seen.append(batch.records[0].sequence)
    assert seen == list(range(1, 1001))


def test_a_flood_of_one_device_costs_no_other_its_records(bench: Bench) -> None:
    """The hub takes nothing for a while; then everything that was sent at QoS 1 must come."""
    hub = connected(bench, HUB_ID)
    flooder, device = connected(bench, OTHER), connected(bench, DEVICE)
    for _ in range(ARRIVALS_MAX + 200):
        _publish_when_there_is_room(flooder.link, heartbeat(), device=OTHER)
    wait_until(lambda: hub.link.dropped_count > 0, seconds_max=30.0)  # type: ignore[attr-defined]  # both links count it
    records = [one_record(number) for number in range(1, 31)]
    for record in records:
        _publish_when_there_is_room(device.link, record)
    for record in records:
        assert hub.take_message(RecordBatch).received.message == record


def test_a_refused_subscription_never_counts_as_connected(bench: Bench) -> None:
    hub = connected(bench, HUB_ID)
    link = bench.link(DEVICE, filters=((BY_NAME["target"].path(OTHER), 1),))
    link.start()
    arrival = next(link.arrivals(wait_s=10))
    if bench.refuses_subscriptions:
        assert isinstance(arrival, Disconnected)
        assert "refused a subscription" in arrival.reason
        assert not link.is_connected
    else:  # mosquitto says yes, and then delivers nothing.
        assert isinstance(arrival, Connected)
        hub.link.publish(OTHER, Target(revision=1, issued_ms=1))
        Taker(link, quiet_s=bench.quiet_s).assert_nothing()


def one_record(number: int) -> RecordBatch:
    record = Record(sequence=number, at_ms=1, body=EventRecord(code="a", text=""))
    return RecordBatch(stream=STREAM, since=number - 1, records=(record,))


def _publish_when_there_is_room(link: Link, message: Message, *, device: DeviceId = DEVICE) -> None:
    def publish() -> bool:
        try:
            link.publish(device, message)
        except TransientError as error:
            return error.code != "link.full"
        return True

    wait_until(publish)
