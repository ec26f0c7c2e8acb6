"""What one pipeline says on a local broker: one topic for each thing that has a state. Pure.

1. Under `<prefix>/<device>/<pipeline>/`: `decision`, each decision that is due, as JSON, not
   retained; `availability`, "online" or "offline", retained; and the states below, each retained
   and sent when it is another one.
2. `class` and `confidence`; `objects/all` and `objects/<label>`, how many there are;
   `lines/<line>/<direction>`, how many went over since the start; `zones/<zone>/count`,
   `.../occupancy` (ON or OFF), `.../dwell`, `.../entered` and `.../loitered`; `anomaly` (ON or
   OFF) and `score`; `values/<n>`; `shares/<label>`, of the frame. A source of many sensors has
   them under `sensors/<sensor>/`.
3. A name becomes a topic by SAFE: what Home Assistant allows in ids, which no broker minds. A name
   that had to be changed carries a piece of its own hash, so that no two meet.
4. A number that drifts (`is_drifting`) is sent at most once in a while; who sends decides.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edge_agent.decisions.decision import Decision
from shared.wire.records import (
    Classified,
    Detected,
    Estimated,
    Outcome,
    Scored,
    Segmented,
    Tracked,
    ZoneStanding,
)

ONLINE, OFFLINE = "online", "offline"
ON, OFF = "ON", "OFF"
ZONE_TOTALS = ("entered", "loitered")  # Any other total is of a line
UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
SAFE_CHARS_MAX = 48
STATE_CHARS_MAX = 255  # Home Assistant refuses longer ones

Component = Literal["sensor", "binary_sensor"]


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that has a state: a topic, and an entity of Home Assistant."""

    topic: str  # Under the pipeline's own
    title: str
    component: Component = "sensor"
    device_class: str = ""
    state_class: str = ""
    unit: str = ""
    icon: str = ""
    is_drifting: bool = False

    @property
    def object_id(self) -> str:
        """Return what it is called where a topic is not allowed."""
        return self.topic.replace("/", "-")


@dataclass(frozen=True, slots=True)
class State:
    """What a thing's state is now."""

    thing: Thing
    text: str


def base_topic(prefix: str, device: str, pipeline: str) -> str:
    """Return the topic that all of a pipeline's begin with."""
    return f"{prefix.strip('/')}/{safe(device)}/{safe(pipeline)}"


def safe(name: str) -> str:
    """Return `name` as a part of a topic; see rule 3."""
    cut = UNSAFE.sub("_", name)[:SAFE_CHARS_MAX]
    if cut == name and name:
        return name
    return f"{cut}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def place_topic(kind: Literal["lines", "zones"], name: str) -> str:
    """Return the topic that all of a line's or a zone's states are under."""
    return f"{kind}/{safe(name)}"


def states_of(decision: Decision) -> Iterator[State]:
    """Yield the state of every thing that `decision` speaks of."""
    under, of = "", ""
    if decision.sensor:
        under, of = f"sensors/{safe(decision.sensor)}/", f"{decision.sensor} "
    yield from _states(decision.outcome, under, of)


def _states(outcome: Outcome, under: str, of: str) -> Iterator[State]:
    match outcome:
        case Classified(label=label, confidence=confidence):
            yield State(Thing(f"{under}class", f"{of}class", icon="mdi:tag"), _cut(label))
            yield _number(f"{under}confidence", f"{of}confidence", 100 * confidence, unit="%")
        case Detected(boxes=boxes):
            yield from _objects([box.label for box in boxes], under, of)
        case Tracked() as tracked:
            yield from _objects([track.label for track in tracked.tracks], under, of)
            for zone in tracked.zones:
                yield from _zone(zone, under, of)
            for name, total in tracked.totals.items():
                yield _total(name, total, under, of)
        case Scored(score=score, is_anomalous=is_anomalous):
            anomaly = Thing(f"{under}anomaly", f"{of}anomaly", "binary_sensor", "problem")
            yield State(anomaly, ON if is_anomalous else OFF)
            yield _number(f"{under}score", f"{of}score", score)
        case Estimated(values=values):
            for i, value in enumerate(values):
                yield _number(f"{under}values/{i}", f"{of}value {i}", value)
        case Segmented(shares=shares):
            for label, share in shares.items():
                topic = f"{under}shares/{safe(label)}"
                yield _number(topic, f"{of}{label}", 100 * share, unit="%")


def _objects(labels: list[str], under: str, of: str) -> Iterator[State]:
    yield State(_count(f"{under}objects/all", f"{of}objects"), str(len(labels)))
    for label in sorted(set(labels)):
        thing = _count(f"{under}objects/{safe(label)}", f"{of}{label}")
        yield State(thing, str(labels.count(label)))


def _zone(zone: ZoneStanding, under: str, of: str) -> Iterator[State]:
    topic, title = under + place_topic("zones", zone.zone), f"{of}{zone.zone}"
    is_occupied = zone.tracks_count > 0
    occupancy = Thing(f"{topic}/occupancy", f"{title} occupancy", "binary_sensor", "occupancy")
    yield State(occupancy, ON if is_occupied else OFF)
    yield State(_count(f"{topic}/count", f"{title} count"), str(zone.tracks_count))
    dwell = Thing(
        f"{topic}/dwell",
        f"{title} dwell",
        device_class="duration",
        state_class="measurement",
        unit="s",
        is_drifting=is_occupied,  # Not when it is left: that is told at once
    )
    yield State(dwell, f"{zone.dwell_s_max:.1f}")


def _total(name: str, total: int, under: str, of: str) -> State:
    """Return one total of a line or a zone; `name` is "gate/in" or "yard/entered"."""
    place, _, what = name.rpartition("/")
    topic = place_topic("zones" if what in ZONE_TOTALS else "lines", place)
    thing = Thing(
        f"{under}{topic}/{safe(what)}",
        f"{of}{place} {what}",
        state_class="total_increasing",  # A restart of the pipeline begins at 0 again
        icon="mdi:counter",
    )
    return State(thing, str(total))


def _count(topic: str, title: str) -> Thing:
    return Thing(topic, title, state_class="measurement", icon="mdi:counter")


def _number(topic: str, title: str, value: float, *, unit: str = "") -> State:
    thing = Thing(topic, title, state_class="measurement", unit=unit, is_drifting=True)
    return State(thing, f"{value:.6g}")


def _cut(text: str) -> str:
    return text[:STATE_CHARS_MAX]
