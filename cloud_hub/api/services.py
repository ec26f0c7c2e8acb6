"""What the API and the dashboard stand on: the hub's services, and what the hub says of itself.

Routes get all of it through one dependency; they hold no state of their own.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from cloud_hub.api.audit import AuditLog
from cloud_hub.api.enrolment import EnrolmentInfo
from cloud_hub.api.operator_service import OperatorService
from cloud_hub.api.operators import Operator
from cloud_hub.datasets.collecting.service import CollectionService
from cloud_hub.datasets.service import DatasetService
from cloud_hub.devices.service import DeviceService
from cloud_hub.releases.service import ReleaseService
from cloud_hub.rollouts.controller import RolloutController
from cloud_hub.serving.service import ServingService
from cloud_hub.sql_database import Database
from cloud_hub.telemetry.service import TelemetryService
from cloud_hub.training.cloud.service import CloudJobService
from cloud_hub.training.service import TrainingService
from shared.clock import Clock


@dataclass(frozen=True, slots=True)
class HubInfo:
    """What does not change while the hub runs."""

    version: str
    join_url: str  # What devices join at: "https://hub.example:8443"
    broker_url: str  # "mqtts://hub.example:8883"
    ca_fingerprint: str
    started_ms: int


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of the hub, now."""

    name: str  # "broker", "link", "inbox", "rollouts", …
    is_good: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HubStatus:
    """The whole hub, now: cheap to make, asked at every /health and /metrics."""

    parts: tuple[PartStatus, ...] = ()
    messages_by_topic: Mapping[str, int] = field(default_factory=dict)  # Taken since start
    rejected_by_code: Mapping[str, int] = field(default_factory=dict)  # Refused since start


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may call."""

    database: Database
    devices: DeviceService
    telemetry: TelemetryService
    releases: ReleaseService
    datasets: DatasetService
    collections: CollectionService
    training: TrainingService
    cloud_jobs: CloudJobService
    rollouts: RolloutController
    serving: ServingService
    operators: OperatorService
    audit: AuditLog
    hub: HubInfo
    enrolment: EnrolmentInfo
    status: Callable[[], HubStatus]
    clock: Clock


@dataclass(frozen=True, slots=True)
class Acting:
    """Who asks, and where it is written down."""

    operator: Operator
    audit: AuditLog

    def act(self, action: str, subject: str, detail: str = "") -> AbstractContextManager[None]:
        """Write down the act done inside the `with`: before it, and how it ended."""
        return self.audit.act(self.operator.name, action, subject, detail)


def services_of(request: Request) -> Services:
    """Return the services of the app that answers `request`."""
    return cast(Services, request.app.state.services)


def operator_of(request: Request) -> Operator:
    """Return who asks; the gate in auth.py lets nobody else through."""
    return cast(Operator, request.state.operator)


def acting_of(request: Request) -> Acting:
    """Return who asks, ready to act."""
    return Acting(operator=operator_of(request), audit=services_of(request).audit)


ServicesDep = Annotated[Services, Depends(services_of)]
OperatorDep = Annotated[Operator, Depends(operator_of)]
ActingDep = Annotated[Acting, Depends(acting_of)]
