"""Where a model that was trained in the cloud came from: Job, data, measure, and all before it.

1. The way back is checkpoint by checkpoint: each was made by a Job from another one, until weights
   were drawn or uploaded. What has been removed since is said to be gone.
"""

from collections.abc import Sequence

from cloud_hub.api.cloud_job_words import cloud_job_text, order_text, run_name, sentence
from cloud_hub.api.services import Services
from cloud_hub.api.why_bodies import PartOut
from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.explain.report import Interval, Report
from cloud_hub.training.cloud.cloud_job import ID_PREFIX, CloudJob
from shared.errors import RefusedError

CHAIN_MAX = 20  # Checkpoints that are told, from the newest back
METRICS_MAX = 12
SLICES_MAX = 10
METRIC_COLUMNS = ("measure", "value#")
SLICE_COLUMNS = ("worse than the whole", "items#", "share#", "95 %")


def cloud_job_parts(services: Services, job: CloudJob) -> tuple[PartOut, ...]:
    """Return the parts about a Job in the cloud: what it is, on what, from what, how good."""
    sentences = (cloud_job_text(job), order_text(job), *_run_sentences(services, job))
    parts = [
        PartOut(heading=f"Job {job.job_id}", sentences=sentences),
        PartOut(
            heading=f"Data {job.dataset}:{job.dataset_version}", sentences=_data(services, job)
        ),
        *_report_parts(services.cloud_jobs.report(job.job_id)),
        PartOut(heading="Before that", sentences=_chain(services, job)),
    ]
    return tuple(part for part in parts if part.sentences or part.rows)


def share_text(interval: Interval) -> str:
    """Return a share with its interval and count."""
    return (
        f"{interval.value * 100:.1f} % ({interval.low * 100:.1f} to {interval.high * 100:.1f}, "
        f"{interval.count:,} items)"
    )


def _run_sentences(services: Services, job: CloudJob) -> Sequence[str]:
    runs = services.cloud_jobs.runs(job.job_id)
    seconds = sum(run.progress.device_seconds for run in runs)
    found = [f"Its {len(runs)} {_plural('run', len(runs))} took {seconds:,.1f} device-seconds."]
    if job.result_run is not None and len(runs) > 1:
        name = run_name(runs[job.result_run])
        found.append(f"{name} made the result.")
    if job.result_checkpoint_id is not None:
        found.append(f"Its weights are {job.result_checkpoint_id}, in lineage {job.lineage_id}.")
    return found


def _data(services: Services, job: CloudJob) -> tuple[str, ...]:
    try:
        version = services.datasets.version(job.dataset, job.dataset_version)
    except RefusedError:
        return (f"That version has been removed; its manifest was {job.manifest_digest[:12]}.",)
    parts = ", ".join(f"{count:,} {part}" for part, count in version.counts_by_part.items())
    return (
        f"{version.items_count:,} items ({parts}), {version.labelled_count:,} labelled; its "
        f"manifest is {version.digest[:12]}, its lineage {version.lineage_id}.",
        f"{version.created_by} made it: {sentence(version.note)}",
    )


def _report_parts(report: Report | None) -> tuple[PartOut, ...]:
    if report is None:
        return ()
    head = f"On {report.items_count:,} items of the part {report.part}"
    accuracy = report.accuracy
    told = f"{head}: {share_text(accuracy)} right." if accuracy is not None else f"{head}."
    metrics = tuple((name, f"{value:.4f}") for name, value in report.metrics.items())
    worse = [row for row in report.slices if row.is_worse]
    rows = tuple(
        (
            f"{row.by} {row.name}",
            f"{row.accuracy.count:,}",
            f"{row.accuracy.value * 100:.1f} %",
            f"{row.accuracy.low * 100:.1f} to {row.accuracy.high * 100:.1f}",
        )
        for row in worse[:SLICES_MAX]
    )
    return (
        PartOut(
            heading="How good it became",
            sentences=(told, *report.notes),
            columns=METRIC_COLUMNS,
            rows=metrics[:METRICS_MAX],
        ),
        PartOut(heading="Slices to look at", columns=SLICE_COLUMNS, rows=rows),
    )


def _chain(services: Services, job: CloudJob) -> tuple[str, ...]:
    """Return where the weights came from that a Job started with, step by step."""
    found: list[str] = []
    checkpoint_id = job.base_checkpoint_id
    seen: set[str] = set()
    while checkpoint_id is not None and checkpoint_id not in seen:
        if len(seen) == CHAIN_MAX:
            found.append("Further back is left out here.")
            break
        seen.add(checkpoint_id)
        told, checkpoint_id = _step_back(services, checkpoint_id)
        found.append(told)
    return tuple(found)


def _step_back(services: Services, checkpoint_id: str) -> tuple[str, CheckpointId | None]:
    """Return where one checkpoint came from, and the one before it."""
    try:
        origin = services.releases.checkpoints.get(CheckpointId(checkpoint_id)).origin
    except RefusedError:
        return f"{checkpoint_id} has been removed; where it came from is not known.", None
    if not origin.startswith(ID_PREFIX):
        words = {"uploaded": "was uploaded", "drawn": "was drawn: fresh weights"}
        return f"{checkpoint_id} {words.get(origin, f'was made by {origin}')}.", None
    try:
        job = services.cloud_jobs.get(origin)
    except RefusedError:
        return f"{checkpoint_id} was made by {origin}, which is not known here any more.", None
    start = job.base_checkpoint_id
    return (
        f"{checkpoint_id} was made by {origin} on {job.dataset}:{job.dataset_version}, from "
        f"{start or 'fresh weights'}.",
        start,
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
