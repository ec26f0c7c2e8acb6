"""Combining windows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_hub.telemetry.rollup import combine, combine_over_time, weighted_median
from shared.wire.records import LABELS_MAX
from tests.support.record_bodies import telemetry_record


def test_counts_add_up_and_maxima_are_kept() -> None:
    totals = combine(
        [
            telemetry_record(items_in=10, items_decided=8, items_dropped=1, items_failed=1),
            telemetry_record(
                items_in=30, items_decided=24, items_dropped=3, items_failed=3, latency_ms_max=99.0
            ),
        ]
    )
    assert (totals.windows_count, totals.window_s) == (2, 20.0)
    assert (totals.items_in, totals.items_decided) == (40, 32)
    assert (totals.items_dropped, totals.items_failed) == (4, 4)
    assert totals.latency_ms_max == 99.0
    assert totals.labels == {"7": 120, "1": 70}
    assert totals.decided_per_s == 1.6
    assert totals.failed_share == 4 / 36


def test_means_and_medians_are_weighted_by_decided_items() -> None:
    totals = combine(
        [
            telemetry_record(items_decided=1, confidence_mean=0.0, latency_ms_p50=1000.0),
            telemetry_record(items_decided=99, confidence_mean=0.5, latency_ms_p50=10.0),
            telemetry_record(items_decided=1, confidence_mean=1.0, latency_ms_p50=1000.0),
        ]
    )
    assert totals.latency_ms_p50 == 10.0
    assert totals.confidence_mean == pytest.approx((49.5 + 1.0) / 101)


def test_a_window_in_which_nothing_was_decided_says_nothing_about_latency() -> None:
    idle = telemetry_record(items_decided=0, items_failed=5, latency_ms_p50=0.0, labels={})
    assert combine([idle]).latency_ms_p50 is None
    assert combine([idle]).confidence_mean is None
    assert combine([idle]).failed_share == 1.0
    assert combine([idle, telemetry_record(latency_ms_p50=7.0)]).latency_ms_p50 == 7.0


def test_no_windows_are_no_items_and_unknown_latency() -> None:
    totals = combine([])
    assert totals.windows_count == totals.items_in == 0
    assert totals.latency_ms_p95 is None
    assert totals.failed_share == totals.decided_per_s == 0.0


def test_labels_stay_bounded() -> None:
    windows = [telemetry_record(labels={f"label {n}": n + 1}) for n in range(3 * LABELS_MAX)]
    labels = combine(windows).labels
    assert len(labels) == LABELS_MAX
    assert max(labels.values()) == 3 * LABELS_MAX


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 50)), min_size=1))
def test_the_weighted_median_is_the_median_of_repeated_values(
    pairs: list[tuple[float, int]],
) -> None:
    repeated = sorted(value for value, weight in pairs for _ in range(weight))
    values, weights = zip(*pairs, strict=True)
    expected = repeated[(len(repeated) - 1) // 2] if repeated else None
    assert weighted_median(values, weights) == expected


def test_points_are_bounded_in_order_and_hold_every_window() -> None:
    told = [(1000 * n, telemetry_record(items_in=1)) for n in reversed(range(100))]
    points = combine_over_time(told, points_max=7)
    assert len(points) == 7
    assert [p.at_ms for p in points] == sorted(p.at_ms for p in points)
    assert sum(p.totals.items_in for p in points) == 100


def test_a_stretch_without_windows_has_no_point() -> None:
    told = [(0, telemetry_record()), (99_999, telemetry_record())]
    assert len(combine_over_time(told, points_max=10)) == 2
    assert combine_over_time([], points_max=10) == ()
