"""MetricsServer: /metrics for Prometheus, on the device itself. Only with [metrics] in its file.

1. Names end in their unit; what is counted since a pipeline's start is a counter.
2. Numbers are those of the last tick: a scrape makes the agent do nothing.
3. On loopback unless told otherwise: it has no token, and names pipelines and models.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from edge_agent.config import MetricsSettings
from edge_agent.telemetry.numbers import AgentNumbers, PipelineNumbers
from shared.errors import RefusedError

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

PATH = "/metrics"
REQUEST_S = 10.0
STOP_S_MAX = 5.0
_LABELS = ("pipeline", "model")
_QUANTILES = ("0.5", "0.95", "0.99")
_COUNTERS: tuple[tuple[str, str, Callable[[PipelineNumbers], int]], ...] = (
    ("items_in", "Items that the source gave", lambda one: one.items_in),
    ("items_gated", "Items on which nothing moved", lambda one: one.items_gated),
    ("items_dropped", "Items replaced by newer ones", lambda one: one.items_dropped),
    ("items_decided", "Items decided", lambda one: one.items_decided),
    ("items_failed", "Items on which the model failed", lambda one: one.items_failed),
    ("sinks_lost", "What sinks could not tell", lambda one: one.sinks_lost),
)


class MetricsServer:
    """See the rules above. Owns its threads between `start` and `stop`."""

    def __init__(
        self, settings: MetricsSettings, numbers: Callable[[], AgentNumbers | None]
    ) -> None:
        """Bind the port. Raises RefusedError `metrics.port`."""
        handler = type("_BoundHandler", (_Handler,), {"numbers": staticmethod(numbers)})
        try:
            self._server = ThreadingHTTPServer((settings.host, settings.port), handler)
        except (OSError, UnicodeError) as error:
            raise RefusedError(
                "metrics.port",
                f"Metrics cannot use {settings.host}:{settings.port}: {error}.",
                remedy="Give [metrics] another host or port.",
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="metrics"
        )

    @property
    def port(self) -> int:
        """Return where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Return where it serves."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{PATH}"

    def start(self) -> None:
        """Begin to serve; returns at once."""
        log.info("metrics.started", extra={"port": self.port})
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, and let the port go."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(STOP_S_MAX)
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_S
    numbers: Callable[[], AgentNumbers | None]

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, f"There is only {PATH}.")
            return
        numbers = self.numbers()
        body, kind = exposition(numbers) if numbers is not None else (b"", "text/plain")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the library's name)
        """Log no requests."""


def exposition(numbers: AgentNumbers) -> tuple[bytes, str]:
    """Return numbers in Prometheus' text form, and its content type."""
    # Here, not above: 6 MB that a device without [metrics] need not carry.
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Numbers(Collector):
        def collect(self) -> Iterator["Metric"]:
            yield from _metrics(numbers)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Numbers())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _metrics(numbers: AgentNumbers) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, text, value in _COUNTERS:
        counter = CounterMetricFamily(f"isthmus_{name}", text, labels=_LABELS)
        for one in numbers.pipelines:
            counter.add_metric((one.pipeline, one.model), value(one))
        yield counter
    lost = CounterMetricFamily(
        "isthmus_sink_lost", "What one sink could not tell", labels=(*_LABELS, "sink")
    )
    for one in numbers.pipelines:
        for sink, count in one.lost_by_sink.items():
            lost.add_metric((one.pipeline, one.model, sink), count)
    yield lost
    yield from _pipelines(numbers.pipelines)
    restarts = CounterMetricFamily(
        "isthmus_worker_restarts",
        "How often a model's process was started again",
        labels=("model", "version"),
    )
    memory = GaugeMetricFamily(
        "isthmus_worker_rss_bytes", "Memory of a model's process", labels=("model", "version")
    )
    cpu = GaugeMetricFamily(
        "isthmus_worker_cpu_share",
        "Processor time of a model's process, of one core",
        labels=("model", "version"),
    )
    for worker in numbers.workers:
        cpu.add_metric((worker.model, str(worker.version)), worker.cpu_share)
        restarts.add_metric((worker.model, str(worker.version)), worker.restarts_count)
        memory.add_metric((worker.model, str(worker.version)), worker.rss_bytes)
    yield restarts
    yield memory
    yield cpu
    host = numbers.host
    yield GaugeMetricFamily(
        "isthmus_agent_cpu_share", "Processor time of the agent, of one core", value=host.cpu_share
    )
    yield GaugeMetricFamily("isthmus_agent_rss_bytes", "Memory of the agent", value=host.rss_bytes)
    yield GaugeMetricFamily(
        "isthmus_disk_free_bytes",
        "Free on the disk of the agent's state",
        value=host.disk_free_bytes,
    )
    if host.temperature_c is not None:
        yield GaugeMetricFamily(
            "isthmus_temperature_celsius",
            "Of the hottest zone of the device",
            value=host.temperature_c,
        )


def _pipelines(pipelines: tuple[PipelineNumbers, ...]) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    serving = GaugeMetricFamily(
        "isthmus_model_version", "The release that serves; 0: none", labels=_LABELS
    )
    running = GaugeMetricFamily(
        "isthmus_pipeline_state", "1 for the state it is in", labels=(*_LABELS, "state")
    )
    stages = GaugeMetricFamily(
        "isthmus_stage_milliseconds",
        "How long each stage took with the last items; wait is the queue's age",
        labels=(*_LABELS, "stage", "quantile"),
    )
    for one in pipelines:
        own = (one.pipeline, one.model)
        serving.add_metric(own, one.version)
        running.add_metric((*own, one.state), 1)
        for stage, times in one.stages.items():
            values = (times.ms_p50, times.ms_p95, times.ms_p99)
            for quantile, value in zip(_QUANTILES, values, strict=True):
                stages.add_metric((*own, stage, quantile), value)
    yield serving
    yield running
    yield stages
