"""WebhookSink against a real HTTP server."""

import logging
from pathlib import Path

import pytest

from edge_agent.sinks.http_webhook import WebhookSink
from edge_agent.sinks.opening import SinkSet, open_sinks
from shared.clock import Clock, SystemClock
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import WebhookSinkSettings, Which
from shared.pipeline.sources import CameraSettings
from tests.support.http_streams import free_port
from tests.support.manual_clock import ManualClock
from tests.support.pki import Pki
from tests.support.sink_results import boxes, decided
from tests.support.waiting import wait_until
from tests.support.webhook_receiver import receive

SECRET = "sesame-" * 4


def open_sinks_of(settings: PipelineSettings) -> SinkSet:
    return open_sinks(
        settings, device="dev-1", clock=SystemClock(), hub_sink=lambda _: lambda _: None
    )


def sink_for(url: str, clock: Clock | None = None, **options: object) -> WebhookSink:
    settings = WebhookSinkSettings(**{"url": url, "which": Which.ALL, **options})  # type: ignore[arg-type]
    return WebhookSink(settings, device="dev-1", clock=clock or SystemClock())


def test_decisions_arrive_in_order_each_with_its_key(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{SECRET}\n")
    with receive() as receiver:
        sink = sink_for(receiver.url, token_file=str(token))
        sink.start()
        for i in range(20):
            sink(decided(boxes("car"), i))
        wait_until(lambda: len(receiver.taken) == 20)
        sink.close()
    assert receiver.taken == list(range(20))
    assert [h["Idempotency-Key"] for h in receiver.headers] == [b["id"] for b in receiver.bodies]
    assert len({body["id"] for body in receiver.bodies}) == 20
    assert {h["Authorization"] for h in receiver.headers} == {f"Bearer {SECRET}"}
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert receiver.bodies[0]["device"] == "dev-1"
    assert receiver.bodies[0]["decision"]["outcome"]["type"] == "boxes"
    assert (sink.lost_count, sink.standing) == (0, "")


@pytest.mark.slow
def test_a_receiver_in_trouble_is_asked_again_in_the_same_order() -> None:
    with receive() as receiver:
        receiver.answers = [(503, {}), (429, {"Retry-After": "0"}), (500, {}), (200, {})]
        sink = sink_for(receiver.url)
        sink.start()
        for i in range(3):
            sink(decided(boxes("car"), i))
        wait_until(lambda: len(receiver.taken) == 3)
        sink.close()
    assert receiver.taken == [0, 1, 2]
    assert [body["decision"]["item"] for body in receiver.bodies] == [0, 0, 0, 0, 1, 2]
    assert len({body["id"] for body in receiver.bodies[:4]}) == 1  # The same key each time
    assert sink.lost_count == 0


def test_the_time_that_is_asked_for_is_waited() -> None:
    clock = ManualClock()
    began_s = clock.monotonic_s()
    with receive() as receiver:
        receiver.answers = [(429, {"Retry-After": "90"})]
        sink = sink_for(receiver.url, clock)
        sink(decided(boxes("car"), 0))
        sink.start()
        wait_until(lambda: receiver.taken == [0])
        sink.close()
    assert clock.monotonic_s() - began_s >= 90.0


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 413])
def test_what_is_refused_is_dropped_and_counted(status: int) -> None:
    with receive() as other, receive() as receiver:
        receiver.answers = [(status, {"Location": other.url})]
        sink = sink_for(receiver.url)
        sink.start()
        for i in range(2):
            sink(decided(boxes("car"), i))
        wait_until(lambda: receiver.taken == [1])
        sink.close()
    assert sink.lost_count == 1
    assert other.bodies == []  # No redirect is followed


def test_what_has_waited_too_long_is_dropped_and_counted() -> None:
    clock = ManualClock()
    with receive() as receiver:
        sink = sink_for(receiver.url, clock, age_s_max=60.0)
        sink(decided(boxes("car"), 0))
        clock.advance(61.0)
        sink(decided(boxes("car"), 1))
        sink.start()
        wait_until(lambda: receiver.taken == [1])
        sink.close()
    assert sink.lost_count == 1


@pytest.mark.slow
def test_a_receiver_that_is_away_costs_the_oldest_and_then_hears_the_rest() -> None:
    port = free_port()
    sink = sink_for(f"http://127.0.0.1:{port}/hook", queue_max=5)
    sink.start()
    sink(decided(boxes("car"), 0))
    wait_until(lambda: "refused" in sink.standing)
    for i in range(1, 8):
        sink(decided(boxes("car"), i))
    with receive(port) as receiver:
        wait_until(lambda: len(receiver.taken) == 5)
        sink.close()
    assert receiver.taken == [3, 4, 5, 6, 7]
    assert sink.lost_count == 3


@pytest.mark.slow
def test_what_waits_for_a_receiver_outlives_a_change_of_the_pipelines_settings() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/hook"
    settings = PipelineSettings(
        name="gate",
        model="cars",
        source=CameraSettings(),
        sinks=(WebhookSinkSettings(url=url, which=Which.ALL),),
    )
    first, second = (open_sinks_of(settings) for _ in range(2))
    first.start()
    for i in range(3):
        first.sinks[0](decided(boxes("car"), i))
    wait_until(lambda: first.standings()[0].standing)
    second.sinks[0](decided(boxes("car"), 3))
    second.take_over(first)
    first.close()
    assert first.standings()[0].lost_count == 0
    with receive(port) as receiver:
        second.start()
        wait_until(lambda: len(receiver.taken) == 4)
        second.close()
    assert receiver.taken == [0, 1, 2, 3]


def test_what_waits_for_one_receiver_never_goes_to_another() -> None:
    one, other = (sink_for(f"http://127.0.0.1:{port}/hook") for port in (1, 2))
    one(decided(boxes("car"), 0))
    other.take_over(one)
    one.close()
    other.close()
    assert (one.lost_count, other.lost_count) == (1, 0)


@pytest.mark.slow
def test_a_receiver_that_says_nothing_holds_nobody_for_long() -> None:
    with receive() as receiver:
        receiver.is_silent = True
        sink = sink_for(receiver.url, timeout_s=0.2)
        sink.start()
        sink(decided(boxes("car"), 0))
        wait_until(lambda: "timed out" in sink.standing)
        sink.close()
    assert sink.lost_count == 1  # What was left when it closed


def test_a_connection_that_was_closed_while_it_waited_is_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with receive() as receiver:
        receiver.is_closing = True
        sink = sink_for(receiver.url)
        sink.start()
        for i in range(3):
            sink(decided(boxes("car"), i))
            wait_until(lambda i=i: receiver.closed_count == i + 1)  # type: ignore[misc]
        sink.close()
    assert receiver.taken == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.slow
def test_an_answer_that_never_ends_is_cut_off() -> None:
    with receive() as receiver:
        receiver.is_talking, receiver.answers = True, [(200, {})] * 3
        sink = sink_for(receiver.url, timeout_s=0.2)
        sink.start()
        for i in range(3):
            sink(decided(boxes("car"), i))
        wait_until(lambda: len(receiver.taken) == 3)
        sink.close()
    assert (sink.lost_count, sink.standing) == (0, "")


@pytest.mark.slow
def test_over_tls_only_the_named_authority_is_trusted(tmp_path: Path) -> None:
    pki, strangers = Pki(tmp_path / "pki"), Pki(tmp_path / "strangers")
    pki.issue("server", is_server=True)
    with receive(pki=pki) as receiver:
        wrong = sink_for(receiver.url, ca_file=str(strangers.ca_path))
        wrong.start()
        wrong(decided(boxes("car"), 0))
        wait_until(lambda: "CERTIFICATE" in wrong.standing.upper())
        wrong.close()
        assert receiver.bodies == []
        sink = sink_for(receiver.url, ca_file=str(pki.ca_path))
        sink.start()
        sink(decided(boxes("car"), 1))
        wait_until(lambda: receiver.taken == [1])
        sink.close()


def test_neither_the_token_nor_a_decision_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_text(f"{SECRET}\x01bad")
    with receive() as receiver:
        sink = sink_for(receiver.url, token_file=str(token))
        sink.start()
        sink(decided(boxes("submarine"), 0))
        wait_until(lambda: sink.standing)
        token.write_text(SECRET)
        receiver.answers = [(400, {})]
        wait_until(lambda: sink.lost_count == 1)
        sink.close()
    told = "".join(f"{record.getMessage()}{record.__dict__}" for record in caplog.records)
    assert "webhook.failed" in told
    assert SECRET not in told
    assert "submarine" not in told
