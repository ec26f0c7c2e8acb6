"""The conditions under which a device may learn."""

from dataclasses import replace
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest

from edge_agent.training.eligibility import Conditions, is_within, obstacles, too_few_samples
from edge_agent.training.settings import LearningSettings, SampleSettings

SETTINGS = LearningSettings(samples=(SampleSettings(model="digits", path="/samples"),))
GOOD = Conditions(
    local_time=time(12),
    cores_count=4,
    is_on_battery=False,
    temperature_c=40.0,
    load=0.5,
    is_metered=False,
    memory_free_bytes=2 << 30,
)


def codes(
    conditions: Conditions, settings: LearningSettings = SETTINGS, *, is_learning: bool = False
) -> list[str]:
    return [found.code for found in obstacles(settings, conditions, is_learning=is_learning)]


def test_what_cannot_be_told_stands_in_nobodys_way() -> None:
    assert codes(GOOD) == []
    assert codes(Conditions(local_time=time(12), cores_count=1)) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"is_on_battery": True}, "eligibility.battery"),
        ({"temperature_c": 75.1}, "eligibility.temperature"),
        ({"load": 3.7}, "eligibility.load"),
        ({"is_metered": True}, "eligibility.metered"),
        ({"memory_free_bytes": 399 << 20}, "eligibility.memory"),
        ({"is_clock_trusted": False}, "eligibility.clock"),
    ],
)
def test_each_condition_has_its_code(change: dict[str, object], code: str) -> None:
    assert codes(replace(GOOD, **change)) == [code]  # type: ignore[arg-type]


def test_every_obstacle_is_told() -> None:
    assert len(codes(replace(GOOD, is_metered=True, temperature_c=90.0, load=9.0))) == 3


@pytest.mark.parametrize(
    ("change", "past"),
    [
        ({"temperature_c": 79.0}, {"temperature_c": 81.0}),
        ({"load": 5.3}, {"load": 5.5}),  # One of them is its own
        ({"memory_free_bytes": 101 << 20}, {"memory_free_bytes": 99 << 20}),
    ],
)
def test_what_goes_on_is_ended_only_past_the_margin(
    change: dict[str, object], past: dict[str, object]
) -> None:
    at_limit = replace(GOOD, **change)  # type: ignore[arg-type]
    assert codes(at_limit) != []
    assert codes(at_limit, is_learning=True) == []
    assert codes(replace(GOOD, **past), is_learning=True) != []  # type: ignore[arg-type]


def test_a_battery_has_a_level_and_a_margin() -> None:
    owner = LearningSettings(samples=SETTINGS.samples, on_battery=True)
    low = replace(GOOD, is_on_battery=True, battery_share=0.27)
    assert codes(low, owner) == ["eligibility.battery_level"]
    assert codes(low, owner, is_learning=True) == []
    assert codes(replace(low, battery_share=0.24), owner, is_learning=True) != []


@pytest.mark.parametrize(
    ("start", "end", "now", "is_in"),
    [
        ("22:00", "06:00", time(22, 0), True),
        ("22:00", "06:00", time(5, 59, 59), True),
        ("22:00", "06:00", time(6, 0), False),
        ("22:00", "06:00", time(21, 59), False),
        ("09:00", "17:00", time(0, 0), False),
        ("09:00", "17:00", time(9, 0), True),
        ("08:00", "08:00", time(3, 0), True),
    ],
)
def test_hours_go_across_midnight(start: str, end: str, now: time, is_in: bool) -> None:
    assert is_within(now, start=start, end=end) is is_in


def test_a_change_to_summer_time_moves_no_limit() -> None:
    begin = datetime(2026, 3, 28, 20, tzinfo=UTC).timestamp()
    for minute in range(24 * 60):
        local = datetime.fromtimestamp(begin + 60 * minute, ZoneInfo("Europe/Berlin"))
        wall = f"{local:%H:%M}"
        expected = wall >= "22:00" or wall < "06:00"
        assert is_within(local.time(), start="22:00", end="06:00") is expected


def test_samples_count_by_the_stricter_of_job_and_owner() -> None:
    def few(count: int, asked: int) -> bool:
        found = too_few_samples(SETTINGS, model="digits", samples_count=count, samples_min=asked)
        return found is not None

    assert few(0, 0)
    assert not few(1, 0)
    assert few(9, 10)
