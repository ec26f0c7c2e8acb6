"""CloudJob and Run: an order of the cloud, and the training runs it is made of. Values only.

1. A Job is FINISHED when its runs are; what came of it (checkpoint, Candidate, release) is settled
   after that and has a state of its own, as with federated Jobs (cloud_hub/training/lifecycle.py).
2. A Run is one trainer's work in one folder, over any number of attempts.
3. A Candidate that the gate refuses does not make the Job a failure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from cloud_hub.candidates.candidate import CandidateId
from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState
from shared.ids import LineageId, ModelName

CloudJobId = NewType("CloudJobId", str)
RunKey = NewType("RunKey", str)  # "<Job>-<index>": also the name of the run's folder
ID_PREFIX = "cloud-"
TEXT_CHARS_MAX = 2000
Params = Mapping[str, "str | float | int | bool | None"]  # Path into the order -> value


class CloudJobState(StrEnum):
    """Where a Job, or a Run, stands."""

    QUEUED = "queued"  # Waits for room
    RUNNING = "running"
    FINISHED = "finished"


class RunKind(StrEnum):
    """What a run is for."""

    SINGLE = "single"  # The Job's only one
    FOLD = "fold"
    TRIAL = "trial"
    REFIT = "refit"  # After folds or trials: the model itself
    JOIN = "join"  # An ensemble: joins and judges, trains nothing
    EXPLAIN = "explain"  # A checkpoint as it is: judges and explains, makes no weights


class EndReason(StrEnum):
    """Why a run was asked to end before its time; written down before it is asked."""

    STOP = "stop"  # A person
    PRUNE = "prune"  # The search sees no hope in it
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class CloudJob:
    """One Job, as people see it."""

    job_id: CloudJobId
    model: ModelName
    order: CloudOrder  # With the dataset's version, frozen when it was submitted
    dataset: DatasetName
    dataset_version: int
    manifest_digest: str
    state: CloudJobState
    outcome: Outcome | None
    is_stopping: bool  # A person stopped it, and its runs have not ended yet
    code: str  # Why it stands so; "" while nothing is to be said
    text: str
    owner: str  # Whom usage is counted for
    created_by: str
    lineage_id: LineageId
    base_checkpoint_id: CheckpointId | None
    result_state: ResultState
    result_run: int | None  # The run whose weights are the result
    result_checkpoint_id: CheckpointId | None
    candidate_id: CandidateId | None
    release_version: int | None
    # Higher is better; of folds the mean with its 95 % interval.
    value: float | None
    value_low: float | None
    value_high: float | None
    created_ms: int
    changed_ms: int
    started_ms: int | None
    finished_ms: int | None


@dataclass(frozen=True, slots=True)
class RunProgress:
    """What a run's events add up to."""

    step: int = 0
    steps_total: int = 0
    epoch: float = 0.0
    loss: float | None = None
    items_per_s: float | None = None
    memory_bytes: int = 0  # Peak
    gpu_share: float | None = None
    device: str = ""
    evaluations: int = 0
    last_value: float | None = None
    best_value: float | None = None
    # Of attempts before this one, and of this one so far
    device_seconds_before: float = 0.0
    device_seconds_now: float = 0.0
    resumed_step: int | None = None  # Of the newest attempt; None: from the beginning

    @property
    def device_seconds(self) -> float:
        """Return what all attempts took: wall seconds times processes."""
        return self.device_seconds_before + self.device_seconds_now


@dataclass(frozen=True, slots=True)
class Run:
    """One training run of a Job."""

    job_id: CloudJobId
    index: int  # From 0, in the order in which they were made
    kind: RunKind
    params: Params  # Of a trial; empty otherwise
    fold: int | None
    state: CloudJobState
    outcome: Outcome | None
    end_reason: EndReason | None
    code: str
    text: str
    attempt: int  # Starts so far
    deaths: int  # Attempts that ended without a result
    value: float | None  # The run's, by its result
    best_epoch: float | None
    progress: RunProgress
    created_ms: int
    started_ms: int | None  # First
    finished_ms: int | None

    @property
    def key(self) -> RunKey:
        """Return the run's name, which is its folder's too."""
        return run_key(self.job_id, self.index)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state is CloudJobState.FINISHED

    @property
    def is_pruned(self) -> bool:
        """Whether a search ended it early."""
        return self.is_finished and self.end_reason is EndReason.PRUNE


def run_key(job_id: CloudJobId, index: int) -> RunKey:
    """Return the name of a Job's run."""
    return RunKey(f"{job_id}-{index}")
