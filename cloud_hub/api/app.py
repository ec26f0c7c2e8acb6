"""create_app: the hub's HTTP side, put together. Nothing is decided here.

From the outside in: safe headers, the gate (who asks), limits of bodies, the routes.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles

from cloud_hub.api import (
    audit_routes,
    checkpoints,
    cloud_jobs,
    collections,
    dataset_labels,
    datasets,
    devices,
    evaluation_sets,
    events,
    explanations,
    health,
    infer,
    jobs,
    metrics,
    operator_routes,
    pipelines,
    releases,
    rollouts,
    telemetry,
    tokens,
    usage,
    why,
)
from cloud_hub.api.auth import DEVICE_PATHS, Gate
from cloud_hub.api.device_samples import make_device_samples_router
from cloud_hub.api.enrolment import make_enrolment_router
from cloud_hub.api.errors import add_error_handlers
from cloud_hub.api.http_limits import BodyLimit, SafeHeaders
from cloud_hub.api.observe import observe
from cloud_hub.api.order_body import order_schemas
from cloud_hub.api.services import Services
from cloud_hub.api.settings import ApiSettings
from cloud_hub.dashboard import (
    actions,
    cloud_job_pages,
    collection_pages,
    dataset_pages,
    job_pages,
    label_pages,
    login,
    pages,
)
from cloud_hub.dashboard.render import render_error

OPENAPI_PATH = "/api/v1/openapi.json"
STATIC = Path(__file__).parent.parent / "dashboard" / "static"
DESCRIPTION = """The hub of a fleet of devices that run models.

Every call needs `Authorization: Bearer <operator token>`, but `/health` and what devices call:
`/api/v1/enrolment`, and `/api/v1/device-samples`, which they sign with their own keys.
Times are milliseconds since 1970, UTC. Every refusal has the body `{code, message, remedy}`.
"""
TAGS = [
    {"name": "Devices", "description": "Who is in the fleet, and how to join it."},
    {"name": "Pipelines", "description": "What runs on devices, changed without a restart."},
    {"name": "Telemetry", "description": "What devices conclude and measure."},
    {"name": "Releases", "description": "Models, their signed releases, and channels."},
    {"name": "Learning", "description": "Jobs in which devices learn together, and checkpoints."},
    {"name": "Training", "description": "Jobs in the cloud, their curves, reports and usage."},
    {"name": "Serving", "description": "Released models as an API."},
    {"name": "Rollouts", "description": "Moving devices to a release, and back."},
    {"name": "Hub", "description": "The hub itself: health, metrics, audit, operators."},
    {"name": "Live", "description": "What changes, as it changes."},
]


def create_app(services: Services, settings: ApiSettings) -> FastAPI:
    """Return the app. Call `app.state.live.close()` before stopping the server."""
    app = FastAPI(
        title="Isthmus hub",
        version=services.hub.version,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url=OPENAPI_PATH,
        docs_url=None,  # Swagger's page comes from a CDN.
        redoc_url=None,
        redirect_slashes=False,  # A path is there or it is not: a redirect would lose a body.
    )
    app.state.services = services
    app.state.settings = settings
    app.state.live = events.Live(lambda: observe(services), settings=settings)
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Gate, operators=services.operators, settings=settings)
    app.add_middleware(SafeHeaders)
    add_error_handlers(app, render_error)
    for routed in (
        devices,
        telemetry,
        tokens,
        releases,
        pipelines,
        jobs,
        checkpoints,
        cloud_jobs,
        explanations,
        usage,
        collections,
        datasets,
        dataset_labels,
        evaluation_sets,
        infer,
        rollouts,
        why,
        audit_routes,
        operator_routes,
        events,
        health,
        metrics,
    ):
        app.include_router(routed.routes)
    app.include_router(
        make_enrolment_router(
            services.devices,
            services.enrolment,
            services.releases.bootstrap_root,
            clock=services.clock,
        )
    )
    app.include_router(make_device_samples_router(services))
    for page in (
        login,
        pages,
        actions,
        job_pages,
        cloud_job_pages,
        label_pages,
        dataset_pages,
        collection_pages,
    ):
        app.include_router(page.routes, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Make OpenAPI say what is true here: the token, and that an invalid request is a 400."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                tags=app.openapi_tags,
                routes=app.routes,
            )
            components = schema.setdefault("components", {})
            components["securitySchemes"] = {
                "operator": {"type": "http", "scheme": "bearer", "description": "Operator token"}
            }
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    _correct(path, operation)
            components.setdefault("schemas", {}).update(order_schemas())
            for name in ("HTTPValidationError", "ValidationError"):
                components.get("schemas", {}).pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own documented way.


def _correct(path: str, operation: dict[str, Any]) -> None:
    if path != "/health" and path not in DEVICE_PATHS:
        operation["security"] = [{"operator": []}]
    else:
        operation["responses"].pop("401", None)
    answer = operation["responses"].get("422", {})
    if "HTTPValidationError" in str(answer):  # The framework's own idea; ours is a 400.
        del operation["responses"]["422"]
