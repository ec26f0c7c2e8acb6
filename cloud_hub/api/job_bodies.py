"""Bodies about Jobs: what the hub answers. What it is asked is order_body.py. Values only."""

from typing import Self

from pydantic import Field, JsonValue

from cloud_hub.api.bodies import AnswerBody, plain
from cloud_hub.api.job_words import device_text, event_text, job_text
from cloud_hub.training.job import Job, JobDevice, JobState, Outcome, RoundSummary
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.spread import AccuracySpread, Distribution
from shared.wire.report import LearningState


class JobOut(AnswerBody):
    """One Job."""

    job_id: str
    model: str
    state: JobState
    outcome: Outcome | None
    code: str = Field(description="Why it stands so", examples=["job.too_few"])
    text: str
    sentence: str = Field(description="How it stands, in words")
    lineage_id: str
    checkpoint_id: str = Field(description="What it starts from")
    result_checkpoint_id: str | None
    candidate_id: str | None
    release_version: int | None
    rounds: int = Field(description="Ordered")
    rounds_done: int
    attempt: int
    created_ms: int
    changed_ms: int
    created_by: str
    order: dict[str, JsonValue] = Field(description="A JobOrder with its defaults filled in")

    @classmethod
    def of(cls, job: Job) -> Self:
        """Return a Job in the form of the API."""
        return cls(
            job_id=job.job_id,
            model=job.model,
            state=job.state,
            outcome=job.outcome,
            code=job.code,
            text=job.text,
            sentence=job_text(job),
            lineage_id=job.lineage_id,
            checkpoint_id=job.checkpoint_id,
            result_checkpoint_id=job.result_checkpoint_id,
            candidate_id=job.candidate_id,
            release_version=job.release_version,
            rounds=job.order.rounds,
            rounds_done=job.rounds_done,
            attempt=job.attempt,
            created_ms=job.created_ms,
            changed_ms=job.changed_ms,
            created_by=job.created_by,
            order=plain(job.order),
        )


class JobsOut(AnswerBody):
    """Jobs, newest first."""

    jobs: tuple[JobOut, ...]


class JobDeviceOut(AnswerBody):
    """One device's part in a Job."""

    device_id: str
    state: LearningState | None = Field(description="As it last reported; null: not yet")
    code: str
    text: str
    sentence: str = Field(description="What it does, or why it does not, in words")
    node_status: str
    rounds_answered: int
    updates_refused: int
    bytes_up: int
    samples_count: int | None
    accuracy_before: float | None = Field(description="Of the Job's first weights, on its own data")
    accuracy_after: float | None = Field(description="Of the newest weights, on the same data")
    epsilon_spent: float | None
    epsilon_max: float | None

    @classmethod
    def of(cls, device: JobDevice) -> Self:
        """Return a device's part in the form of the API."""
        return cls(
            device_id=device.device_id,
            state=device.state,
            code=device.code,
            text=device.text,
            sentence=device_text(device),
            node_status=device.node_status,
            rounds_answered=device.rounds_answered,
            updates_refused=device.updates_refused,
            bytes_up=device.bytes_up,
            samples_count=device.samples_count,
            accuracy_before=device.accuracy_before,
            accuracy_after=device.accuracy_after,
            epsilon_spent=device.epsilon_spent,
            epsilon_max=device.epsilon_max,
        )


class JobDevicesOut(AnswerBody):
    """Every device of a Job."""

    devices: tuple[JobDeviceOut, ...]


class RoundOut(AnswerBody):
    """One Round, as it was closed."""

    round: int
    started_ms: int
    closed_ms: int | None = Field(description="Null: it runs")
    devices_asked: int
    devices_counted: int
    devices_refused: int
    devices_silent: int
    bytes_up: int
    bytes_down: int
    loss: float | None = Field(description="Mean over the devices that tell")
    accuracy: float | None
    epsilon: float | None = Field(description="Central privacy spent so far")

    @classmethod
    def of(cls, summary: RoundSummary) -> Self:
        """Return a Round in the form of the API."""
        return cls.model_validate(summary)


class RoundsOut(AnswerBody):
    """Rounds, first to last."""

    rounds: tuple[RoundOut, ...]


class JobEventOut(AnswerBody):
    """One thing that happened in a Job."""

    number: int = Field(description="Ask for what comes `after` it")
    at_ms: int
    code: str
    round: int = Field(description="0: of the whole Job")
    device: str | None
    text: str
    sentence: str
    numbers: dict[str, float]

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """Return an event in the form of the API."""
        return cls(
            number=event.number,
            at_ms=event.at_ms,
            code=event.code,
            round=event.round,
            device=event.device,
            text=event.text,
            sentence=event_text(event),
            numbers=dict(event.numbers),
        )


class JobEventsOut(AnswerBody):
    """What happened, oldest first."""

    events: tuple[JobEventOut, ...]


class DistributionOut(AnswerBody):
    """How a number is spread over devices; each device counts alike."""

    count: int
    mean: float
    minimum: float
    quartile_1: float
    median: float
    quartile_3: float
    maximum: float


class DeviceAccuracyOut(AnswerBody):
    """One device's accuracy on its own held-out samples; null: not told."""

    device_id: str
    before: float | None
    after: float | None


class AccuracyOut(AnswerBody):
    """Accuracy per device before and after, as a distribution. Null: no device tells."""

    job_id: str
    devices_count: int
    before: DistributionOut | None = Field(description="Of the Job's first weights")
    after: DistributionOut | None = Field(description="Of its last")
    change: DistributionOut | None = Field(description="After minus before, device by device")
    worse_count: int = Field(description="Devices on which it fell")
    devices: tuple[DeviceAccuracyOut, ...]

    @classmethod
    def of(cls, spread: AccuracySpread) -> Self:
        """Return a distribution in the form of the API."""
        return cls(
            job_id=spread.job_id,
            devices_count=spread.devices_count,
            before=_distribution(spread.before),
            after=_distribution(spread.after),
            change=_distribution(spread.change),
            worse_count=spread.worse_count,
            devices=tuple(DeviceAccuracyOut.model_validate(device) for device in spread.devices),
        )


def _distribution(found: Distribution | None) -> DistributionOut | None:
    return None if found is None else DistributionOut.model_validate(found)
