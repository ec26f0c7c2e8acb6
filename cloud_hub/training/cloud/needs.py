"""What Jobs need that are not over yet, and the refusal to take it from them. Pure."""

from collections.abc import Iterable

from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobState
from shared.errors import RefusedError


def require_dataset_free(jobs: Iterable[CloudJob], dataset: str, version: int | None) -> None:
    """Raise RefusedError `dataset.needed` where a Job trains, or will, on a version; None: any."""
    for job in jobs:
        is_same = job.dataset == dataset and version in (None, job.dataset_version)
        if is_same and job.state is not CloudJobState.FINISHED:
            name = f"{job.dataset}:{job.dataset_version}"
            raise RefusedError(
                "dataset.needed",
                f"Job {job.job_id} is {job.state} and needs {name}.",
                remedy=_remedy(job),
            )


def require_checkpoint_free(jobs: Iterable[CloudJob], checkpoint_id: str) -> None:
    """Raise RefusedError `checkpoint.needed` where a Job starts from it, or made it."""
    for job in jobs:
        order = job.order
        needed = (order.checkpoint, order.teacher, *order.ensemble, job.result_checkpoint_id)
        if checkpoint_id in needed:
            raise RefusedError(
                "checkpoint.needed",
                f"Job {job.job_id} needs {checkpoint_id} until its result is settled.",
                remedy=_remedy(job),
            )


def require_evaluation_set_free(jobs: Iterable[CloudJob], model: str, digest: str) -> None:
    """Raise RefusedError `evaluation.needed` where what a Job learns is still to be judged by it.

    Args:
        jobs: that are not settled.
        model: whose set it is.
        digest: of the model's newest set: older ones judge nothing any more.
    """
    for job in jobs:
        if job.model == model and job.order.is_released:
            raise RefusedError(
                "evaluation.needed",
                f"What Job {job.job_id} learns will be judged by {digest[:12]}.",
                remedy="Add another set first, or wait until that is judged.",
            )


def _remedy(job: CloudJob) -> str:
    return f"Wait for it, or stop it: cloud-hub jobs stop {job.job_id}."
