"""Why is it so? A device, a rollout, a Job, a Candidate or a release, explained in plain words.

1. A Job, a Candidate and a release are told with everything that they led to: Job, Verdict,
   release, rollouts, receipts, whichever of them one begins with; and with what led to them: the
   data, the checkpoint it started from, and what that was made of (why_cloud.py).
2. Every part is sentences, and a table where numbers belong side by side.
"""

from collections.abc import Sequence

from fastapi import APIRouter

from cloud_hub.api.bodies import Name, NamePath, VersionPath, errors
from cloud_hub.api.comparison import job_of_candidate
from cloud_hub.api.job_words import bytes_text, device_text, job_text, whom_text
from cloud_hub.api.services import Services, ServicesDep
from cloud_hub.api.verdict_words import (
    comparison_text,
    reason_text,
    share_text,
    slice_cells,
    slice_name,
    slice_text,
    variant_cells,
    verdict_text,
)
from cloud_hub.api.why_bodies import PartOut, WhyOut
from cloud_hub.api.why_cloud import cloud_job_parts
from cloud_hub.candidates.candidate import Candidate
from cloud_hub.releases.release import Release
from cloud_hub.rollouts.rollout import DeviceState
from cloud_hub.training.cloud.cloud_job import ID_PREFIX as CLOUD_START
from cloud_hub.training.cloud.cloud_job import CloudJob
from cloud_hub.training.job import Job, JobId
from cloud_hub.training.spread import AccuracySpread
from shared.errors import RefusedError
from shared.ids import DeviceId, ModelName, RolloutId
from shared.plural import counted
from shared.wire.report import LearningState

routes = APIRouter(prefix="/api/v1", tags=["Rollouts"])

ROLLOUT_START, JOB_START, CANDIDATE_START = "roll-", "job-", "cand-"
ROLLOUTS_MAX = 20  # Newest ones of a release that are told
DEVICES_MAX = 50  # Told by name; of the others, how many
VARIANT_COLUMNS = ("form", "size#", "latency#", "quality#", "as the first#", "why")
SLICE_COLUMNS = ("slice", "items#", "new#", "old#", "change, points", "margin#", "answer")
ROUND_COLUMNS = ("round#", "counted", "refused#", "silent#", "loss#", "accuracy#", "up#")


@routes.get("/why/{subject}", summary="Why is it so?", responses=errors(404))
def explain(subject: NamePath, services: ServicesDep, model: Name | None = None) -> WhyOut:
    """Explain a device, or a rollout, a Job of either kind or a Candidate by its id."""
    return _answer(subject, why(services, subject, model=model))


@routes.get("/why/{model}/{version}", summary="Why is there this release?", responses=errors(404))
def explain_release(model: NamePath, version: VersionPath, services: ServicesDep) -> WhyOut:
    """Explain a release: where it came from, what the gate said, where it went."""
    release = services.releases.get(model, version)
    return _answer(release.name, _tell_release(services, release))


def why(services: Services, subject: str, *, model: str | None = None) -> tuple[PartOut, ...]:
    """Return the parts; what a subject is, its id's beginning says."""
    if subject.startswith(ROLLOUT_START):
        entries = services.rollouts.timeline(RolloutId(subject))
        return (PartOut(heading="", sentences=tuple(entry.sentence for entry in entries)),)
    if subject.startswith(JOB_START):
        return _tell_job(services, services.training.get(JobId(subject)))
    if subject.startswith(CLOUD_START):
        return _tell_cloud_job(services, services.cloud_jobs.get(subject))
    if subject.startswith(CANDIDATE_START):
        return _tell_candidate(services, services.releases.candidates.get(subject))
    device = services.devices.get(DeviceId(subject)).device_id
    return (PartOut(heading="", sentences=_device_sentences(services, device, model)),)


def job_parts(services: Services, job: Job) -> tuple[PartOut, ...]:
    """Return the parts about a Job itself."""
    devices = services.training.devices(job.job_id)
    spread = services.training.accuracy_spread(job.job_id)
    sentences = (
        job_text(job),
        f"{job.created_by} asked {whom_text(job.order)} to learn {job.model} for "
        f"{counted(job.order.rounds, 'Round')}, starting from {job.checkpoint_id}.",
        *accuracy_sentences(spread),
        *_privacy_sentences(services, job),
    )
    absent = [d for d in devices if d.state is not LearningState.READY or d.updates_refused]
    rows = tuple((d.device_id, device_text(d)) for d in absent[:DEVICES_MAX])
    more = len(absent) - len(rows)
    rounds = services.training.rounds(job.job_id)
    parts = [
        PartOut(heading=f"Job {job.job_id}", sentences=sentences),
        PartOut(
            heading="Rounds",
            columns=ROUND_COLUMNS,
            rows=tuple(
                (
                    str(r.round),
                    f"{r.devices_counted} of {r.devices_asked}",
                    str(r.devices_refused),
                    str(r.devices_silent),
                    "–" if r.loss is None else f"{r.loss:.3f}",
                    share_text(r.accuracy),
                    bytes_text(r.bytes_up),
                )
                for r in rounds
            ),
        ),
        PartOut(
            heading="Devices to look at",
            sentences=(f"{more} more are left out here.",) if more else (),
            columns=("device", "what it says"),
            rows=rows,
        ),
    ]
    return tuple(part for part in parts if part.sentences or part.rows)


def verdict_parts(candidate: Candidate) -> tuple[PartOut, ...]:
    """Return the parts about a Candidate and what the gate said."""
    verdict = candidate.verdict
    found = [f"Reason: {reason_text(reason)} [{reason.code}]" for reason in verdict.reasons]
    found += [f"Remark: {reason_text(remark)} [{remark.code}]" for remark in verdict.remarks]
    tests = [f"{slice_name(row).capitalize()}: {slice_text(row)}" for row in verdict.slices[:1]]
    parts = [
        PartOut(
            heading=f"Candidate {candidate.candidate_id}",
            sentences=(verdict_text(verdict), comparison_text(verdict.comparison), *tests, *found),
        ),
        PartOut(heading="Variants", columns=VARIANT_COLUMNS, rows=variant_cells(verdict)),
        PartOut(heading="Slices", columns=SLICE_COLUMNS, rows=slice_cells(verdict)),
    ]
    return tuple(part for part in parts if part.sentences or part.rows)


def accuracy_sentences(spread: AccuracySpread) -> tuple[str, ...]:
    """Return how accuracy is spread over devices before and after, in words."""
    before, after = spread.before, spread.after
    if before is None or after is None:
        return ("No device has told its accuracy before and after yet.",)
    fell = f"it fell on {spread.worse_count}" if spread.worse_count else "it fell on none"
    return (
        f"On their own held-out samples, {after.count} of "
        f"{counted(spread.devices_count, 'device')} went from a median of "
        f"{share_text(before.median)} (lowest {share_text(before.minimum)}) to "
        f"{share_text(after.median)} (lowest {share_text(after.minimum)}); {fell}.",
    )


def find_release(services: Services, candidate: Candidate) -> Release | None:
    """Return the release that a Candidate became, or None."""
    for release in services.releases.releases(candidate.model):
        if release.candidate_id == candidate.candidate_id:
            return release
    return None


def find_candidate(services: Services, job: Job) -> Candidate | None:
    """Return the Candidate that a Job made, let through or refused, or None."""
    candidate_id = job.candidate_id
    if candidate_id is None and job.release_version is not None:
        candidate_id = services.releases.get(job.model, job.release_version).candidate_id
    return _candidate(services, candidate_id) if candidate_id else None


def _tell_job(services: Services, job: Job) -> tuple[PartOut, ...]:
    parts = job_parts(services, job)
    candidate = find_candidate(services, job)
    if candidate is not None:
        parts += verdict_parts(candidate)
    if job.release_version is not None:
        parts += _release_parts(services, services.releases.get(job.model, job.release_version))
    return parts


def _tell_cloud_job(services: Services, job: CloudJob) -> tuple[PartOut, ...]:
    parts = cloud_job_parts(services, job)
    candidate = _candidate(services, job.candidate_id) if job.candidate_id else None
    if candidate is not None:
        parts += verdict_parts(candidate)
    if job.release_version is not None:
        parts += _release_parts(services, services.releases.get(job.model, job.release_version))
    return parts


def _tell_candidate(services: Services, candidate: Candidate) -> tuple[PartOut, ...]:
    parts: tuple[PartOut, ...] = ()
    for job in services.training.jobs_of(candidate.lineage_id):
        if candidate == find_candidate(services, job):
            parts += job_parts(services, job)
    cloud_job = job_of_candidate(services, candidate)
    if cloud_job is not None:
        parts += cloud_job_parts(services, cloud_job)
    release = find_release(services, candidate)
    parts += verdict_parts(candidate)
    return parts + _release_parts(services, release) if release is not None else parts


def _tell_release(services: Services, release: Release) -> tuple[PartOut, ...]:
    candidate = _candidate(services, release.candidate_id)
    if candidate is not None:
        return _tell_candidate(services, candidate)
    return _release_parts(services, release)


def _candidate(services: Services, candidate_id: str) -> Candidate | None:
    """Return a Candidate, or None: a repository outlives the hub's database."""
    try:
        return services.releases.candidates.get(candidate_id)
    except RefusedError:
        return None


def _release_parts(services: Services, release: Release) -> tuple[PartOut, ...]:
    sentences = [
        f"{release.model} v{release.version} is signed, in {', '.join(release.precisions)}; "
        f"its manifest is {release.manifest_digest[:12]}, its lineage {release.lineage_id}."
    ]
    rollouts = [
        rollout
        for rollout in services.rollouts.list(release.model, limit=ROLLOUTS_MAX)
        if rollout.release.version == release.version
    ]
    for rollout in rollouts:
        devices = services.rollouts.get(rollout.rollout_id).devices
        updated = sum(device.state is DeviceState.UPDATED for device in devices)
        sentences.append(
            f"Rollout {rollout.rollout_id} is {rollout.state}: {updated} of "
            f"{counted(len(devices), 'device')} updated."
        )
    if not rollouts:
        sentences.append("No rollout has brought it to a device.")
    sentences.append(_receipts_sentence(services, release))
    return (PartOut(heading=f"Release {release.name}", sentences=tuple(sentences)),)


def _receipts_sentence(services: Services, release: Release) -> str:
    running = [
        model
        for model in services.rollouts.all_device_models()
        if (model.model, model.version) == (release.model, release.version)
    ]
    if not running:
        return "No device runs it now."
    proved = sum(model.proof is not None for model in running)
    devices = counted(len(running), "device")
    return f"It runs on {devices} now; {proved} proved it with a signed receipt."


def _privacy_sentences(services: Services, job: Job) -> Sequence[str]:
    local, central = job.order.local_privacy, job.order.central_privacy
    if local is not None:
        spent = [d.epsilon_spent for d in services.training.devices(job.job_id) if d.epsilon_spent]
        text = f"Each device clips its update to {local.clip_norm:g} and adds noise before sending"
        return (f"{text}; epsilon spent is at most {max(spent):.2f}." if spent else f"{text}.",)
    if central is not None:
        known = [r.epsilon for r in services.training.rounds(job.job_id) if r.epsilon is not None]
        text = (
            f"Devices clip their updates to {central.clip_norm:g}; the hub adds noise to the mean"
        )
        return (f"{text}; epsilon so far is {known[-1]:.2f}." if known else f"{text}.",)
    return ()


def _device_sentences(services: Services, device: DeviceId, model: str | None) -> tuple[str, ...]:
    if model is not None:
        return services.rollouts.why(device, ModelName(model))
    models = [found.model for found in services.rollouts.device_models(device)]
    if not models:
        return (f"{device} has never reported on any model.",)
    return tuple(text for name in models for text in services.rollouts.why(device, name))


def _answer(subject: str, parts: tuple[PartOut, ...]) -> WhyOut:
    sentences = tuple(text for part in parts for text in part.sentences)
    return WhyOut(subject=subject, sentences=sentences, parts=parts)
