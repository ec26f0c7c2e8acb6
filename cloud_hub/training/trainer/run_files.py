"""The folder of one training run: the only place where the hub, an executor and a trainer meet.

1. The hub writes SPEC and what it names; `stop` asks the trainer to end after its next step,
   keeping a state to resume from.
2. The trainer appends EVENTS, one JSON object a line, flushed; a torn last line is skipped by
   readers. It is the hub's only source for curves.
3. STATES are written whole and flushed before they count (`state-<step>.pt` by rename; the newest
   that can be read wins; STATES_KEPT are kept). A trainer that starts and finds one goes on from it
   and says so in an Event: nothing is trained twice unsaid.
4. RESULT is written last, once. With it the run is done, whatever became of the process: a trainer
   that finds it exits 0.
5. A trainer that cannot go on writes ERROR (code, text, remedy) and exits with EXIT_REFUSED: trying
   again would not help. Every other death may be tried again.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.wire.limits import Code, Digest, LongText

SPEC = "job.json"
WEIGHTS = "start.npz"
TEACHER = "teacher.npz"
EVENTS = "events.jsonl"
LOG = "trainer.log"
STOP = "stop"
RESULT = "result.json"
BEST = "best.npz"  # Named by RESULT
ERROR = "error.json"
REPORT = "report.json"  # cloud_hub/explain/report.py; beside it PNG files that it names
STATE_PATTERN = "state-{step:010d}.pt"
STATES_KEPT = 2
EXIT_REFUSED = 4
LOG_BYTES_MAX = 16 << 20
EVENTS_BYTES_MAX = 64 << 20
MODULE = "cloud_hub.training.trainer"

Metrics = Mapping[str, float]


class Started(msgspec.Struct, frozen=True, tag="started", tag_field="event"):
    """A process began, or went on from a state."""

    at_ms: int
    resumed_step: int | None  # None: from the beginning
    device: str  # "cuda: NVIDIA H200", "cpu: 2 threads"
    precision: str
    processes: int
    parameters_count: int
    trained_count: int  # Of them
    items_by_part: Mapping[str, int]
    steps_total: int


class Progressed(msgspec.Struct, frozen=True, tag="progressed", tag_field="event"):
    """At most one a second, and at each evaluation."""

    at_ms: int
    step: int
    epoch: float
    loss: float  # Mean since the last Event
    learning_rate: float
    items_per_s: float
    device_seconds: float  # Spent by this attempt so far: wall seconds times processes
    memory_bytes: int  # Peak: of the GPU where there is one, else of the process
    gpu_share: float | None = None  # Utilisation, 0..1, where the driver tells


class Evaluated(msgspec.Struct, frozen=True, tag="evaluated", tag_field="event"):
    """The validation part was gone through."""

    at_ms: int
    step: int
    epoch: float
    metrics: Metrics  # "loss", "accuracy" (or "map", "roc_area", "error"), ...
    value: float  # By which epochs and trials are compared: higher is better
    is_best: bool


class Saved(msgspec.Struct, frozen=True, tag="saved", tag_field="event"):
    """A state was made durable."""

    at_ms: int
    step: int


class Noted(msgspec.Struct, frozen=True, tag="noted", tag_field="event"):
    """Something a person should know: what transfer took, early stopping, a fallback."""

    at_ms: int
    text: LongText


Event = Started | Progressed | Evaluated | Saved | Noted


class RunResult(msgspec.Struct, frozen=True):
    """`result.json`."""

    weights: Annotated[str, Meta(max_length=200)]  # BEST
    weights_digest: Digest  # shared.model.weights.digest_weights
    value: float  # Of the validation part, by the best weights
    metrics: Metrics  # Of the validation part
    test_metrics: Metrics  # Of the test part; empty where there is none
    epochs: float
    steps: int
    best_epoch: float
    items_per_s: float  # Median over the run, training only
    device: str
    device_seconds: float  # Of all attempts that left a state, and this one
    memory_bytes: int
    is_stopped: bool = False  # By `stop`: what there was until then
    # What a person should know of it: what transfer took, why it ended early.
    notes: tuple[LongText, ...] = ()


class RunError(msgspec.Struct, frozen=True):
    """`error.json`."""

    code: Code
    text: LongText
    remedy: LongText = ""


def encode_event(event: Event) -> bytes:
    """Return an Event's line, with its end."""
    return msgspec.json.encode(event) + b"\n"


_EVENTS: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def decode_event(line: bytes) -> Event | None:
    """Return a line's Event; None for a torn or strange one."""
    try:
        return _EVENTS.decode(line)
    except msgspec.MsgspecError:
        return None
