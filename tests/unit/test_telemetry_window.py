"""TelemetryWindow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.decisions.decision import Decision, MissedItem
from edge_agent.telemetry.window import OTHER_LABEL, RESERVOIR_ITEMS_MAX, TelemetryWindow
from shared.ids import DeviceId, SessionId
from shared.wire.codec import encode
from shared.wire.records import (
    LABELS_MAX,
    Box,
    Classified,
    Detected,
    Outcome,
    Record,
    RecordBatch,
    Scored,
    TelemetryRecord,
)

DEVICE = DeviceId("dev-1")


def decision(
    *,
    version: int = 1,
    outcome: Outcome | None = None,
    confidence: float = 0.5,
    latency_ms: float = 5.0,
    inference_ms: float = 3.0,
    swap_pause_ms: float = 0.0,
    is_held: bool = False,
) -> Decision:
    return Decision(
        pipeline="door",
        model="digits",
        version=version,
        item=0,
        captured_ms=0,
        outcome=outcome or Classified(label="7", confidence=confidence),
        confidence=confidence,
        latency_ms=latency_ms,
        inference_ms=inference_ms,
        swap_pause_ms=swap_pause_ms,
        is_held=is_held,
    )


def new_window() -> TelemetryWindow:
    return TelemetryWindow("door", "digits", 1, started_s=100.0, seed=1)


def close(window: TelemetryWindow) -> TelemetryRecord:
    return window.close(now_s=110.0, items_in=0, items_dropped=0)


def is_valid_on_the_wire(record: TelemetryRecord) -> bool:
    records = (Record(sequence=1, at_ms=0, body=record),)
    batch = RecordBatch(stream="0" * 16, since=0, records=records)
    return bool(encode(batch, session_id=SessionId("0" * 16), sent_ms=0))


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_percentiles_are_those_of_numpy_while_all_items_fit(latencies: list[float]) -> None:
    window = new_window()
    for latency_ms in latencies:
        window.add(decision(latency_ms=latency_ms, inference_ms=latency_ms / 2))
    record = close(window)
    assert record.latency_ms_p50 == pytest.approx(np.percentile(latencies, 50))
    assert record.latency_ms_p95 == pytest.approx(np.percentile(latencies, 95))
    assert record.inference_ms_p95 == pytest.approx(np.percentile(latencies, 95) / 2)
    assert record.latency_ms_max == max(latencies)
    assert is_valid_on_the_wire(record)


def test_past_the_reservoir_the_sample_stays_fair_and_the_counts_exact() -> None:
    window = new_window()
    count = 20 * RESERVOIR_ITEMS_MAX
    for n in range(count):  # Rising: a sample of the first or the last items would be far off
        window.add(decision(latency_ms=float(n), confidence=n / count))
    record = close(window)
    assert record.items_decided == count
    assert record.latency_ms_p50 == pytest.approx(count / 2, rel=0.1)
    assert record.latency_ms_p95 == pytest.approx(count * 0.95, rel=0.05)
    assert record.latency_ms_max == count - 1
    assert record.confidence_mean == pytest.approx(0.5, abs=1e-3)
    assert len(window._sample) == RESERVOIR_ITEMS_MAX


def test_counts_times_and_pauses() -> None:
    window = new_window()
    window.add(decision(swap_pause_ms=12.0))
    window.add(decision(swap_pause_ms=3.0))
    window.add(MissedItem("door", "digits", 1, item=3, code="inference.failed"))
    record = window.close(now_s=107.5, items_in=9, items_dropped=4)
    assert (record.pipeline, record.model, record.version) == ("door", "digits", 1)
    assert record.window_s == 7.5
    assert (record.items_in, record.items_dropped) == (9, 4)
    assert (record.items_decided, record.items_failed) == (2, 1)
    assert record.swap_pause_ms_max == 12.0


def test_what_was_held_counts_but_has_no_part_in_the_times_of_inference() -> None:
    window = new_window()
    for run_ms in (3.0, 5.0):
        window.add(decision(inference_ms=run_ms, latency_ms=run_ms + 1.0))
    for _ in range(98):
        window.add(decision(inference_ms=0.0, latency_ms=0.5, is_held=True))
    record = close(window)
    assert record.items_decided == 100
    assert (record.latency_ms_p50, record.latency_ms_max) == (0.5, 6.0)
    assert record.inference_ms_p50 == pytest.approx(4.0)
    assert record.inference_ms_p95 == pytest.approx(4.9)


def test_a_window_in_which_everything_was_held_tells_no_time_of_inference() -> None:
    window = new_window()
    window.add(decision(inference_ms=0.0, is_held=True))
    record = close(window)
    assert (record.inference_ms_p50, record.inference_ms_p95) == (0.0, 0.0)
    assert is_valid_on_the_wire(record)


@pytest.mark.parametrize(
    ("outcome", "labels"),
    [
        (Classified(label="7", confidence=1.0), {"7": 1}),
        (
            Detected(boxes=(Box("car", 1, 0, 0, 1, 1), Box("car", 1, 0, 0, 1, 1))),
            {"car": 2},
        ),
        (Detected(boxes=()), {}),
        (Scored(score=1.0, threshold=0.5, is_anomalous=True), {"anomalous": 1}),
        (Scored(score=0.1, threshold=0.5, is_anomalous=False), {"normal": 1}),
    ],
)
def test_labels_by_kind_of_outcome(outcome: Outcome, labels: dict[str, int]) -> None:
    window = new_window()
    window.add(decision(outcome=outcome))
    assert close(window).labels == labels


def test_labels_past_the_limit_are_counted_together() -> None:
    window = new_window()
    for n in range(LABELS_MAX + 10):
        window.add(decision(outcome=Classified(label=str(n), confidence=1.0)))
    window.add(decision(outcome=Classified(label="0", confidence=1.0)))
    record = close(window)
    assert len(record.labels) == LABELS_MAX
    assert record.labels[OTHER_LABEL] == 11
    assert record.labels["0"] == 2
    assert is_valid_on_the_wire(record)


def test_an_empty_window_is_valid() -> None:
    record = close(new_window())
    assert record.items_decided == 0
    assert is_valid_on_the_wire(record)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5.0, 1e300])
def test_impossible_numbers_do_not_spoil_the_window(value: float) -> None:
    window = new_window()
    window.add(
        decision(confidence=value, latency_ms=value, inference_ms=value, swap_pause_ms=value)
    )
    assert is_valid_on_the_wire(close(window))


def test_a_window_is_of_one_release() -> None:
    window = new_window()
    assert window.takes(decision(version=1))
    assert not window.takes(decision(version=2))
    with pytest.raises(AssertionError):
        window.add(decision(version=2))


def test_a_clock_that_stands_still_gives_no_negative_time() -> None:
    assert new_window().close(now_s=99.0, items_in=-1, items_dropped=-1).window_s == 0.0
