"""Policy: may samples leave now, and how many more today. Pure.

1. Every condition that stands in the way is told. What cannot be read of the machine stands in
   nobody's way, as in eligibility.py - but for the kind of network and the power, that is what
   `on_metered` and `on_battery` are about, and a machine that has neither cannot say so.
2. What was sent within the last 24 hours counts, also what a wrong clock has put into the future:
   setting the clock back frees nothing.
3. An item that does not fit into what is left of a day waits until it does; one that can never fit
   is never sent.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_agent.sharing.settings import SharingSettings
from edge_agent.training.eligibility import (
    BATTERY,
    BATTERY_LEVEL,
    HOURS,
    METERED,
    Conditions,
    Obstacle,
    is_within,
)

DAY_MS = 86_400_000
LEFT = "sharing.day_spent"


@dataclass(frozen=True, slots=True)
class Sending:
    """One item that was sent, or was about to be."""

    digest: str
    bytes_count: int
    at_ms: int
    dataset: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much more may leave now, of the day's."""

    items_count: int
    bytes_count: int

    def has_room_for(self, bytes_count: int) -> bool:
        """Return whether an item of this size may leave."""
        return self.items_count >= 1 and bytes_count <= self.bytes_count

    @property
    def is_spent(self) -> bool:
        """Return whether nothing at all may leave."""
        return self.items_count < 1 or self.bytes_count < 1


def allowance(settings: SharingSettings, sent: Iterable[Sending], *, now_ms: int) -> Allowance:
    """Return what is left of the day, after what was sent."""
    items, size = settings.items_per_day_max, settings.bytes_per_day_max
    for sending in sent:
        if sending.at_ms > now_ms - DAY_MS:
            items -= 1
            size -= sending.bytes_count
    return Allowance(max(0, items), max(0, size))


def can_ever_leave(settings: SharingSettings, bytes_count: int) -> bool:
    """Return whether an item of this size could leave on an empty day."""
    return 0 < bytes_count <= min(settings.item_bytes_max, settings.bytes_per_day_max)


def obstacles(settings: SharingSettings, conditions: Conditions) -> tuple[Obstacle, ...]:
    """Return everything that keeps samples from leaving now; empty: they may."""
    return tuple(_obstacles(settings, conditions))


def _obstacles(settings: SharingSettings, conditions: Conditions) -> Iterator[Obstacle]:
    if conditions.is_on_battery:
        share = conditions.battery_share
        if not settings.on_battery:
            yield Obstacle(BATTERY, "It runs from its battery (sharing.on_battery is false).")
        if share is not None and share < settings.battery_share_min:
            yield Obstacle(
                BATTERY_LEVEL,
                f"Its battery is at {share:.0%}, below sharing.battery_share_min = "
                f"{settings.battery_share_min:g}.",
            )
    if settings.hours_from is not None and settings.hours_to is not None:
        now = conditions.local_time
        if not is_within(now, start=settings.hours_from, end=settings.hours_to):
            yield Obstacle(
                HOURS,
                f"It is {now:%H:%M}, outside sharing.hours_from = {settings.hours_from} to "
                f"sharing.hours_to = {settings.hours_to}.",
            )
    if conditions.is_metered and not settings.on_metered:
        yield Obstacle(
            METERED,
            f"Its way out is the mobile network {conditions.network} "
            "(sharing.on_metered is false).",
        )
