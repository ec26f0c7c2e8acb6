"""The rules of a Round: when it begins, whom it asks again, when it closes and counts. Pure.

1. A Round begins when `devices_min` devices and all mandatory ones are there.
2. It closes when all who were asked have answered, or at its deadline.
3. It counts when the valid updates are `quorum` of those asked, at least one, and every mandatory
   device's is among them. Else `on_too_few` says what comes next.
4. A device that was out of reach, or comes with another connection than the one it was asked by,
   has lost the question: it is asked again, ASKS_MAX times in one Round at most, by the same
   connection with growing pauses (a SuperLink that restarts must not use them all up). It answers
   from what it computed before, if it had.
5. A Round that is resumed after a kill has what is left of its deadline by the wall clock, time in
   which nobody ran it included; RESUMED_S_MIN at least, for devices answer at once what they had
   computed, and never more than a new one, whatever was done to the clock.
6. A Round that is repeated keeps what it has; only the others are asked again. A device whose
   update was refused is not: it would send the same bytes.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.training.fleet import AskId
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.order import DEVICES_MAX, JobOrder, OnTooFew
from shared.learning.task import Round
from shared.wire.limits import Count, Name, UnixMs

ASKS_MAX = 8
AGAIN_S_MIN = 1.0
AGAIN_S_MAX = 60.0
LATE_SLACK_S = 5.0
RESUMED_S_MIN = 15.0  # A resumed Round takes what devices have ready, though its time is over
POLL_S = 0.25  # Nobody waits longer at a time: `stop` and deadlines are seen by then


class Opened(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is asked in the Round that runs; on disk before anybody is."""

    round: Round
    repeat: Count
    devices: Annotated[tuple[Name, ...], Meta(max_length=DEVICES_MAX)]
    began_ms: UnixMs = 0  # Of this repetition, its gathering included; 0: not known
    deadline_ms: UnixMs = 0
    bytes_down: Count = 0  # Of all repetitions; on disk before they are sent


class Closing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be said once Round `round` is done; on disk before it is."""

    round: Round
    events: tuple[JobEvent, ...]


class Part(StrEnum):
    """How one device stands in a Round."""

    WAITED_FOR = "waited_for"
    OUT_OF_REACH = "out_of_reach"  # Asked again when it is back
    ANSWERED = "answered"  # Its update is there: counted or held
    REFUSED = "refused"
    FAILED = "failed"


class Next(StrEnum):
    """What follows a Round that has too few."""

    REPEAT = "repeat"
    END = "end"
    FAIL = "fail"


@dataclass(slots=True)
class Asked:
    """One device of a Round."""

    part: Part = Part.WAITED_FOR
    asks: list[AskId] = field(default_factory=list)
    connection: str = ""
    asked_s: float = 0.0  # Monotonic


def is_gathered(order: JobOrder, there: Collection[str]) -> bool:
    """Whether a Round may begin; rule 1."""
    return len(there) >= order.devices_min and set(order.mandatory) <= set(there)


def is_closable(asked: Mapping[str, Asked], *, now_s: float, deadline_s: float) -> bool:
    """Whether a Round closes now; rule 2. Both times by the same clock."""
    open_parts = (Part.WAITED_FOR, Part.OUT_OF_REACH)
    return now_s >= deadline_s or all(one.part not in open_parts for one in asked.values())


def left_s(order: JobOrder, opened: Opened, *, now_ms: int) -> float:
    """Return how long a resumed Round may still take; rule 5."""
    if opened.deadline_ms == 0:
        return order.deadline_s
    left = (opened.deadline_ms - now_ms) / 1000.0
    return min(max(left, RESUMED_S_MIN), order.deadline_s)


def spent_s(opened: Opened, *, now_ms: int) -> float:
    """Return how long a Round has run, before a kill too, by the wall clock."""
    return max(now_ms - opened.began_ms, 0) / 1000.0 if opened.began_ms else 0.0


def to_ask_again(
    asked: Mapping[str, Asked], present: Mapping[str, str], *, now_s: float
) -> tuple[str, ...]:
    """Return who lost the question and is there to hear it again; rule 4. Marks those who left."""
    lost = []
    for device, one in asked.items():
        if one.part is Part.WAITED_FOR and device not in present:
            one.part = Part.OUT_OF_REACH
        if len(one.asks) >= ASKS_MAX or device not in present:
            continue
        if one.part not in (Part.WAITED_FOR, Part.OUT_OF_REACH):
            continue
        is_other = one.connection != present[device]
        is_rested = now_s >= one.asked_s + _pause_s(len(one.asks))
        if is_other or (one.part is Part.OUT_OF_REACH and is_rested):
            lost.append(device)
    return tuple(lost)


def _pause_s(asks_count: int) -> float:
    """Return how long to wait before the same connection is asked once more."""
    return 0.0 if asks_count == 0 else min(AGAIN_S_MIN * 2.0 ** (asks_count - 1), AGAIN_S_MAX)


def quorum_count(order: JobOrder, asked_count: int) -> int:
    """Return how many valid updates make a Round count."""
    return max(1, math.ceil(order.quorum * asked_count - 1e-9))


def is_enough(order: JobOrder, *, asked_count: int, counted: Collection[str]) -> bool:
    """Whether a Round counts; rule 3."""
    enough = len(set(counted)) >= quorum_count(order, asked_count)
    return enough and set(order.mandatory) <= set(counted)


def after_too_few(order: JobOrder, *, repeats_done: int) -> Next:
    """Return what follows a Round without enough, or one for which too few came."""
    match order.on_too_few:
        case OnTooFew.END:
            return Next.END
        case OnTooFew.REPEAT if repeats_done < order.repeats_max:
            return Next.REPEAT
        case _:
            return Next.FAIL


def ttl_s(order: JobOrder, *, left_s: float) -> float:
    """Return how long a question is good for: to the deadline, longer where late ones count."""
    return left_s + order.late.rounds_max * order.deadline_s + LATE_SLACK_S
