"""Delays double up to a ceiling, are spread by half, and begin anew after a success."""

import pytest

from shared.backoff import Backoff


def delays(count: int, *, seed: int = 1) -> list[float]:
    backoff = Backoff(delay_s_min=1.0, delay_s_max=60.0, seed=seed)
    return [backoff.next_delay_s() for _ in range(count)]


def test_each_delay_is_between_half_and_all_of_a_ceiling_that_doubles() -> None:
    ceilings = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    for seed in range(50):
        for delay_s, ceiling_s in zip(delays(9, seed=seed), ceilings, strict=True):
            assert ceiling_s / 2 <= delay_s <= ceiling_s


def test_devices_that_failed_together_do_not_come_back_together() -> None:
    fifth = {round(delays(5, seed=seed)[-1], 3) for seed in range(100)}
    assert len(fifth) > 90
    assert max(fifth) - min(fifth) > 6.0


def test_the_same_seed_gives_the_same_delays() -> None:
    assert delays(5, seed=7) == delays(5, seed=7)


def test_without_a_seed_two_differ() -> None:
    first, second = (Backoff(delay_s_min=1.0, delay_s_max=2.0) for _ in range(2))
    assert [first.next_delay_s() for _ in range(5)] != [second.next_delay_s() for _ in range(5)]


def test_after_a_success_the_delays_are_short_again() -> None:
    backoff = Backoff(delay_s_min=1.0, delay_s_max=60.0, seed=1)
    for _ in range(10):
        backoff.next_delay_s()
    backoff.reset()
    assert backoff.next_delay_s() <= 1.0


@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_limits_that_make_no_sense_are_our_own_bug(least: float, most: float) -> None:
    with pytest.raises(AssertionError):
        Backoff(delay_s_min=least, delay_s_max=most)
