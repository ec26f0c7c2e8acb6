"""Records: what a device saw and measured, numbered so that nothing is lost or counted twice.

1. A stream is one outbox file's life; its id is random, so a device whose disk was wiped starts
   a new stream instead of repeating old numbers.
2. Within a stream sequences rise; they may skip (the device dropped its oldest when full).
3. A batch says `since`: no record of the stream with since < sequence < first record will ever
   come any more. The hub takes a batch only if `since` is not above its own watermark.
4. The hub answers with a Watermark after its database commit. The device deletes up to there, and
   only then. A Watermark with `resend` asks for everything above it again: a batch was lost.
5. The hub drops a record whose sequence is not above its watermark: a duplicate.
"""

from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.wire.limits import (
    Code,
    Count,
    LongText,
    Milliseconds,
    Name,
    Number,
    Seconds,
    Sequence,
    Share,
    ShortText,
    Stream,
    UnixMs,
    Version,
)

BATCH_RECORDS_MAX = 500
BOXES_MAX = 100
LABELS_MAX = 64
PLACES_MAX = 32  # Lines, and zones, of one pipeline
TOTALS_MAX = 4 * PLACES_MAX  # Two of each line and of each zone
VALUES_MAX = 64
STAGES_MAX = 16


class Box(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One detected object; corners are shares of the frame's width and height, 0..1."""

    label: ShortText
    confidence: Share
    left: Share
    top: Share
    right: Share
    bottom: Share


class Classified(msgspec.Struct, frozen=True, tag="class", forbid_unknown_fields=True):
    """The item is of this class."""

    label: ShortText
    confidence: Share


class Detected(msgspec.Struct, frozen=True, tag="boxes", forbid_unknown_fields=True):
    """These objects are in the frame, best first."""

    boxes: Annotated[tuple[Box, ...], Meta(max_length=BOXES_MAX)]


class Scored(msgspec.Struct, frozen=True, tag="score", forbid_unknown_fields=True):
    """How unlike the normal the window is."""

    score: Number
    threshold: Number
    is_anomalous: bool


class Track(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One object followed over frames; corners are shares of the frame."""

    track: Count  # The same number as long as it is the same object
    label: ShortText
    confidence: Share
    left: Share
    top: Share
    right: Share
    bottom: Share
    age_s: Seconds  # Since it was first seen


class Crossing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A track went over a line in this frame."""

    line: ShortText
    direction: ShortText  # "in" or "out"
    track: Count
    label: ShortText


class ZoneStanding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is in a zone now."""

    zone: ShortText
    tracks_count: Count
    dwell_s_max: Seconds  # Of the track that is in it longest


class Tracked(msgspec.Struct, frozen=True, tag="tracks", forbid_unknown_fields=True):
    """These objects are in the frame, and what they did."""

    tracks: Annotated[tuple[Track, ...], Meta(max_length=BOXES_MAX)]
    crossings: Annotated[tuple[Crossing, ...], Meta(max_length=BOXES_MAX)] = ()
    zones: Annotated[tuple[ZoneStanding, ...], Meta(max_length=PLACES_MAX)] = ()
    # "gate/in", "yard/entered": how many since the pipeline started.
    totals: Annotated[dict[ShortText, Count], Meta(max_length=TOTALS_MAX)] = {}


class Estimated(msgspec.Struct, frozen=True, tag="values", forbid_unknown_fields=True):
    """Numbers: what a regression says, or the next values of a forecast, in the spec's order."""

    values: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=VALUES_MAX)]


class Segmented(msgspec.Struct, frozen=True, tag="segments", forbid_unknown_fields=True):
    """How much of the frame each class takes up; classes without a pixel are left out."""

    shares: Annotated[dict[ShortText, Share], Meta(max_length=LABELS_MAX)]


Outcome = Classified | Detected | Scored | Tracked | Estimated | Segmented


class DecisionRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="decision"
):
    """One Decision: what the device concluded from one item."""

    pipeline: Name
    model: Name
    version: Version
    item: Count  # The item's sequence number at its source
    captured_ms: UnixMs
    latency_ms: Milliseconds  # From captured to decided
    outcome: Outcome
    # Of a source of many sensors: which one. Left out of the bytes elsewhere.
    sensor: ShortText | UnsetType = UNSET


class StageTimes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How long one stage of a pipeline took, over the items of a window."""

    ms_p50: Milliseconds
    ms_p95: Milliseconds
    ms_p99: Milliseconds


class TelemetryRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="telemetry"
):
    """Numbers of one pipeline over one window."""

    pipeline: Name
    model: Name
    version: Version
    window_s: Seconds
    items_in: Count
    items_decided: Count
    items_dropped: Count  # Newest-wins: replaced before inference took them
    items_failed: Count
    latency_ms_p50: Milliseconds
    latency_ms_p95: Milliseconds
    latency_ms_max: Milliseconds
    inference_ms_p50: Milliseconds
    inference_ms_p95: Milliseconds
    confidence_mean: Share
    swap_pause_ms_max: Milliseconds  # Longest time an item waited because of a model swap
    labels: Annotated[dict[ShortText, Count], Meta(max_length=LABELS_MAX)]
    # Left out of the bytes where there is no motion gate, and by agents that do not tell.
    items_gated: Count | UnsetType = UNSET  # Nothing moved: what was concluded last, told again
    # "wait" in the mailbox (the queue's age), "prepare", "run", "conclude", "sinks"
    stages: Annotated[dict[ShortText, StageTimes], Meta(max_length=STAGES_MAX)] | UnsetType = UNSET
    sinks_lost: Count | UnsetType = UNSET  # What sinks could not tell: a full disk, a lost broker
    worker_rss_bytes: Count | UnsetType = UNSET  # Of the process that runs its model, if there is


class HostRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="host"):
    """Numbers of the device itself over one window."""

    window_s: Seconds
    cpu_share: Annotated[float, Meta(ge=0.0, le=1024.0)]  # Of one core, by the agent
    rss_bytes: Count
    disk_free_bytes: Count
    temperature_c: Annotated[float, Meta(ge=-100.0, le=300.0)] | None = None
    workers_rss_bytes: Count | UnsetType = UNSET  # Of the processes that run models
    workers_cpu_share: Annotated[float, Meta(ge=0.0, le=1024.0)] | UnsetType = UNSET  # Theirs


class EventRecord(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="event"
):
    """Something an operator would want to know: a source lost, a model refused."""

    code: Code
    text: LongText


Body = DecisionRecord | TelemetryRecord | HostRecord | EventRecord


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One numbered entry of a stream."""

    sequence: Sequence
    at_ms: UnixMs
    body: Body


class RecordBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records in rising order of sequence; see the rules above."""

    schema: ClassVar[int] = 1

    stream: Stream
    since: Count
    records: Annotated[tuple[Record, ...], Meta(min_length=1, max_length=BATCH_RECORDS_MAX)]


class Watermark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything of `stream` up to and including `sequence` is in the hub's database."""

    schema: ClassVar[int] = 1

    stream: Stream
    sequence: Count
    resend: bool = False
