"""What the fleet's and one device's pages show, gathered from the services."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_hub.api.pipelines import pipelines_out
from cloud_hub.api.services import PartStatus, Services
from cloud_hub.dashboard.charts import Spark, spark
from cloud_hub.dashboard.decision_view import DecisionRun, decision_runs
from cloud_hub.dashboard.pipeline_view import PipelineRow, pipeline_rows
from cloud_hub.devices.device import Device, DeviceState
from cloud_hub.devices.presence import PresenceState
from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.rollout import UNFINISHED, Rollout
from cloud_hub.rollouts.timeline import ReceiptFact
from cloud_hub.telemetry.rollup import combine
from cloud_hub.telemetry.sql_store import Told
from shared.clock import now_ms
from shared.ids import DeviceId
from shared.release.receipt import ReceiptOutcome
from shared.wire.records import EventRecord, HostRecord, TelemetryRecord

ROWS_MAX = 100  # Of the fleet's table; search finds the others
SPARK_WINDOWS = 30
SPARK_AGE_MS = 3_600_000
ROLLOUTS_LOOKED_AT = 50
DECISIONS_READ = 400  # The newest, for the runs that are shown
EVENTS_SHOWN = 20
RECEIPTS_SHOWN = 8
WHY_SHOWN = 12
CHART_MINUTES = 30
CHART_POINTS = 1000
WINDOWS_MAX = 2000
CHART_PIPELINES_MAX = 4
GAP_WINDOWS = 4  # Longer without a window is silence


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device in the fleet's table."""

    device: Device
    models: tuple[DeviceModel, ...]
    items_per_s: float | None
    latency_ms_p95: float | None
    spark: Spark | None


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet's page."""

    query: str
    rows: tuple[DeviceRow, ...]
    hidden_count: int
    devices_count: int
    online_count: int
    models_count: int
    proved_count: int
    items_per_s: float
    latency_ms_p95: float | None
    open_rollouts: tuple[Rollout, ...]
    ailing_parts: tuple[PartStatus, ...]  # Of the hub itself

    @property
    def is_empty(self) -> bool:
        """Whether there is no device at all."""
        return self.devices_count == 0 and not self.rows and not self.query


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device's page."""

    device: Device
    models: tuple[DeviceModel, ...]
    items_per_s: float | None
    latency_ms_p95: float | None
    confidence_mean: float | None
    swap_pause_ms_max: float | None
    host: Told[HostRecord] | None
    decisions: tuple[DecisionRun, ...]
    events: tuple[Told[EventRecord], ...]
    receipts: tuple[ReceiptFact, ...]
    why: tuple[str, ...]
    pipelines: tuple[PipelineRow, ...]


@dataclass(frozen=True, slots=True)
class Swap:
    """When a pipeline began to run another version."""

    at: float  # Seconds since 1970
    text: str


@dataclass(frozen=True, slots=True)
class LatencySeries:
    """One pipeline's p95 over time; None where it was silent."""

    label: str
    at: tuple[float, ...]  # Seconds since 1970
    latency_ms: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class LatencyChart:
    """What the chart of a device's page is drawn from."""

    series: tuple[LatencySeries, ...]
    swaps: tuple[Swap, ...]


def view_fleet(services: Services, query: str) -> FleetView:
    """Return the fleet, only what matches `query` (name, id, group, model) in the table."""
    devices = services.devices.list_devices()
    enrolled = [device for device in devices if device.state is DeviceState.ENROLLED]
    windows: dict[DeviceId, list[TelemetryRecord]] = defaultdict(list)
    for told in services.telemetry.latest_windows():
        windows[told.device_id].append(told.body)
    models: dict[DeviceId, list[DeviceModel]] = defaultdict(list)
    for model in services.rollouts.all_device_models():
        models[model.device_id].append(model)
    matching = [d for d in devices if _matches(d, models[d.device_id], query)]
    matching.sort(key=lambda device: (device.state is DeviceState.REVOKED, device.name))
    totals = {device: combine(own) for device, own in windows.items()}
    running = [model for d in enrolled for model in models[d.device_id] if model.target_version]
    return FleetView(
        query=query,
        rows=tuple(
            _row(services, device, models[device.device_id], windows.get(device.device_id, []))
            for device in matching[:ROWS_MAX]
        ),
        hidden_count=max(0, len(matching) - ROWS_MAX),
        devices_count=len(enrolled),
        online_count=sum(d.presence is PresenceState.ONLINE for d in enrolled),
        models_count=len(running),
        proved_count=sum(_runs_target(model) for model in running),
        items_per_s=sum(_rate(own) for own in windows.values()),
        latency_ms_p95=max(
            (t.latency_ms_p95 for t in totals.values() if t.latency_ms_p95 is not None),
            default=None,
        ),
        open_rollouts=tuple(
            r for r in services.rollouts.list(limit=ROLLOUTS_LOOKED_AT) if r.state in UNFINISHED
        ),
        ailing_parts=tuple(part for part in services.status().parts if not part.is_good),
    )


def view_device(services: Services, device_id: DeviceId) -> DeviceView:
    """Return one device. Raises RefusedError `device.unknown`."""
    device = services.devices.get(device_id)
    models = services.rollouts.device_models(device_id)
    latest = [told.body for told in services.telemetry.latest_windows([device_id])]
    totals = combine(latest) if latest else None
    hosts = services.telemetry.hosts(device_id, limit=1)
    at_ms = now_ms(services.clock)
    since_ms = at_ms - CHART_MINUTES * 60_000
    recent = services.telemetry.windows(device_id, since_ms=since_ms, limit=WINDOWS_MAX)
    why = [text for model in models for text in services.rollouts.why(device_id, model.model)]
    return DeviceView(
        device=device,
        models=models,
        items_per_s=_rate(latest) if latest else None,
        latency_ms_p95=totals.latency_ms_p95 if totals else None,
        confidence_mean=totals.confidence_mean if totals else None,
        swap_pause_ms_max=max((told.body.swap_pause_ms_max for told in recent), default=None),
        host=hosts[0] if hosts else None,
        decisions=decision_runs(services.telemetry.decisions(device_id, limit=DECISIONS_READ)),
        events=services.telemetry.events(device_id, limit=EVENTS_SHOWN),
        receipts=services.rollouts.receipts(device_id, limit=RECEIPTS_SHOWN),
        why=tuple(why[:WHY_SHOWN]),
        pipelines=pipeline_rows(pipelines_out(services, device_id).pipelines, recent, now_ms=at_ms),
    )


def view_chart(services: Services, device_id: DeviceId) -> LatencyChart:
    """Return the latency of a device's pipelines over the last CHART_MINUTES."""
    device = services.devices.get(device_id)
    since_ms = now_ms(services.clock) - CHART_MINUTES * 60_000
    windows = services.telemetry.windows(device.device_id, since_ms=since_ms, limit=CHART_POINTS)
    ordered = sorted(windows, key=lambda told: told.received_ms)
    busiest = Counter(told.body.pipeline for told in ordered).most_common(CHART_PIPELINES_MAX)
    return LatencyChart(
        series=tuple(
            _series(name, [told for told in ordered if told.body.pipeline == name])
            for name in sorted(name for name, _ in busiest)
        ),
        swaps=_swaps(ordered),
    )


def _series(name: str, told: Sequence[Told[TelemetryRecord]]) -> LatencySeries:
    at: list[float] = []
    values: list[float | None] = []
    for one in told:
        at_s = one.received_ms / 1000
        if at and at_s - at[-1] > GAP_WINDOWS * max(one.body.window_s, 1.0):
            at.append((at[-1] + at_s) / 2)  # A line across silence would claim to know.
            values.append(None)
        at.append(at_s)
        values.append(one.body.latency_ms_p95 if one.body.items_decided else None)
    return LatencySeries(label=f"{name} p95", at=tuple(at), latency_ms=tuple(values))


def _swaps(ordered: Sequence[Told[TelemetryRecord]]) -> tuple[Swap, ...]:
    swaps: list[Swap] = []
    running: dict[str, int] = {}
    for told in ordered:
        body = told.body
        before = running.get(body.pipeline)
        if before is not None and before != body.version:
            swaps.append(Swap(at=told.received_ms / 1000, text=f"v{body.version}"))
        running[body.pipeline] = body.version
    return tuple(swaps)


def _row(
    services: Services,
    device: Device,
    models: Sequence[DeviceModel],
    windows: Sequence[TelemetryRecord],
) -> DeviceRow:
    since_ms = now_ms(services.clock) - SPARK_AGE_MS
    told = services.telemetry.windows(device.device_id, since_ms=since_ms, limit=SPARK_WINDOWS)
    items: Counter[str] = Counter()
    for one in told:
        items[one.body.pipeline] += one.body.items_decided
    busiest = max(items, key=items.__getitem__, default="")
    latencies = [
        one.body.latency_ms_p95
        for one in reversed(told)
        if one.body.pipeline == busiest and one.body.items_decided
    ]
    return DeviceRow(
        device=device,
        models=tuple(models),
        items_per_s=_rate(windows) if windows else None,
        latency_ms_p95=combine(windows).latency_ms_p95,
        spark=spark(latencies),
    )


def _rate(windows: Sequence[TelemetryRecord]) -> float:
    return sum(w.items_decided / w.window_s for w in windows if w.window_s > 0)


def _runs_target(model: DeviceModel) -> bool:
    return model.version == model.target_version and model.proof is ReceiptOutcome.SETTLED


def _matches(device: Device, models: Sequence[DeviceModel], query: str) -> bool:
    texts = (device.name, device.device_id, *device.groups, *(model.model for model in models))
    return all(any(word in text.lower() for text in texts) for word in query.lower().split())
