"""StreamClock: streams that jitter, drift, jump, stall and lie about their time."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources.stream_clock import (
    DELAY_S_MAX,
    HORIZON_S,
    PROOF_S,
    StreamClock,
)

FPS = 25.0
START_S = 5000.0  # Of our clock; the stream counts from anywhere


def play(
    seconds: float,
    *,
    delay_s: Callable[[float], float] = lambda _: 0.0,
    to_stream: Callable[[float], float | None] = lambda made_s: made_s + 77.0,
) -> tuple[StreamClock, list[tuple[float, float, float]]]:
    """Return a clock after a stream, and (made, arrival, captured) of each frame.

    Args: `delay_s` of a frame by when it was made (from 0); `to_stream` its stream time.
    """
    clock, rows, arrival_s = StreamClock(), [], 0.0
    for index in range(int(seconds * FPS)):
        made_s = index / FPS
        arrival_s = max(arrival_s, START_S + made_s + delay_s(made_s))  # In order, as TCP gives it
        captured_s = clock.captured_s(to_stream(made_s), arrival_s)
        rows.append((START_S + made_s, arrival_s, captured_s))
    return clock, rows


def errors_of(rows: list[tuple[float, float, float]], *, after_s: float) -> list[float]:
    return [captured - made for made, _, captured in rows if made - START_S > after_s]


def test_jitter_of_the_network_is_taken_out() -> None:
    dice = random.Random(3)
    clock, rows = play(60.0, delay_s=lambda _: 0.05 + dice.uniform(0.0, 0.2))
    assert clock.is_proven
    errors = errors_of(rows, after_s=2 * PROOF_S)
    assert max(errors) - min(errors) < 0.03  # The delays differ by 0.2
    assert 0.05 <= min(errors) < 0.08  # The constant part of the delay cannot be known


def test_until_proven_a_frame_is_captured_when_it_arrives() -> None:
    dice = random.Random(4)
    _, rows = play(PROOF_S - 0.5, delay_s=lambda _: dice.uniform(0.0, 0.2))
    assert all(captured == arrival for _, arrival, captured in rows)


@pytest.mark.parametrize("drift", [-0.002, 0.002])
def test_clocks_may_drift_for_hours(drift: float) -> None:
    clock, rows = play(3600.0, to_stream=lambda made_s: made_s * (1.0 + drift))
    assert clock.is_proven
    assert all(
        abs(error) <= 2 * HORIZON_S * abs(drift) + 0.01 for error in errors_of(rows, after_s=0)
    )


def test_frames_that_waited_at_the_server_do_not_put_off_the_proof() -> None:
    clock, rows = play(PROOF_S + 2.5, delay_s=lambda made_s: max(0.0, 2.0 - made_s))
    assert clock.is_proven
    assert rows[-1][2] == pytest.approx(rows[-1][0], abs=0.01)


def test_a_burst_after_a_stall_of_the_network_keeps_its_times() -> None:
    clock, rows = play(40.0, delay_s=lambda made_s: max(0.0, 23.0 - made_s) if made_s > 20 else 0.0)
    assert clock.is_proven
    assert max(arrival - made for made, arrival, _ in rows) > 2.9
    assert max(map(abs, errors_of(rows, after_s=0))) < 0.01


@pytest.mark.parametrize("jump_s", [-1000.0, -3.0, 3.0, 1000.0])
def test_a_jump_of_the_streams_time_is_not_believed(jump_s: float) -> None:
    clock, rows = play(40.0, to_stream=lambda made_s: made_s + (jump_s if made_s > 20.0 else 0.0))
    assert clock.is_proven
    assert max(map(abs, errors_of(rows, after_s=0))) < 0.01


@pytest.mark.parametrize("speed", [0.0, 0.2, 0.9, 1.2, 25.0])
def test_a_stream_that_only_counts_frames_is_not_trusted(speed: float) -> None:
    clock, rows = play(60.0, to_stream=lambda made_s: made_s * speed)
    assert not clock.is_proven
    assert all(captured == arrival for _, arrival, captured in rows)


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_without_a_stream_time_a_frame_is_captured_when_it_arrives(nothing: float | None) -> None:
    dice = random.Random(5)
    clock, rows = play(20.0, delay_s=lambda _: dice.random(), to_stream=lambda _: nothing)
    assert not clock.is_proven
    assert all(captured == arrival for _, arrival, captured in rows)


def test_a_frame_that_would_be_very_old_is_not_believed() -> None:
    # The stream's time stands still after it was trusted: a camera whose clock hangs.
    clock, rows = play(60.0, to_stream=lambda made_s: min(made_s, 20.0))
    assert not clock.is_proven
    assert max(arrival - captured for _, arrival, captured in rows) <= DELAY_S_MAX
    assert rows[-1][1] - rows[-1][2] < 0.001


def test_opened_anew_it_has_to_prove_itself_again() -> None:
    clock, _ = play(20.0)
    clock.start_again()
    assert not clock.is_proven
    assert clock.captured_s(0.0, START_S + 20.0) == START_S + 20.0


@given(
    st.lists(
        st.tuples(st.floats(-100, 1e9) | st.just(float("nan")) | st.none(), st.floats(0.0, 20.0)),
        max_size=100,
    )
)
def test_whatever_comes_times_only_go_on_and_never_lie_ahead(
    frames: list[tuple[float | None, float]],
) -> None:
    clock, arrival_s, before_s = StreamClock(), 100.0, 0.0
    for stream_s, pause_s in frames:
        arrival_s += pause_s
        captured_s = clock.captured_s(stream_s, arrival_s)
        assert before_s <= captured_s <= arrival_s
        assert captured_s >= arrival_s - DELAY_S_MAX or captured_s == before_s
        before_s = captured_s
