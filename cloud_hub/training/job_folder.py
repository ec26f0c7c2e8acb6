"""Names and shapes of the files by which the hub, the SuperLink and a ServerApp meet.

The hub never imports flwr; Flower's processes never touch the hub's database. All they share is
`<state>/learning/`:

    superlink/wanted.json     Wanted: written by the hub, read by the SuperLink's process
    superlink/standing.json   Standing: written there, read by the hub
    superlink/state.db        Flower's own
    jobs/<job>/plan.json      JobPlan: written by the hub, once, before the Job is wanted
    jobs/<job>/initial.npz    weights to start from
    jobs/<job>/events.jsonl   JobEvent a line: appended by the ServerApp, read by the hub
    jobs/<job>/rounds/...     the ServerApp's own: what arrived and is not in a checkpoint yet
    jobs/<job>/checkpoint.npz weights after the last closed Round; checkpoint.json: Progress
    jobs/<job>/result.json    JobResult: written last by the ServerApp
    jobs/<job>/stop           its presence asks the ServerApp to end

1. Every file but events.jsonl is written whole (shared/durable_file.py): read the old or the new.
2. A torn last line of events.jsonl is cut off by whoever appends next, and not yet there for
   whoever reads. An event is numbered; reading again from the last number loses none.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from cloud_hub.training.order import DEVICES_MAX, JobOrder
from shared.learning.task import ROUNDS_MAX
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec
from shared.wire.limits import Code, Count, Digest, LongText, Name, Number, ShortText, UnixMs

WANTED = "wanted.json"
STANDING = "standing.json"
PLAN = "plan.json"
INITIAL = "initial.npz"
EVENTS = "events.jsonl"
CHECKPOINT = "checkpoint.npz"
PROGRESS = "checkpoint.json"
RESULT = "result.json"
STOP = "stop"
ROUNDS = "rounds"
FILE_BYTES_MAX = 16 << 20  # Of each JSON file here
EVENT_BYTES_MAX = 64 * 1024  # Of one line
RUNS_MAX = 64

Attempt = Annotated[int, Meta(ge=1, le=10_000)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what these files hold."""


class WantedNode(_Part, frozen=True):
    """A device that may use the Fleet API, and the key of its enrolment."""

    device: Name
    public_key_pem: Annotated[str, Meta(max_length=2000)]


class WantedRun(_Part, frozen=True):
    """A Job that should run. A higher attempt replaces a run that ended before its result."""

    job: Name
    attempt: Attempt
    folder: Annotated[str, Meta(max_length=4096)]


class Wanted(_Part, frozen=True):
    """What the SuperLink should have. What is not in it is taken away: nodes, and running Jobs."""

    revision: Count
    nodes: Annotated[tuple[WantedNode, ...], Meta(max_length=DEVICES_MAX)] = ()
    runs: Annotated[tuple[WantedRun, ...], Meta(max_length=RUNS_MAX)] = ()


class NodeStanding(_Part, frozen=True):
    """One registered device."""

    device: Name
    node_id: Annotated[int, Meta(ge=0)]  # Below 2**64
    status: ShortText  # Flower's: "registered", "online", "offline"


class RunStanding(_Part, frozen=True):
    """One run of a Job."""

    job: Name
    attempt: Attempt
    run_id: Annotated[int, Meta(ge=0)]  # Below 2**64
    status: ShortText  # Flower's: "pending", "starting", "running", "finished"
    sub_status: ShortText = ""  # "completed", "failed", "stopped"
    details: LongText = ""


class Standing(_Part, frozen=True):
    """What the SuperLink has. Written at least every second, so that its age says it lives."""

    at_ms: UnixMs
    pid: Count
    wanted_revision: Count  # The newest Wanted that was carried out
    device_port: Annotated[int, Meta(ge=0, le=65535)]
    nodes: Annotated[tuple[NodeStanding, ...], Meta(max_length=DEVICES_MAX)] = ()
    runs: Annotated[tuple[RunStanding, ...], Meta(max_length=RUNS_MAX)] = ()
    trouble: LongText = ""


class JobPlan(_Part, frozen=True):
    """All that a ServerApp needs to know."""

    job: Name
    order: JobOrder
    spec: ModelSpec
    network: NetworkSpec
    devices: Annotated[tuple[Name, ...], Meta(max_length=DEVICES_MAX)]
    standing_path: Annotated[str, Meta(max_length=4096)]  # To know which node is which device


class JobEvent(_Part, frozen=True):
    """One thing that happened, numbered from 1 within its Job."""

    number: Annotated[int, Meta(ge=1, le=2**53)]
    at_ms: UnixMs
    code: Code  # The list is JOB_EVENTS
    round: Annotated[int, Meta(ge=0, le=ROUNDS_MAX)] = 0  # 0: of the whole Job
    device: Name | None = None
    text: LongText = ""
    numbers: Annotated[dict[ShortText, Number], Meta(max_length=64)] = {}


# code: what its `numbers` hold
JOB_EVENTS = {
    "job.started": "attempt, rounds_done",
    "round.gathering": "devices_there, devices_min",
    "round.started": "devices_asked, weights_bytes",
    "update.accepted": "samples_count, weight, norm, payload_bytes, wait_s, loss, accuracy_before, "
    "accuracy_after, held_out_count, cpu_s, runtime_s, rounds_late, is_repeated (1 or 0), "
    "epsilon_spent; what the device's owner forbids is not there",
    "update.refused": "as above as far as known; text is why, with the code of the check",
    "device.silent": "wait_s, repeat: asked, and no answer when the Round was closed or repeated",
    "device.failed": "repeat; its own reason is the text",
    "privacy.paid": "epsilon (central, so far): written before the noise of a Round is drawn",
    "round.closed": "devices_counted, devices_asked, seconds, bytes_up, bytes_down, update_norm, "
    "epsilon (central, so far)",
    "round.repeated": "devices_counted, quorum, repeat (from 1)",
    "evaluation": "accuracy_before, held_out_count: of one device, with the weights of this Round",
    "job.resumed": "rounds_done, updates_kept",
    "job.ended": "rounds_done; text is why",
}


class Progress(_Part, frozen=True):
    """What the checkpoint holds."""

    rounds_done: Annotated[int, Meta(ge=0, le=ROUNDS_MAX)]
    weights_digest: Digest
    epsilon: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None  # Central, so far


class JobResult(_Part, frozen=True):
    """How a Job ended. The weights are checkpoint.npz, where `rounds_done` is above 0."""

    job: Name
    is_completed: bool  # All Rounds, or ended early as its order says
    code: Code  # "job.completed", "job.too_few", "job.stopped", "job.budget_spent", ...
    text: LongText
    rounds_done: Annotated[int, Meta(ge=0, le=ROUNDS_MAX)]
    weights_digest: Digest | None = None
    epsilon: Annotated[float, Meta(ge=0.0, le=1e9)] | None = None
