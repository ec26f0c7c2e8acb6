"""Eligibility: may the device learn now, by the conditions its owner set. Pure.

1. Every condition that stands in the way is told, not only the first.
2. So that learning does not start and stop at a limit: it begins only within the limit, and what
   goes on is ended only when the limit is passed by the margin named here. Hours, kind of network
   and battery or mains have no margin: they do not waver.
3. Learning is itself load and takes memory: what its own threads add is not held against it, and
   memory counts in full only before it begins.
4. What cannot be read stands in nobody's way: a machine without a battery, a thermal sensor or a
   known route learns.
5. Hours are local wall-clock time: from `hours_from` on, until before `hours_to`, across midnight
   where that is the lower one; equal ones mean always. A change to summer time moves nothing: it is
   the clock on the wall that counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import time

from edge_agent.training.settings import LearningSettings

BATTERY_SHARE_MARGIN = 0.05
TEMPERATURE_C_MARGIN = 5.0
LOAD_MARGIN = 0.2  # Of the load for each core
MEMORY_LEFT_SHARE = 0.25  # Of memory_bytes_min, below which learning ends

BATTERY = "eligibility.battery"
BATTERY_LEVEL = "eligibility.battery_level"
TEMPERATURE = "eligibility.temperature"
LOAD = "eligibility.load"
HOURS = "eligibility.hours"
CLOCK = "eligibility.clock"
METERED = "eligibility.metered"
MEMORY = "eligibility.memory"
SAMPLES = "eligibility.samples"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was read of the device; None: it cannot be told."""

    local_time: time
    cores_count: int
    is_clock_trusted: bool = True
    is_on_battery: bool | None = None
    battery_share: float | None = None  # 0..1
    temperature_c: float | None = None
    load: float | None = None  # 1-minute load, of the whole machine
    is_metered: bool | None = None
    network: str = ""  # The interface that the default route leaves by
    memory_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why not now, with a stable code."""

    code: str
    text: str


def obstacles(
    settings: LearningSettings, conditions: Conditions, *, is_learning: bool
) -> tuple[Obstacle, ...]:
    """Return everything that keeps the device from learning now; empty: it may.

    Args: is_learning: the learning process runs; then the margins count (rules 2 and 3).
    """
    return (
        *_of_power(settings, conditions, is_learning=is_learning),
        *_of_temperature(settings, conditions, is_learning=is_learning),
        *_of_load(settings, conditions, is_learning=is_learning),
        *_of_time(settings, conditions),
        *_of_network(settings, conditions),
        *_of_memory(settings, conditions, is_learning=is_learning),
    )


def too_few_samples(
    settings: LearningSettings, *, model: str, samples_count: int, samples_min: int
) -> Obstacle | None:
    """Return what stands in the way of one Job: fewer samples than it or the owner asks for."""
    needed = max(samples_min, settings.samples_min)
    if samples_count >= needed:
        return None
    return Obstacle(
        SAMPLES,
        f"{samples_count} labelled samples of {model} are here, {needed} are needed "
        "(learning.samples_min, or what the Job asks).",
    )


def is_within(now: time, *, start: str, end: str) -> bool:
    """Return whether `now` is from `start` until before `end`, both "HH:MM"; see rule 5."""
    minute, first, last = now.hour * 60 + now.minute, _minute(start), _minute(end)
    if first == last:
        return True
    if first < last:
        return first <= minute < last
    return minute >= first or minute < last


def _of_power(
    settings: LearningSettings, conditions: Conditions, *, is_learning: bool
) -> Iterator[Obstacle]:
    if not conditions.is_on_battery:
        return
    if not settings.on_battery:
        yield Obstacle(BATTERY, "It runs from its battery (learning.on_battery is false).")
    share_min = settings.battery_share_min - (BATTERY_SHARE_MARGIN if is_learning else 0.0)
    if conditions.battery_share is not None and conditions.battery_share < share_min:
        yield Obstacle(
            BATTERY_LEVEL,
            f"Its battery is at {conditions.battery_share:.0%}, below "
            f"learning.battery_share_min = {settings.battery_share_min:g}.",
        )


def _of_temperature(
    settings: LearningSettings, conditions: Conditions, *, is_learning: bool
) -> Iterator[Obstacle]:
    limit = settings.temperature_c_max + (TEMPERATURE_C_MARGIN if is_learning else 0.0)
    if conditions.temperature_c is not None and conditions.temperature_c > limit:
        yield Obstacle(
            TEMPERATURE,
            f"It is at {conditions.temperature_c:.0f} °C, above "
            f"learning.temperature_c_max = {settings.temperature_c_max:g}.",
        )


def _of_load(
    settings: LearningSettings, conditions: Conditions, *, is_learning: bool
) -> Iterator[Obstacle]:
    if conditions.load is None:
        return
    cores = max(1, conditions.cores_count)
    own = min(settings.threads, cores) if is_learning else 0
    load = max(0.0, conditions.load - own) / cores
    if load > settings.load_max + (LOAD_MARGIN if is_learning else 0.0):
        yield Obstacle(
            LOAD,
            f"Other work loads each of its cores with {load:.2f}, above "
            f"learning.load_max = {settings.load_max:g}.",
        )


def _of_time(settings: LearningSettings, conditions: Conditions) -> Iterator[Obstacle]:
    if not conditions.is_clock_trusted:
        yield Obstacle(
            CLOCK,
            "Its clock is behind the hub's orders; set it (timedatectl set-ntp true).",
        )
    if settings.hours_from is None or settings.hours_to is None:
        return
    if not is_within(conditions.local_time, start=settings.hours_from, end=settings.hours_to):
        yield Obstacle(
            HOURS,
            f"It is {conditions.local_time:%H:%M}, outside learning.hours_from = "
            f"{settings.hours_from} to learning.hours_to = {settings.hours_to}.",
        )


def _of_network(settings: LearningSettings, conditions: Conditions) -> Iterator[Obstacle]:
    if conditions.is_metered and not settings.on_metered:
        yield Obstacle(
            METERED,
            f"Its way out is the mobile network {conditions.network} "
            "(learning.on_metered is false).",
        )


def _of_memory(
    settings: LearningSettings, conditions: Conditions, *, is_learning: bool
) -> Iterator[Obstacle]:
    free = conditions.memory_free_bytes
    share = MEMORY_LEFT_SHARE if is_learning else 1.0
    if free is not None and free < settings.memory_bytes_min * share:
        yield Obstacle(
            MEMORY,
            f"{free >> 20} MiB of memory are free, fewer than learning.memory_bytes_min = "
            f"{settings.memory_bytes_min >> 20} MiB.",
        )


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)
