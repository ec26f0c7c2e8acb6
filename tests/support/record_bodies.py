"""Record bodies with a number to know them by."""

from shared.wire.records import (
    Classified,
    DecisionRecord,
    EventRecord,
    HostRecord,
    TelemetryRecord,
)


def decision_record(item: int, *, pipeline: str = "door", label: str = "7") -> DecisionRecord:
    return DecisionRecord(
        pipeline=pipeline,
        model="digits",
        version=1,
        item=item,
        captured_ms=1_700_000_000_000 + item,
        latency_ms=4.5,
        outcome=Classified(label=label, confidence=0.9),
    )


def telemetry_record(
    *,
    pipeline: str = "door",
    model: str = "digits",
    version: int = 1,
    window_s: float = 10.0,
    items_in: int = 100,
    items_decided: int = 95,
    items_dropped: int = 3,
    items_failed: int = 2,
    latency_ms_p50: float = 5.0,
    latency_ms_p95: float = 9.0,
    latency_ms_max: float = 20.0,
    inference_ms_p50: float = 3.0,
    inference_ms_p95: float = 4.0,
    confidence_mean: float = 0.8,
    swap_pause_ms_max: float = 0.0,
    labels: dict[str, int] | None = None,
) -> TelemetryRecord:
    return TelemetryRecord(
        pipeline=pipeline,
        model=model,
        version=version,
        window_s=window_s,
        items_in=items_in,
        items_decided=items_decided,
        items_dropped=items_dropped,
        items_failed=items_failed,
        latency_ms_p50=latency_ms_p50,
        latency_ms_p95=latency_ms_p95,
        latency_ms_max=latency_ms_max,
        inference_ms_p50=inference_ms_p50,
        inference_ms_p95=inference_ms_p95,
        confidence_mean=confidence_mean,
        swap_pause_ms_max=swap_pause_ms_max,
        labels=labels if labels is not None else {"7": 60, "1": 35},
    )


def host_record(*, temperature_c: float | None = 51.5) -> HostRecord:
    return HostRecord(
        window_s=10.0,
        cpu_share=0.4,
        rss_bytes=90 << 20,
        disk_free_bytes=5 << 30,
        temperature_c=temperature_c,
    )


def event_record(text: str = "The camera is gone.") -> EventRecord:
    return EventRecord(code="source.lost", text=text)
