"""The pages about Jobs, checkpoints and Candidates, and what their forms do."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from cloud_hub.api.bodies import PROSE_PATTERN, NamePath
from cloud_hub.api.job_words import whom_text
from cloud_hub.api.order_body import checked_order
from cloud_hub.api.services import ActingDep, ServicesDep
from cloud_hub.dashboard.cloud_job_view import view_all_jobs
from cloud_hub.dashboard.job_view import (
    view_candidate,
    view_checkpoints,
    view_job_page,
    view_new_job,
)
from cloud_hub.dashboard.render import render
from cloud_hub.training.cloud.cloud_job import ID_PREFIX
from cloud_hub.training.job import JobId
from cloud_hub.training.order import JobOrder
from shared.errors import ContractError

routes = APIRouter()

Text = Annotated[str, Form(max_length=1000, pattern=PROSE_PATTERN)]


@routes.get("/jobs")
def show_jobs(request: Request, services: ServicesDep) -> Response:
    """Show the newest Jobs of both kinds, and the checkpoints they start from."""
    return render(
        request,
        "jobs",
        clock=services.clock,
        view=view_all_jobs(services),
        checkpoints=view_checkpoints(services),
        trouble=services.training.trouble,
        cloud_trouble=services.cloud_jobs.status().trouble,
    )


@routes.get("/jobs/new")
def show_new_job(
    request: Request, services: ServicesDep, model: Annotated[str, Query(max_length=63)] = ""
) -> Response:
    """Show the form that starts a Job."""
    return render(request, "job_new", clock=services.clock, view=view_new_job(services, model))


@routes.post("/jobs/new")
def start_job(
    services: ServicesDep,
    acting: ActingDep,
    model: Text,
    strategy: Text,
    rounds: Annotated[int, Form()],
    epochs: Annotated[int, Form()],
    learning_rate: Annotated[float, Form()],
    devices_min: Annotated[int, Form()],
    deadline_minutes: Annotated[float, Form()],
    encoding: Text,
    group: Text = "",
    notes: Text = "",
    needs_approval: Text = "",
    keeps_unreleased: Text = "",
) -> Response:
    """Start a Job and show it."""
    wish: dict[str, object] = {
        "model": model,
        "group": group or None,
        "strategy": {"name": strategy},
        "rounds": rounds,
        "method": {"epochs": epochs, "learning_rate": learning_rate},
        "devices_min": devices_min,
        "deadline_s": deadline_minutes * 60,
        "encoding": encoding,
        "needs_approval": bool(needs_approval),
        "is_released": not keeps_unreleased,
        "notes": notes,
    }
    order = _convert(wish)
    with acting.act("job.start", order.model, whom_text(order)):
        job = services.training.start(order, actor=acting.operator.name)
    return RedirectResponse(f"/jobs/{job.job_id}", status_code=303)


@routes.get("/jobs/{job_id}")
def show_job(request: Request, job_id: NamePath, services: ServicesDep) -> Response:
    """Show one Job; one in the cloud has pages of its own."""
    if job_id.startswith(ID_PREFIX):
        return RedirectResponse(f"/cloud-jobs/{job_id}", status_code=303)
    view = view_job_page(services, JobId(job_id))
    return render(request, "job", clock=services.clock, view=view)


@routes.post("/jobs/{job_id}/{act}")
def act_on_job(
    job_id: NamePath, act: Literal["approve", "stop"], services: ServicesDep, acting: ActingDep
) -> Response:
    """Approve or stop a Job."""
    with acting.act(f"job.{act}", job_id):
        if act == "approve":
            services.training.approve(JobId(job_id), actor=acting.operator.name)
        else:
            services.training.stop(JobId(job_id), actor=acting.operator.name)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@routes.get("/candidates/{candidate_id}")
def show_candidate(request: Request, candidate_id: NamePath, services: ServicesDep) -> Response:
    """Show one Candidate with its Verdict."""
    view = view_candidate(services, candidate_id)
    return render(request, "candidate", clock=services.clock, view=view)


def _convert(wish: dict[str, object]) -> JobOrder:
    try:
        return checked_order(msgspec.convert(wish, JobOrder))
    except msgspec.ValidationError as error:
        raise ContractError(
            "request.invalid", f"{error}.", remedy="Correct that field; `$` stands for the form."
        ) from error
