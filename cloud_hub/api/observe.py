"""What the live stream compares: one mark for everything that a page shows.

A mark is anything that changes when the page would. It is looked at once a second for all pages
together, so it comes from a few queries whatever the number of devices.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from cloud_hub.api.services import Services
from cloud_hub.rollouts.rollout import UNFINISHED
from cloud_hub.training.cloud.cloud_job import CloudJobState
from cloud_hub.training.job import JobState
from shared.ids import DeviceId

ROLLOUTS_MAX = 50  # Newest ones that pages can show live
JOBS_MAX = 50


def observe(services: Services) -> Mapping[str, object]:
    """Return the mark of each topic of the stream."""
    marks: dict[str, object] = {}
    marks.update(_devices(services))
    marks.update(_rollouts(services))
    marks.update(_jobs(services))
    marks.update(_cloud_jobs(services))
    marks["releases"] = (
        tuple(release.name for release in services.releases.releases()),
        services.releases.channels(),
        tuple(c.candidate_id for c in services.releases.candidates.candidates(limit=1)),
    )
    marks["datasets"] = services.datasets.list()
    marks["collections"] = services.collections.list()
    marks["audit"] = tuple(services.audit.entries(limit=1))
    return marks


def _devices(services: Services) -> Iterator[tuple[str, object]]:
    windows: dict[DeviceId, list[int]] = defaultdict(list)
    for window in services.telemetry.latest_windows():
        windows[window.device_id].append(window.id)
    models: dict[DeviceId, list[object]] = defaultdict(list)
    for model in services.rollouts.all_device_models():
        models[model.device_id].append(model)
    told_ms = services.telemetry.last_told_ms()
    fleet: list[object] = []
    for device in services.devices.list_devices():
        own = (
            (device.name, device.groups, device.state, device.presence, device.session_id),
            tuple(models[device.device_id]),
            tuple(windows[device.device_id]),
        )
        fleet.append(own)
        told = told_ms.get(device.device_id)
        yield f"device:{device.device_id}", (own, told, device.outbox_rows, device.last_seen_ms)
    yield "fleet", (tuple(fleet), tuple(part.is_good for part in services.status().parts))


def _rollouts(services: Services) -> Iterator[tuple[str, object]]:
    found = services.rollouts.list(limit=ROLLOUTS_MAX)
    marks: list[object] = []
    for rollout in found:
        mark: object = rollout
        if rollout.state in UNFINISHED:
            view = services.rollouts.get(rollout.rollout_id)
            mark = (view, services.rollouts.timeline(rollout.rollout_id, limit=1))
        marks.append(mark)
        yield f"rollout:{rollout.rollout_id}", mark
    yield "rollouts", tuple(marks)


def _jobs(services: Services) -> Iterator[tuple[str, object]]:
    found = services.training.jobs(limit=JOBS_MAX)
    for job in found:
        mark: object = job
        if job.state is not JobState.FINISHED:
            training, job_id = services.training, job.job_id
            mark = (job, training.rounds(job_id), training.devices(job_id))
        yield f"job:{job.job_id}", mark
    yield "jobs", tuple(found)


def _cloud_jobs(services: Services) -> Iterator[tuple[str, object]]:
    found = services.cloud_jobs.list(limit=JOBS_MAX)
    marks: list[object] = []
    for job in found:
        mark: object = job
        if job.state is not CloudJobState.FINISHED:
            mark = (job, services.cloud_jobs.runs(job.job_id))
        marks.append(mark)
        yield f"cloud-job:{job.job_id}", mark
    yield "cloud-jobs", (tuple(marks), services.cloud_jobs.status().trouble)
