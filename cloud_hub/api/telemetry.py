"""What devices tell: decisions, windows of numbers, the host's own numbers, events."""

from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Query
from msgspec import UNSET
from pydantic import Field

from cloud_hub.api.bodies import LIST_DEFAULT, AnswerBody, Limit, Name, NamePath, errors
from cloud_hub.api.services import Services, ServicesDep
from cloud_hub.telemetry.sql_store import Told
from shared.ids import DeviceId
from shared.wire.records import (
    Classified,
    DecisionRecord,
    Detected,
    Estimated,
    EventRecord,
    HostRecord,
    Outcome,
    Scored,
    Segmented,
    TelemetryRecord,
    Tracked,
)

routes = APIRouter(prefix="/api/v1/devices/{device_id}", tags=["Telemetry"])

Since = Annotated[int, Query(ge=0, le=2**53, description="Arrived since: ms since 1970, UTC")]
T = TypeVar("T", bound=AnswerBody)


class BoxOut(AnswerBody):
    """One detected object; corners are shares of the frame's width and height."""

    label: str
    confidence: float
    left: float
    top: float
    right: float
    bottom: float


class ClassifiedOut(AnswerBody):
    """The item is of this class."""

    kind: Literal["class"] = "class"
    label: str
    confidence: float


class DetectedOut(AnswerBody):
    """These objects are in the frame."""

    kind: Literal["boxes"] = "boxes"
    boxes: tuple[BoxOut, ...]


class ScoredOut(AnswerBody):
    """How unlike the normal the window is."""

    kind: Literal["score"] = "score"
    score: float
    threshold: float
    is_anomalous: bool


class TrackOut(BoxOut):
    """One object followed over frames."""

    track: int
    age_s: float


class CrossingOut(AnswerBody):
    """A track went over a line."""

    line: str
    direction: str = Field(description='"in" or "out"')
    track: int
    label: str


class ZoneStandingOut(AnswerBody):
    """What is in a zone."""

    zone: str
    tracks_count: int
    dwell_s_max: float


class TrackedOut(AnswerBody):
    """These objects are in the frame, and what they did."""

    kind: Literal["tracks"] = "tracks"
    tracks: tuple[TrackOut, ...]
    crossings: tuple[CrossingOut, ...]
    zones: tuple[ZoneStandingOut, ...]
    totals: dict[str, int] = Field(description='"gate/in": since the pipeline started')


class EstimatedOut(AnswerBody):
    """Numbers of a regression or a forecast."""

    kind: Literal["values"] = "values"
    values: tuple[float, ...]


class SegmentedOut(AnswerBody):
    """How much of the frame each class takes up."""

    kind: Literal["segments"] = "segments"
    shares: dict[str, float]


OutcomeOut = Annotated[
    ClassifiedOut | DetectedOut | ScoredOut | TrackedOut | EstimatedOut | SegmentedOut,
    Field(discriminator="kind"),
]


class ToldOut(AnswerBody):
    """What every record carries."""

    id: int = Field(description="Rises with arrival")
    at_ms: int = Field(description="By the device's clock")
    received_ms: int = Field(description="By the hub's clock")


class DecisionOut(ToldOut):
    """What the device concluded from one item."""

    pipeline: str
    model: str
    version: int
    item: int
    captured_ms: int
    latency_ms: float
    outcome: OutcomeOut
    sensor: str | None = Field(description="Of a source of many sensors")


class StageOut(AnswerBody):
    """How long one stage took."""

    ms_p50: float
    ms_p95: float
    ms_p99: float


class WindowOut(ToldOut):
    """Numbers of one pipeline over one window."""

    pipeline: str
    model: str
    version: int
    window_s: float
    items_in: int
    items_decided: int
    items_dropped: int
    items_failed: int
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_max: float
    inference_ms_p50: float
    inference_ms_p95: float
    confidence_mean: float
    swap_pause_ms_max: float
    labels: dict[str, int]
    items_gated: int | None = Field(description="Nothing moved: the last conclusion told again")
    stages: dict[str, StageOut] | None = Field(
        description='"wait" in the queue, "prepare", "run", "conclude", "sinks"'
    )
    sinks_lost: int | None = Field(description="What sinks could not tell; null: nothing")
    worker_rss_bytes: int | None = Field(description="Of the process that runs the model")


class HostOut(ToldOut):
    """Numbers of the device itself over one window."""

    window_s: float
    cpu_share: float
    rss_bytes: int
    disk_free_bytes: int
    temperature_c: float | None
    workers_rss_bytes: int | None = Field(description="Of the processes that run models")
    workers_cpu_share: float | None = Field(description="Theirs, of one core")


class EventOut(ToldOut):
    """Something an operator would want to know."""

    code: str
    text: str


class DecisionsOut(AnswerBody):
    """Newest first."""

    decisions: tuple[DecisionOut, ...]


class WindowsOut(AnswerBody):
    """Newest first."""

    windows: tuple[WindowOut, ...]


class HostsOut(AnswerBody):
    """Newest first."""

    hosts: tuple[HostOut, ...]


class EventsOut(AnswerBody):
    """Newest first."""

    events: tuple[EventOut, ...]


def outcome_out(outcome: Outcome) -> OutcomeOut:
    """Return an outcome in the form of the API."""
    match outcome:
        case Classified():
            return ClassifiedOut(label=outcome.label, confidence=outcome.confidence)
        case Detected():
            boxes = tuple(BoxOut.model_validate(box) for box in outcome.boxes)
            return DetectedOut(boxes=boxes)
        case Scored():
            return ScoredOut(
                score=outcome.score,
                threshold=outcome.threshold,
                is_anomalous=outcome.is_anomalous,
            )
        case Tracked():
            return TrackedOut.model_validate(outcome)
        case Estimated():
            return EstimatedOut(values=outcome.values)
        case Segmented():
            return SegmentedOut(shares=outcome.shares)


def decision_out(told: Told[DecisionRecord]) -> DecisionOut:
    """Return a decision in the form of the API."""
    body = told.body
    return DecisionOut(
        id=told.id,
        at_ms=told.at_ms,
        received_ms=told.received_ms,
        pipeline=body.pipeline,
        model=body.model,
        version=body.version,
        item=body.item,
        captured_ms=body.captured_ms,
        latency_ms=body.latency_ms,
        outcome=outcome_out(body.outcome),
        sensor=None if body.sensor is UNSET else body.sensor,
    )


@routes.get("/decisions", summary="A device's newest decisions", responses=errors(404))
def list_decisions(
    device_id: NamePath,
    services: ServicesDep,
    limit: Limit = LIST_DEFAULT,
    pipeline: Name | None = None,
) -> DecisionsOut:
    """Return the newest decisions, newest first."""
    device = _known(services, device_id)
    told = services.telemetry.decisions(device, limit=limit, pipeline=pipeline)
    return DecisionsOut(decisions=tuple(decision_out(decision) for decision in told))


@routes.get("/telemetry", summary="A device's numbers, window by window", responses=errors(404))
def list_windows(
    device_id: NamePath,
    services: ServicesDep,
    limit: Limit = LIST_DEFAULT,
    since_ms: Since = 0,
    pipeline: Name | None = None,
) -> WindowsOut:
    """Return the newest windows, newest first."""
    device = _known(services, device_id)
    told = services.telemetry.windows(device, since_ms=since_ms, limit=limit, pipeline=pipeline)
    return WindowsOut(windows=tuple(_flat(WindowOut, window) for window in told))


@routes.get("/hosts", summary="Processor, memory, disk of a device", responses=errors(404))
def list_hosts(
    device_id: NamePath, services: ServicesDep, limit: Limit = LIST_DEFAULT, since_ms: Since = 0
) -> HostsOut:
    """Return the newest numbers of the device itself, newest first."""
    device = _known(services, device_id)
    told = services.telemetry.hosts(device, since_ms=since_ms, limit=limit)
    return HostsOut(hosts=tuple(_flat(HostOut, host) for host in told))


@routes.get("/events", summary="What a device wanted known", responses=errors(404))
def list_events(
    device_id: NamePath, services: ServicesDep, limit: Limit = LIST_DEFAULT, since_ms: Since = 0
) -> EventsOut:
    """Return the newest events, newest first."""
    device = _known(services, device_id)
    told = services.telemetry.events(device, since_ms=since_ms, limit=limit)
    return EventsOut(events=tuple(_flat(EventOut, event) for event in told))


def _known(services: Services, device_id: str) -> DeviceId:
    """Return the id of a device that exists: an empty list would be the wrong answer for others."""
    return services.devices.get(DeviceId(device_id)).device_id


def _flat(shape: type[T], told: Told[TelemetryRecord] | Told[HostRecord] | Told[EventRecord]) -> T:
    values = {name: getattr(told.body, name) for name in told.body.__struct_fields__}
    values = {name: None if value is UNSET else value for name, value in values.items()}
    return shape.model_validate(
        {"id": told.id, "at_ms": told.at_ms, "received_ms": told.received_ms, **values}
    )
