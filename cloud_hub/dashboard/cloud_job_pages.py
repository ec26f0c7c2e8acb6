"""The pages about Jobs in the cloud: order one, watch it, its report, two compared, usage."""

import re
from dataclasses import asdict
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from cloud_hub.api.bodies import PROSE_PATTERN, NamePath
from cloud_hub.api.cloud_job_words import run_name, work_text
from cloud_hub.api.order_body import checked_cloud_order
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.api.usage import UsageBy
from cloud_hub.dashboard.cloud_job_charts import RUNS_DRAWN, RunCurve, chart_lines
from cloud_hub.dashboard.cloud_job_view import main_run, value_name, view_cloud_job
from cloud_hub.dashboard.compare_view import view_choices, view_comparison
from cloud_hub.dashboard.form_fields import FormState
from cloud_hub.dashboard.render import render
from cloud_hub.dashboard.report_view import view_report
from cloud_hub.dashboard.train_choices import UNRELEASED
from cloud_hub.dashboard.train_order import errors_of, make_order
from cloud_hub.dashboard.train_view import Wanted, material_of, view_train, wanted_of
from cloud_hub.dashboard.usage_view import view_usage
from cloud_hub.training.cloud.cloud_job import CloudJobState, Run
from cloud_hub.training.cloud.order import CloudOrder
from shared.errors import ContractError, RefusedError
from shared.ids import NAME_PATTERN

routes = APIRouter()

FIELDS_MAX = 200
FIELD_CHARS_MAX = 2000
TEXT_MAX = 120
_PROSE = re.compile(PROSE_PATTERN)
Word = Annotated[str, Query(max_length=TEXT_MAX, pattern=PROSE_PATTERN)]
Sort = Literal["value", "index", "seconds"]


async def read_fields(request: Request) -> dict[str, str]:
    """Return a form's fields. Raises ContractError `request.invalid`, naming the field."""
    async with request.form(max_files=0, max_fields=FIELDS_MAX) as form:
        found = {name: value for name, value in form.items() if isinstance(value, str)}
    if len(found) > FIELDS_MAX:
        raise ContractError("request.invalid", f"The form has over {FIELDS_MAX} fields.")
    for name, value in found.items():
        if len(value) > FIELD_CHARS_MAX or not _PROSE.fullmatch(value):
            raise ContractError(
                "request.invalid",
                f"{name[:TEXT_MAX]}: over {FIELD_CHARS_MAX} characters, or control characters.",
                remedy="Write plain text.",
            )
    return found


FieldsDep = Annotated[dict[str, str], Depends(read_fields)]


@routes.get("/cloud-jobs/new")
def show_train(
    request: Request,
    services: ServicesDep,
    dataset: Word = "",
    version: Word = "",
    start: Word = "",
    task: Word = "",
) -> Response:
    """Show the form that orders a Job in the cloud."""
    view = view_train(services, Wanted(dataset, version, start, task))
    return render(request, "train_new", clock=services.clock, view=view, unreleased=UNRELEASED)


@routes.post("/cloud-jobs/new")
def start_training(
    request: Request, fields: FieldsDep, services: ServicesDep, acting: ActingDep
) -> Response:
    """Order a Job and show it; what is wrong is shown at its field."""
    try:
        order = checked_cloud_order(make_order(fields, material_of(services, fields)))
        about = f"{work_text(order)} on {order.dataset}"
        with acting.act("cloud_job.start", order.model, about[:200]):
            job = services.cloud_jobs.submit(order, by=acting.operator.name)
    except (msgspec.ValidationError, ContractError, RefusedError) as error:
        view = view_train(services, wanted_of(fields), FormState(fields, errors_of(error)))
        return render(
            request,
            "train_new",
            clock=services.clock,
            status=400,
            view=view,
            unreleased=UNRELEASED,
        )
    return RedirectResponse(f"/cloud-jobs/{job.job_id}", status_code=303)


@routes.get("/cloud-jobs/compare")
def show_comparison(
    request: Request, services: ServicesDep, a: Word = "", b: Word = ""
) -> Response:
    """Show two Jobs, or two Candidates, beside each other; without both, the choice."""
    view = view_comparison(services, a.strip(), b.strip()) if a.strip() and b.strip() else None
    choices = view_choices(services)
    return render(
        request, "compare", clock=services.clock, view=view, choices=choices, chosen=(a, b)
    )


@routes.post("/cloud-jobs/join")
def join_jobs(
    services: ServicesDep,
    acting: ActingDep,
    a: Annotated[str, Form(pattern=NAME_PATTERN)],
    b: Annotated[str, Form(pattern=NAME_PATTERN)],
) -> Response:
    """Order a Job that joins what two made into an ensemble, on the first's dataset version."""
    first, second = services.cloud_jobs.get(a), services.cloud_jobs.get(b)
    made = tuple(filter(None, (first.result_checkpoint_id, second.result_checkpoint_id)))
    if not made:
        raise RefusedError("job.no_weights", f"Neither {a} nor {b} has left weights to join.")
    order = CloudOrder(
        model=first.model,
        dataset=first.dataset,
        dataset_version=first.dataset_version,
        ensemble=made,
        is_released=False,
    )
    with acting.act("cloud_job.start", order.model, f"{work_text(order)} on {order.dataset}"):
        job = services.cloud_jobs.submit(order, by=acting.operator.name)
    return RedirectResponse(f"/cloud-jobs/{job.job_id}", status_code=303)


@routes.get("/cloud-jobs/{job_id}")
def show_cloud_job(
    request: Request, job_id: NamePath, services: ServicesDep, sort: Sort = "value"
) -> Response:
    """Show one Job in the cloud."""
    view = view_cloud_job(services, job_id, sort=sort)
    return render(request, "cloud_job", clock=services.clock, view=view)


@routes.get("/cloud-jobs/{job_id}/head")
def show_cloud_job_head(request: Request, job_id: NamePath, services: ServicesDep) -> Response:
    """Show how one Job stands: its name, state, progress and figures."""
    view = view_cloud_job(services, job_id)
    return render(request, "cloud_job_head", clock=services.clock, view=view)


@routes.get("/cloud-jobs/{job_id}/curves")
def show_curves(job_id: NamePath, services: ServicesDep) -> JSONResponse:
    """Return the lines of a Job's charts: the run that matters most, and others beside it."""
    cloud = services.cloud_jobs
    job, runs = cloud.get(job_id), cloud.runs(job_id)
    main = main_run(job, runs)
    drawn = [
        RunCurve(run_name(run), cloud.curve(job_id, run.index), run == main)
        for run in _drawn(runs, main)
    ]
    metrics = next((c.curve.evaluations[-1].metrics for c in drawn if c.curve.evaluations), {})
    lines = {name: [asdict(line) for line in of] for name, of in chart_lines(drawn).items()}
    return JSONResponse({"charts": lines, "value_name": value_name(metrics)})


@routes.post("/cloud-jobs/{job_id}/stop")
def stop_cloud_job(job_id: NamePath, services: ServicesDep, acting: ActingDep) -> Response:
    """Stop a Job; what was learned until then is kept."""
    with acting.act("cloud_job.stop", job_id):
        services.cloud_jobs.stop(job_id, by=acting.operator.name)
    return RedirectResponse(f"/cloud-jobs/{job_id}", status_code=303)


@routes.get("/cloud-jobs/{job_id}/report")
def show_report(
    request: Request,
    job_id: NamePath,
    services: ServicesDep,
    label: Word = "",
    answer: Word = "",
) -> Response:
    """Show how good what a Job made is; of the worst items those of one cell, if asked for."""
    view = view_report(services, job_id, label=label, answer=answer)
    return render(request, "report", clock=services.clock, view=view)


@routes.get("/usage")
def show_usage(request: Request, services: ServicesDep, by: UsageBy = UsageBy.MODEL) -> Response:
    """Show what training took, by month and model or owner."""
    return render(request, "usage", clock=services.clock, view=view_usage(services, by))


def _drawn(runs: tuple[Run, ...], main: Run | None) -> list[Run]:
    """Return the runs whose curves are drawn: of many, those that train and the best ones."""

    def rank(run: Run) -> tuple[int, float]:
        if run == main:
            return 0, 0.0
        value = run.value if run.value is not None else run.progress.best_value
        return 1 if run.state is CloudJobState.RUNNING else 2, -(value or 0.0)

    return sorted((run for run in runs if run.attempt), key=rank)[:RUNS_DRAWN]
