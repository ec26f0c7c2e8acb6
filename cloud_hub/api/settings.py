"""Settings of the API and the dashboard. What must not live here: addresses and TLS (the hub's)."""

from typing import Annotated

from msgspec import Meta

from shared.settings import Settings


class ApiSettings(Settings, frozen=True):
    """Limits and choices of the HTTP side of the hub."""

    body_bytes_max: Annotated[int, Meta(ge=1024, le=64 << 20)] = 1 << 20
    upload_bytes_max: Annotated[int, Meta(ge=1024, le=4 << 30)] = 512 << 20
    dataset_bytes_max: Annotated[int, Meta(ge=1024, le=1 << 40)] = 16 << 30  # Goes to the disk
    infer_bytes_max: Annotated[int, Meta(ge=1024, le=1 << 30)] = 32 << 20  # Of one request's items
    session_hours: Annotated[int, Meta(ge=1, le=24 * 30)] = 12
    login_failures_max: Annotated[int, Meta(ge=1, le=1000)] = 10
    login_window_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    live_subscribers_max: Annotated[int, Meta(ge=1, le=1000)] = 64
    live_period_s: Annotated[float, Meta(ge=0.05, le=60.0)] = 1.0
    live_stream_s_max: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 600.0
    # Without it, /metrics wants the operator token as every other page does (Prometheus:
    # `authorization: {credentials_file: …}`). A loopback check would open it to the whole
    # network as soon as a proxy stands in front.
    metrics_are_open: bool = False
