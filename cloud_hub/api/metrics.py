"""/metrics: what Prometheus reads. Made anew at each scrape from the services; own registry.

Names end in their unit; everything the hub counts since its start is a counter.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cloud_hub.api.bodies import errors
from cloud_hub.api.health import all_parts
from cloud_hub.api.services import Services, ServicesDep
from cloud_hub.devices.device import DeviceState
from cloud_hub.devices.presence import PresenceState
from cloud_hub.rollouts.rollout import RolloutState
from cloud_hub.training.cloud.cloud_job import CloudJobState
from cloud_hub.training.job import JobState, Outcome

routes = APIRouter(tags=["Hub"])

ROLLOUTS_MAX = 1000  # The newest ones are counted
JOBS_MAX = 1000
Family = GaugeMetricFamily | CounterMetricFamily


class HubCollector(Collector):
    """Reads the services when asked."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Family]:
        """Yield every metric."""
        yield from self._fleet()
        yield from self._taken()
        yield from self._rollouts()
        yield from self._jobs()
        yield from self._cloud_jobs()
        yield self._served()

    def _fleet(self) -> Iterator[Family]:
        devices = self._services.devices.list_devices()
        enrolled = [d for d in devices if d.state is DeviceState.ENROLLED]
        presence = Counter(d.presence.value for d in enrolled)
        yield _gauge(
            "isthmus_devices",
            "Enrolled devices",
            "presence",
            ((state.value, presence[state.value]) for state in PresenceState),
        )
        yield _gauge(
            "isthmus_devices_revoked", "Revoked devices", "", (("", len(devices) - len(enrolled)),)
        )
        waiting = sum(d.outbox_rows or 0 for d in enrolled)
        dropped = sum(d.outbox_dropped or 0 for d in enrolled)
        yield _gauge("isthmus_outbox_rows", "Records waiting on devices", "", (("", waiting),))
        yield _gauge("isthmus_outbox_dropped_rows", "Records devices dropped", "", (("", dropped),))
        windows = self._services.telemetry.latest_windows()
        rate = sum(w.body.items_decided / w.body.window_s for w in windows if w.body.window_s > 0)
        yield _gauge(
            "isthmus_items_decided_per_second", "Decisions of the fleet", "", (("", rate),)
        )

    def _taken(self) -> Iterator[Family]:
        status = self._services.status()
        counts = self._services.telemetry.counts
        for name, text, value in (
            ("isthmus_records_ingested", "Records stored", counts.records),
            ("isthmus_records_duplicate", "Records dropped as duplicates", counts.duplicates),
            (
                "isthmus_records_missing",
                "Records devices dropped before the hub had them",
                counts.missing,
            ),
        ):
            yield _counter(name, text, "", (("", value),))
        yield _counter(
            "isthmus_messages", "Messages taken", "topic", status.messages_by_topic.items()
        )
        yield _counter(
            "isthmus_rejections", "Messages refused", "code", status.rejected_by_code.items()
        )
        parts = all_parts(self._services, status)
        yield _gauge(
            "isthmus_part_good",
            "1 if a part of the hub is well",
            "part",
            ((part.name, float(part.is_good)) for part in parts),
        )

    def _rollouts(self) -> Iterator[Family]:
        found = self._services.rollouts.list(limit=ROLLOUTS_MAX)
        states = Counter(rollout.state.value for rollout in found)
        yield _gauge(
            "isthmus_rollouts",
            f"Rollouts, of the newest {ROLLOUTS_MAX}",
            "state",
            ((state.value, states[state.value]) for state in RolloutState),
        )
        releases = Counter(release.model for release in self._services.releases.releases())
        yield _gauge("isthmus_releases", "Releases", "model", releases.items())

    def _jobs(self) -> Iterator[Family]:
        found = self._services.training.jobs(limit=JOBS_MAX)
        states = Counter(job.state.value for job in found)
        yield _gauge(
            "isthmus_jobs",
            f"Jobs of learning together, of the newest {JOBS_MAX}",
            "state",
            ((state.value, states[state.value]) for state in JobState),
        )
        outcomes = Counter(job.outcome.value for job in found if job.outcome is not None)
        yield _gauge(
            "isthmus_jobs_finished",
            "Finished Jobs of learning together, of as many",
            "outcome",
            ((outcome.value, outcomes[outcome.value]) for outcome in Outcome),
        )

    def _cloud_jobs(self) -> Iterator[Family]:
        jobs = self._services.cloud_jobs
        states = Counter(job.state.value for job in jobs.list(limit=JOBS_MAX))
        yield _gauge(
            "isthmus_cloud_jobs",
            f"Jobs in the cloud, of the newest {JOBS_MAX}",
            "state",
            ((state.value, states[state.value]) for state in CloudJobState),
        )
        status = jobs.status()
        yield _gauge(
            "isthmus_training_runs",
            "Training runs that wait or train",
            "state",
            (("queued", status.runs_queued), ("running", status.runs_running)),
        )
        yield _gauge("isthmus_training_slots", "Runs at a time here", "", (("", status.slots),))
        spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        for row in jobs.usage():
            spent[row.model, row.owner] += row.device_seconds
        family = CounterMetricFamily(
            "isthmus_training_device_seconds",
            "What training took: wall seconds times processes",
            labels=["model", "owner"],
        )
        for who, seconds in spent.items():
            family.add_metric(who, seconds)
        yield family

    def _served(self) -> Family:
        served = dict(self._services.serving.items_by_model)
        return _counter(
            "isthmus_items_served", "Items that released models were asked", "model", served.items()
        )


@routes.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={**errors(), 200: {"content": {"text/plain": {}}}},
)
def metrics(services: ServicesDep) -> Response:
    """Return every number in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HubCollector(services))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _gauge(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Family:
    return _fill(GaugeMetricFamily(name, text, labels=[label] if label else []), label, rows)


def _counter(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Family:
    return _fill(CounterMetricFamily(name, text, labels=[label] if label else []), label, rows)


def _fill(family: Family, label: str, rows: Iterable[tuple[str, float]]) -> Family:
    for value, number in rows:
        family.add_metric([value] if label else [], number)
    return family
