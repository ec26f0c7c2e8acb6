"""Numbers of a running agent: counted, shown in the terminal, and told to Prometheus."""

import io

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from edge_agent.decisions.decision import Decision, MissedItem
from edge_agent.file_status import AgentStatus
from edge_agent.http_metrics import exposition
from edge_agent.telemetry.numbers import AgentNumbers, Decided, PipelineNumbers, WorkerNumbers
from edge_agent.top_view import top_view
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
    sinks=("mqtt: The broker does not answer.",),
)
WORKER = WorkerNumbers(
    model="cars", version=3, pid=77, restarts_count=2, last_cause="stuck", rss_bytes=46 << 20
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
        "42% of a core",
        "70 + 46 MiB",
        "52 °C",
        "The broker does not answer.",
        "started again 2 times, last because it was stuck",
    ):
        assert words in text, words
    assert "has not said anything" in shown(None)


def test_prometheus_reads_every_number() -> None:
    body, kind = exposition(NUMBERS)
    assert kind.startswith("text/plain")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    own = (("model", "cars"), ("pipeline", "gate[1]"))
    assert found[("isthmus_items_in_total", *own)] == 1000
    assert found[("isthmus_items_gated_total", *own)] == 300
    assert found[("isthmus_items_failed_total", *own)] == 10
    assert found[("isthmus_model_version", *own)] == 3
    stage = (*own, ("quantile", "0.95"), ("stage", "run"))
    assert found[("isthmus_stage_milliseconds", *stage)] == 8.0
    worker = (("model", "cars"), ("version", "3"))
    assert found[("isthmus_worker_restarts_total", *worker)] == 2
    assert found[("isthmus_agent_cpu_share",)] == 0.42
    assert found[("isthmus_temperature_celsius",)] == 51.5


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
