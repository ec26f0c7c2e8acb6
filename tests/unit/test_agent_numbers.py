"""Numbers of a running agent: counted, shown in the terminal, and told to Prometheus."""

import io

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from edge_agent.command_line.top_view import top_view
from edge_agent.decisions.decision import Decision, MissedItem
from edge_agent.file_status import AgentStatus
from edge_agent.http_metrics import exposition
from edge_agent.telemetry.numbers import AgentNumbers, Decided, PipelineNumbers, WorkerNumbers
from shared.wire.records import Classified, HostRecord, StageTimes
from shared.wire.report import Report

HOST = HostRecord(
    window_s=1.0,
    cpu_share=0.42,
    rss_bytes=70 << 20,
    disk_free_bytes=9 << 30,
    temperature_c=51.5,
)
PIPELINE = PipelineNumbers(
    pipeline="gate[1]",
    model="cars",
    version=3,
    precision="int8",
    state="running",
    detail="",
    items_in=1000,
    items_gated=300,
    items_dropped=50,
    items_decided=640,
    items_failed=10,
    items_per_s=9.9,
    stages={"wait": StageTimes(0.1, 0.2, 0.3), "run": StageTimes(7.0, 8.0, 9.0)},
    sinks_lost=2,
    lost_by_sink={"mqtt": 2},
    sinks=("mqtt: The broker does not answer.",),
)
WORKER = WorkerNumbers(
    model="cars",
    version=3,
    pid=77,
    restarts_count=2,
    last_cause="stuck",
    rss_bytes=46 << 20,
    cpu_share=0.75,
)
NUMBERS = AgentNumbers(host=HOST, pipelines=(PIPELINE,), workers=(WORKER,))


def decision(item: int) -> Decision:
    return Decision("gate", "cars", 1, item, 0, Classified("a", 0.9), 0.9, 5.0, 4.0)


def shown(numbers: AgentNumbers | None) -> str:
    status = AgentStatus(
        device="dev-1",
        hub_url="https://hub",
        is_connected=True,
        pid=1,
        written_s=1.0,
        started_s=1.0,
        outbox_rows=4,
        outbox_bytes=5,
        outbox_dropped=0,
        crashes={},
        report=Report(target_revision=0, at_ms=0, models=()),
        numbers=numbers,
    )
    back = msgspec.json.decode(msgspec.json.encode(status), type=AgentStatus)
    assert back == status
    out = io.StringIO()
    Console(file=out, width=160).print(top_view(back))
    return out.getvalue()


def test_top_shows_what_a_person_looks_for() -> None:
    text = shown(NUMBERS)
    for words in (
        "gate[1]",
        "cars v3 int8",
        "running",
        "9.9",
        "1,000",
        "300",
        "7.0/8.0/9.0",
        "42% + 75% of a core",
        "age of what waits in the queue",
        "70 + 46 MiB",
        "52 °C",
        "The broker does not answer.",
        "started again 2 times, last because it was stuck",
    ):
        assert words in text, words
    assert "has not said anything" in shown(None)


def samples_of(body: bytes) -> dict[tuple[object, ...], float]:
    """Return every sample, read by Prometheus' own parser; none is there twice."""
    found: dict[tuple[object, ...], float] = {}
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge"), family.name
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def test_prometheus_reads_every_number_once() -> None:
    body, kind = exposition(NUMBERS)
    assert kind.startswith("text/plain")
    own = (("model", "cars"), ("pipeline", "gate[1]"))
    worker = (("model", "cars"), ("version", "3"))
    stages: dict[tuple[object, ...], float] = {
        ("isthmus_stage_milliseconds", *own, ("quantile", quantile), ("stage", stage)): value
        for stage, times in PIPELINE.stages.items()
        for quantile, value in zip(
            ("0.5", "0.95", "0.99"), (times.ms_p50, times.ms_p95, times.ms_p99), strict=True
        )
    }
    expected: dict[tuple[object, ...], float] = {
        ("isthmus_items_in_total", *own): 1000,
        ("isthmus_items_gated_total", *own): 300,
        ("isthmus_items_dropped_total", *own): 50,
        ("isthmus_items_decided_total", *own): 640,
        ("isthmus_items_failed_total", *own): 10,
        ("isthmus_sinks_lost_total", *own): 2,
        ("isthmus_sink_lost_total", *own, ("sink", "mqtt")): 2,
        ("isthmus_model_version", *own): 3,
        ("isthmus_pipeline_state", *own, ("state", "running")): 1,
        **stages,
        ("isthmus_worker_restarts_total", *worker): 2,
        ("isthmus_worker_rss_bytes", *worker): 46 << 20,
        ("isthmus_worker_cpu_share", *worker): 0.75,
        ("isthmus_agent_cpu_share",): 0.42,
        ("isthmus_agent_rss_bytes",): 70 << 20,
        ("isthmus_disk_free_bytes",): 9 << 30,
        ("isthmus_temperature_celsius",): 51.5,
    }
    assert samples_of(body) == expected


def test_every_name_has_one_help_and_one_type() -> None:
    lines = exposition(NUMBERS)[0].decode().splitlines()
    for word in ("HELP", "TYPE"):
        names = [line.split()[2] for line in lines if line.startswith(f"# {word} ")]
        assert names, word
        assert len(names) == len(set(names)), word


def test_the_rate_is_of_the_last_seconds_only() -> None:
    decided = Decided()
    assert decided.per_s() == 0.0
    for second in range(30):
        for item in range(5 if second < 15 else 20):
            decided(decision(item))
        decided.tick(float(second))
    assert decided.per_s() == 20.0
    decided(MissedItem("gate", "cars", 1, 9, "inference.failed"))
    assert (decided.decided_count, decided.failed_count) == (15 * 5 + 15 * 20, 1)
