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
from msgspec import Meta

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


Outcome = Classified | Detected | Scored


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


class HostRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="host"):
    """Numbers of the device itself over one window."""

    window_s: Seconds
    cpu_share: Annotated[float, Meta(ge=0.0, le=1024.0)]  # Of one core, by the agent
    rss_bytes: Count
    disk_free_bytes: Count
    temperature_c: Annotated[float, Meta(ge=-100.0, le=300.0)] | None = None


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
