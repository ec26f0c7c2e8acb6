"""RunWatch: a run that computes without end is found; one that waits or is slow is let be."""

import pytest

from edge_agent.inference.run_watch import CPU_FACTOR, CPU_S_MIN, LaneLook, RunWatch


def computing(cpu_s: float | None, *, turn: int = 0) -> LaneLook:
    return LaneLook(turn, is_busy=True, cpu_s=cpu_s)


def test_a_run_that_computes_past_the_limit_is_found_in_its_own_lane() -> None:
    watch = RunWatch(0.002)
    for tick in range(4):  # The other lane goes on: every look sees another run
        lanes = [computing(7.0 + tick * 0.1), computing(3.0 + tick, turn=tick)]
        assert watch.look(lanes, rows_max=1) is None
    lanes = [computing(7.0 + CPU_S_MIN + 0.1), computing(9.0, turn=9)]
    assert watch.look(lanes, rows_max=1) == pytest.approx(CPU_S_MIN + 0.1)


def test_a_run_that_gets_no_processor_is_let_be() -> None:
    watch = RunWatch(0.002)
    assert all(watch.look([computing(1.0)], rows_max=1) is None for _ in range(1000))


def test_a_slow_model_and_a_large_batch_have_their_time() -> None:
    first_cpu_s = 0.5
    for rows in (1, 8):
        watch = RunWatch(first_cpu_s)
        limit_s = CPU_FACTOR * first_cpu_s * rows
        assert watch.look([computing(0.0)], rows_max=rows) is None
        assert watch.look([computing(limit_s)], rows_max=rows) is None
        assert watch.look([computing(limit_s + 0.1)], rows_max=rows) is not None


def test_between_runs_nothing_is_held_against_a_lane() -> None:
    watch = RunWatch(0.0)
    assert watch.look([computing(0.0)], rows_max=1) is None
    assert watch.look([LaneLook(0, is_busy=False, cpu_s=None)], rows_max=1) is None
    assert watch.look([computing(10.0)], rows_max=1) is None  # Begun since: counts from here


def test_without_procfs_nothing_is_found() -> None:
    watch = RunWatch(0.0)
    assert all(watch.look([computing(None)], rows_max=1) is None for _ in range(3))
