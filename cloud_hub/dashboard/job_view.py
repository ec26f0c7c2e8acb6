"""What the pages about Jobs and Candidates show, gathered from the services."""

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_hub.api.comparison import job_of_candidate
from cloud_hub.api.job_words import device_text, event_text, job_text, whom_text
from cloud_hub.api.services import Services
from cloud_hub.api.verdict_words import (
    compared_texts,
    comparison_text,
    quality_text,
    reason_text,
    slice_text,
    verdict_text,
)
from cloud_hub.api.why import accuracy_sentences, find_candidate, find_release
from cloud_hub.candidates.candidate import Candidate, SliceRow, VariantRow
from cloud_hub.candidates.checkpoint import Checkpoint
from cloud_hub.dashboard.job_charts import LineChart, SpreadChart, line_chart, spread_chart
from cloud_hub.releases.release import Release
from cloud_hub.rollouts.fits import PooledFit
from cloud_hub.training.cloud.cloud_job import CloudJob
from cloud_hub.training.job import Job, JobDevice, JobId, JobState, RoundSummary
from cloud_hub.training.job_folder import JobEvent
from cloud_hub.training.order import JobOrder, Strategy
from shared.ids import DeviceId
from shared.wire.report import LearningState

JOBS_SHOWN = 50
DEVICES_SHOWN = 200
ROUNDS_SHOWN = 50
EVENTS_SHOWN = 60
EVENTS_LOOKED_AT = 1000
PAGES_MAX = 50
# Whom to look at first.
_URGENCY = (
    LearningState.REFUSED,
    LearningState.WAITING,
    None,
    LearningState.JOINING,
    LearningState.READY,
)
STRATEGIES: Mapping[str, str] = {
    "fedavg": "FedAvg: the mean, by samples",
    "fedprox": "FedProx: for devices that differ a lot",
    "fedavgm": "FedAvgM: with momentum",
    "fedadam": "FedAdam: adaptive",
    "fedyogi": "FedYogi: adaptive",
    "fedadagrad": "FedAdagrad: adaptive",
    "qfedavg": "q-FedAvg: devices with a high loss weigh more",
    "fedmedian": "FedMedian: robust",
    "fedtrimmedavg": "FedTrimmedAvg: robust, without the extremes",
    "krum": "Krum: robust, one update",
    "multikrum": "MultiKrum: robust, the best updates",
    "bulyan": "Bulyan: robust, needs many devices",
}


@dataclass(frozen=True, slots=True)
class JobRow:
    """One Job in the list."""

    job: Job
    whom: str
    sentence: str
    strip_width: float  # Of 1000, by Rounds done


@dataclass(frozen=True, slots=True)
class JobDevicePart:
    """One device in a Job's table."""

    part: JobDevice
    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Happening:
    """One event with its words."""

    event: JobEvent
    name: str  # The device's; empty where it is about the whole Job
    sentence: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """One Job's page."""

    job: Job
    strategy: str
    whom: str
    sentence: str
    can_approve: bool
    can_stop: bool
    rounds: tuple[RoundSummary, ...]  # Newest first
    accuracy: LineChart | None
    loss: LineChart | None
    spread: SpreadChart | None
    spread_text: str
    devices: tuple[JobDevicePart, ...]
    hidden_count: int
    ready_count: int
    devices_count: int
    bytes_up: int
    bytes_per_round: int | None  # Of one device, in one Round
    epsilon: float | None
    epsilon_text: str
    happenings: tuple[Happening, ...]  # Newest first
    candidate: Candidate | None


@dataclass(frozen=True, slots=True)
class NewJobView:
    """The form that starts a Job."""

    models: tuple[str, ...]
    groups: Mapping[str, int]
    devices_count: int
    strategies: Mapping[str, str]
    order: JobOrder  # For its defaults


@dataclass(frozen=True, slots=True)
class CandidatePage:
    """One Candidate's page: what the gate said, and on what."""

    candidate: Candidate
    sentence: str
    comparison: str
    reasons: tuple[tuple[str, str], ...]  # Text and code
    remarks: tuple[tuple[str, str], ...]
    slices: tuple[tuple[SliceRow, tuple[str, str], str], ...]  # With new and old, and in words
    variants: tuple[tuple[VariantRow, str], ...]  # With how good each is
    release: Release | None
    jobs: tuple[Job, ...]
    cloud_job: CloudJob | None  # That made it
    fits: tuple[PooledFit, ...]  # What devices measured of its release, by hardware


def view_jobs(services: Services) -> tuple[JobRow, ...]:
    """Return the newest Jobs."""
    return tuple(
        JobRow(
            job=job,
            whom=whom_text(job.order),
            sentence=job_text(job),
            strip_width=round(1000 * min(job.rounds_done / job.order.rounds, 1.0), 1),
        )
        for job in services.training.jobs(limit=JOBS_SHOWN)
    )


def view_job_page(services: Services, job_id: JobId) -> JobPage:
    """Return one Job. Raises RefusedError `job.unknown`."""
    training = services.training
    job, devices, rounds = training.get(job_id), training.devices(job_id), training.rounds(job_id)
    names = {device.device_id: device.name for device in services.devices.list_devices()}
    spread = training.accuracy_spread(job_id)
    ranked = sorted(devices, key=lambda d: (-d.updates_refused, _URGENCY.index(d.state)))
    answers = sum(device.rounds_answered for device in devices)
    bytes_up = sum(device.bytes_up for device in devices)
    epsilon, epsilon_text = _privacy(job, devices, rounds)
    ordered = job.order.rounds
    return JobPage(
        job=job,
        strategy=strategy_name(job.order.strategy),
        whom=whom_text(job.order),
        sentence=job_text(job),
        can_approve=job.state is JobState.SUBMITTED,
        can_stop=job.state is not JobState.FINISHED,
        rounds=tuple(reversed(rounds))[:ROUNDS_SHOWN],
        accuracy=line_chart([(r.round, r.accuracy) for r in rounds], rounds=ordered, is_share=True),
        loss=line_chart([(r.round, r.loss) for r in rounds], rounds=ordered),
        spread=spread_chart(spread),
        spread_text=" ".join(accuracy_sentences(spread)),
        devices=tuple(
            JobDevicePart(
                device, names.get(device.device_id, device.device_id), device_text(device)
            )
            for device in ranked[:DEVICES_SHOWN]
        ),
        hidden_count=max(0, len(ranked) - DEVICES_SHOWN),
        ready_count=sum(device.state is LearningState.READY for device in devices),
        devices_count=len(devices),
        bytes_up=bytes_up,
        bytes_per_round=round(bytes_up / answers) if answers else None,
        epsilon=epsilon,
        epsilon_text=epsilon_text,
        happenings=_happenings(services, job_id, names),
        candidate=find_candidate(services, job),
    )


def view_new_job(services: Services, chosen: str) -> NewJobView:
    """Return the form; `chosen` is the model to begin with."""
    models = dict.fromkeys(c.model for c in services.releases.checkpoints.list())
    ordered = sorted(models, key=lambda model: (model != chosen, model))
    return NewJobView(
        models=tuple(ordered),
        groups=services.devices.group_counts(),
        devices_count=len(services.devices.select()),
        strategies=STRATEGIES,
        order=JobOrder(model="any"),
    )


def view_checkpoints(services: Services) -> tuple[Checkpoint, ...]:
    """Return the newest checkpoints of every model."""
    return services.releases.checkpoints.list(limit=JOBS_SHOWN)


def view_candidate(services: Services, candidate_id: str) -> CandidatePage:
    """Return one Candidate. Raises RefusedError `candidate.unknown`."""
    candidate = services.releases.candidates.get(candidate_id)
    verdict = candidate.verdict
    release = find_release(services, candidate)
    return CandidatePage(
        candidate=candidate,
        sentence=verdict_text(verdict),
        comparison=comparison_text(verdict.comparison),
        reasons=tuple((reason_text(reason), reason.code) for reason in verdict.reasons),
        remarks=tuple((reason_text(remark), remark.code) for remark in verdict.remarks),
        slices=tuple((row, compared_texts(row), slice_text(row)) for row in verdict.slices),
        variants=tuple((row, quality_text(row)) for row in verdict.variants),
        release=release,
        jobs=tuple(
            job
            for job in services.training.jobs_of(candidate.lineage_id)
            if find_candidate(services, job) == candidate
        ),
        cloud_job=job_of_candidate(services, candidate),
        fits=services.rollouts.fits(release.model, release.version) if release else (),
    )


def strategy_name(strategy: Strategy) -> str:
    """Return what an order calls a strategy: "fedavg"."""
    return str(type(strategy).__struct_config__.tag)


def _happenings(
    services: Services, job_id: JobId, names: Mapping[DeviceId, str]
) -> tuple[Happening, ...]:
    """Return the newest events: read page by page, as they are kept oldest first."""
    kept: tuple[JobEvent, ...] = ()
    after = 0
    for _ in range(PAGES_MAX):
        page = services.training.events(job_id, after=after, limit=EVENTS_LOOKED_AT)
        kept = (*kept, *page)[-EVENTS_SHOWN:]
        if len(page) < EVENTS_LOOKED_AT:
            break
        after = page[-1].number
    return tuple(
        Happening(
            event=event,
            name=names.get(DeviceId(event.device), event.device) if event.device else "",
            sentence=event_text(event),
        )
        for event in reversed(kept)
    )


def _privacy(
    job: Job, devices: tuple[JobDevice, ...], rounds: tuple[RoundSummary, ...]
) -> tuple[float | None, str]:
    if job.order.local_privacy is not None:
        spent = [d.epsilon_spent for d in devices if d.epsilon_spent is not None]
        return (max(spent) if spent else None), "the most that a device has spent in its life"
    if job.order.central_privacy is not None:
        known = [r.epsilon for r in rounds if r.epsilon is not None]
        return (known[-1] if known else None), "of this Job so far, for each device"
    return None, ""
