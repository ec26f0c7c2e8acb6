"""Jobs in the cloud: order one, watch it, see how good it became, compare it with another."""

from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Response

from cloud_hub.api.bodies import LIST_DEFAULT, PROSE_PATTERN, Limit, Name, NamePath, errors
from cloud_hub.api.cloud_job_bodies import (
    CloudEventOut,
    CloudEventsOut,
    CloudJobOut,
    CloudJobsOut,
    CurveOut,
    RunOut,
    RunsOut,
    TrialOut,
    TrialsOut,
)
from cloud_hub.api.cloud_job_words import work_text
from cloud_hub.api.comparison import ComparisonOut, compare
from cloud_hub.api.order_body import (
    JSON_TYPE,
    CloudOrderBody,
    cloud_order_description,
    struct_answer,
)
from cloud_hub.api.rollouts import ActIn
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.explain.report import Report
from cloud_hub.training.cloud.cloud_job import CloudJob
from cloud_hub.training.cloud.planner import OWNER_CHARS_MAX
from shared.errors import RefusedError
from shared.ids import ModelName

routes = APIRouter(prefix="/api/v1/cloud-jobs", tags=["Training"])

EVENTS_MAX = 1000
EVENT_NUMBER_MAX = 2**53
RUN_INDEX_MAX = 100_000
TAIL_BYTES_DEFAULT = 64 << 10
TAIL_BYTES_MAX = 1 << 20  # As the service has it
FILE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}$"
PNG_TYPE, TEXT_TYPE = "image/png", "text/plain"
PNG_HEADERS = {
    # Opened by itself nothing in it runs.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Content-Disposition": "inline",
    "Cache-Control": "private, max-age=3600",
}
RunPath = Annotated[int, Path(ge=0, le=RUN_INDEX_MAX, description="Of the Job's runs, from 0")]
RunQuery = Annotated[
    int | None,
    Query(ge=0, le=RUN_INDEX_MAX, description="A run; default: the one that made the result"),
]
FilePath = Annotated[str, Path(pattern=FILE_PATTERN, description="A name that the report lists")]


@routes.post(
    "",
    summary="Order a Job",
    status_code=201,
    responses=errors(404, 409),
    openapi_extra=cloud_order_description(),
)
def start_job(order: CloudOrderBody, services: ServicesDep, acting: ActingDep) -> CloudJobOut:
    """Queue a training Job; it goes on by itself. What is wrong with the order names its field."""
    about = f"{work_text(order)} on {order.dataset}"
    with acting.act("cloud_job.start", order.model, about[:200]):
        job = services.cloud_jobs.submit(order, by=acting.operator.name)
    return CloudJobOut.of(job)


@routes.get("", summary="Jobs in the cloud, newest first", responses=errors())
def list_jobs(
    services: ServicesDep,
    limit: Limit = LIST_DEFAULT,
    model: Name | None = None,
    owner: Annotated[str | None, Query(max_length=OWNER_CHARS_MAX, pattern=PROSE_PATTERN)] = None,
) -> CloudJobsOut:
    """Return the newest Jobs, of one model or owner, or all."""
    wanted = ModelName(model) if model else None
    found = services.cloud_jobs.list(model=wanted, owner=owner, limit=limit)
    return CloudJobsOut(jobs=tuple(CloudJobOut.of(job) for job in found))


@routes.get("/compare", summary="Two beside each other", responses=errors(404, 409))
def compare_jobs(
    services: ServicesDep,
    a: Annotated[Name, Query(description="A Job, or a Candidate that one made")],
    b: Annotated[Name, Query(description="Another")],
) -> ComparisonOut:
    """Return numbers, classes and orders of both, and a paired test over the same items."""
    return compare(services, a, b)


@routes.get("/{job_id}", summary="One Job", responses=errors(404))
def get_job(job_id: NamePath, services: ServicesDep) -> CloudJobOut:
    """Return a Job with its order."""
    return CloudJobOut.of(services.cloud_jobs.get(job_id))


@routes.post("/{job_id}/stop", summary="Stop it", responses=errors(404, 409))
def stop_job(
    job_id: NamePath, body: ActIn, services: ServicesDep, acting: ActingDep
) -> CloudJobOut:
    """End a Job before its time; what was learned until then is kept as a checkpoint."""
    with acting.act("cloud_job.stop", job_id, body.why):
        job = services.cloud_jobs.stop(job_id, by=acting.operator.name, reason=body.why)
    return CloudJobOut.of(job)


@routes.get("/{job_id}/runs", summary="Its runs", responses=errors(404))
def list_runs(job_id: NamePath, services: ServicesDep) -> RunsOut:
    """Return the training runs, each with how far it is: one, or one for each fold or trial."""
    found = services.cloud_jobs.runs(job_id)
    return RunsOut(runs=tuple(RunOut.of(run) for run in found))


@routes.get("/{job_id}/runs/{index}/curve", summary="How a run went", responses=errors(404))
def get_curve(job_id: NamePath, index: RunPath, services: ServicesDep) -> CurveOut:
    """Return loss, value, speed and cost over steps, thinned to what can be drawn."""
    return CurveOut.of(services.cloud_jobs.curve(job_id, index))


@routes.get(
    "/{job_id}/runs/{index}/log",
    summary="What its processes printed",
    response_class=Response,
    responses={**errors(404), 200: {"content": {TEXT_TYPE: {}}}},
)
def get_log(
    job_id: NamePath,
    index: RunPath,
    services: ServicesDep,
    tail: Annotated[
        int, Query(ge=1, le=TAIL_BYTES_MAX, description="Bytes at most, from the end")
    ] = TAIL_BYTES_DEFAULT,
) -> Response:
    """Return the end of a run's log as text; empty where it is gone."""
    text = services.cloud_jobs.log(job_id, index, tail=tail)
    return Response(text.encode("utf-8", "replace"), media_type=f"{TEXT_TYPE}; charset=utf-8")


@routes.get("/{job_id}/events", summary="What happened in a run", responses=errors(404))
def list_events(
    job_id: NamePath,
    services: ServicesDep,
    run: Annotated[int, Query(ge=0, le=RUN_INDEX_MAX)] = 0,
    after: Annotated[int, Query(ge=0, le=EVENT_NUMBER_MAX, description="Only later numbers")] = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = EVENTS_MAX,
) -> CloudEventsOut:
    """Return what the trainer told, oldest first: starts, progress, evaluations, notes."""
    found = services.cloud_jobs.events(job_id, run, after=after, limit=limit)
    return CloudEventsOut(events=tuple(CloudEventOut.of(event) for event in found))


@routes.get("/{job_id}/trials", summary="Its trials", responses=errors(404))
def list_trials(job_id: NamePath, services: ServicesDep) -> TrialsOut:
    """Return a search's trials with their values; none where the Job is no search."""
    found = services.cloud_jobs.trials(job_id)
    return TrialsOut(trials=tuple(TrialOut.of(trial) for trial in found))


@routes.get(
    "/{job_id}/report",
    summary="How good it became",
    response_class=Response,
    responses={**errors(404), **struct_answer(Report)},
)
def get_report(job_id: NamePath, services: ServicesDep, run: RunQuery = None) -> Response:
    """Return scores, slices, confusion matrix, calibration and worst items, with intervals."""
    report = services.cloud_jobs.report(job_id, run)
    if report is None:
        raise _nothing(services.cloud_jobs.get, job_id)
    return Response(msgspec.json.encode(report), media_type=JSON_TYPE)


@routes.get(
    "/{job_id}/files/{name}",
    summary="One of its pictures",
    response_class=Response,
    responses={**errors(404), 200: {"content": {PNG_TYPE: {}}}},
)
def get_file(
    job_id: NamePath, name: FilePath, services: ServicesDep, run: RunQuery = None
) -> Response:
    """Return a picture that the report names, PNG."""
    data = services.cloud_jobs.plot(job_id, name, run)
    if data is None:
        services.cloud_jobs.get(job_id)
        raise RefusedError(
            "cloud_file.unknown",
            f"The report on {job_id} has no file {name}.",
            remedy="Take a name from its report: plots[].file, worst[].saliency.",
        )
    return Response(data, media_type=PNG_TYPE, headers=PNG_HEADERS)


def _nothing(get: Callable[[str], CloudJob], job_id: str) -> RefusedError:
    job = get(job_id)
    why = (
        "it is not done yet" if job.finished_ms is None else "nobody looked, or nothing came of it"
    )
    return RefusedError(
        "report.unknown",
        f"There is no report on {job_id}: {why}.",
        remedy="Order Jobs with is_explained, on a dataset that has a test part.",
    )
