"""Job: a training order and how it stands. The life of a Job is one table.

1. States as in NVIDIA FLARE's job life cycle: submitted, approved, dispatched, running, finished;
   a finished Job has an Outcome with its reason.
2. DISPATCHED: devices are told by their Targets and the SuperLink is to have them; RUNNING: its
   ServerApp works. A run that ends before its result is run again from its checkpoint
   (a new attempt), `ATTEMPTS_MAX` times.
3. A Job that finished and is to be released goes to the gate; what came of that is in `release` or
   `candidate_id`: a refused candidate does not make the Job a failure.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from cloud_hub.candidates.candidate import CandidateId
from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.training.order import JobOrder
from shared.ids import DeviceId, LineageId, ModelName
from shared.wire.report import LearningState

JobId = NewType("JobId", str)
ATTEMPTS_MAX = 20


class JobState(StrEnum):
    """Where a Job stands."""

    SUBMITTED = "submitted"
    APPROVED = "approved"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    FINISHED = "finished"


class Outcome(StrEnum):
    """How a finished Job ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # By a person
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """One Job, as people see it."""

    job_id: JobId
    model: ModelName
    order: JobOrder
    state: JobState
    outcome: Outcome | None
    code: str  # Why it stands so: "job.completed", "job.too_few", "" while nothing is to be said
    text: str
    lineage_id: LineageId
    checkpoint_id: CheckpointId  # What it starts from
    result_checkpoint_id: CheckpointId | None
    candidate_id: CandidateId | None
    release_version: int | None
    rounds_done: int
    attempt: int
    created_ms: int
    changed_ms: int
    created_by: str


@dataclass(frozen=True, slots=True)
class JobDevice:
    """One device's part in a Job."""

    device_id: DeviceId
    state: LearningState | None  # As it last reported; None: not yet
    code: str
    text: str
    node_status: str  # Flower's word; "" while it is not registered
    rounds_answered: int
    updates_refused: int
    bytes_up: int
    samples_count: int | None  # None: its owner does not tell
    accuracy_before: float | None  # Of the first weights of the Job on the device's held-out part
    accuracy_after: float | None  # Of the last
    epsilon_spent: float | None
    epsilon_max: float | None


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """One Round of a Job, as it was closed."""

    round: int
    started_ms: int
    closed_ms: int | None  # None: it runs
    devices_asked: int
    devices_counted: int
    devices_refused: int
    devices_silent: int
    bytes_up: int
    bytes_down: int
    loss: float | None  # Mean over devices that tell
    accuracy: float | None
    epsilon: float | None
