"""What a device's page says of each pipeline."""

import msgspec

from cloud_hub.api.pipelines import PipelineOut
from cloud_hub.dashboard.pipeline_view import FLOW_MINUTES, pipeline_rows
from cloud_hub.telemetry.sql_store import Told
from shared.ids import DeviceId
from shared.wire.records import StageTimes, TelemetryRecord
from tests.support.record_bodies import telemetry_record

NOW_MS = 10_000_000


def pipeline(name: str) -> PipelineOut:
    return PipelineOut(
        name=name,
        model="digits",
        is_ordered=False,
        state="waiting for a model",
        detail="",
        source="running",
        settings=None,
        changed_ms=None,
        changed_by=None,
    )


def told(body: TelemetryRecord, *, age_s: float) -> Told[TelemetryRecord]:
    return Told(1, DeviceId("dev-1"), 0, int(NOW_MS - 1000 * age_s), body)


def test_counts_are_summed_and_times_are_the_newest() -> None:
    newest = msgspec.structs.replace(
        telemetry_record(items_in=100, version=2),
        items_gated=7,
        sinks_lost=3,
        worker_rss_bytes=46 << 20,
        stages={"run": StageTimes(1.0, 2.0, 3.0), "wait": StageTimes(0.1, 0.2, 0.3)},
    )
    windows = [
        told(newest, age_s=1),
        told(telemetry_record(items_in=50), age_s=11),
        told(telemetry_record(items_in=9000), age_s=60 * FLOW_MINUTES + 1),
        told(telemetry_record(pipeline="dock", items_in=9000), age_s=1),
    ]
    (row,) = pipeline_rows([pipeline("door")], windows, now_ms=NOW_MS)
    flow = row.flow
    assert flow is not None
    assert (flow.items_in, flow.items_gated, flow.sinks_lost) == (150, 7, 3)
    assert (flow.items_decided, flow.items_dropped, flow.items_failed) == (190, 6, 4)
    assert (flow.version, flow.worker_rss_bytes) == (2, 46 << 20)
    assert [stage.name for stage in flow.stages] == ["wait", "run"]
    assert (row.state, row.source) == ("waiting for a model", "running")


def test_what_a_device_does_not_tell_is_not_zero() -> None:
    windows = [told(telemetry_record(), age_s=1)]
    silent, door = pipeline_rows([pipeline("attic"), pipeline("door")], windows, now_ms=NOW_MS)
    assert silent.flow is None
    assert door.flow is not None
    assert (door.flow.items_gated, door.flow.worker_rss_bytes, door.flow.stages) == (None, None, ())
