"""try_pipelines: the pipelines of an agent's file with a model file, without a hub.

1. Those that name the spec's model run as `edge-agent run` would run them: frames, motion gate,
   tracks, lines and zones, sinks, a worker process where the file or the device wants one.
2. What a hub would be told is counted and goes nowhere. Nothing is kept but what sinks write; what
   a broker keeps of it is taken away at the end, or Home Assistant would show it for ever.
3. It ends when every source has ended, after `items_max` Decisions, or when `stop` is set.

What must not live here: how a pipeline works (pipeline.py), printing (the command line's).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edge_agent.command_line.model_files import read_spec, tokenize_beside
from edge_agent.command_line.try_live import TryLive
from edge_agent.command_line.try_summary import LABELS_SHOWN_MAX, memory_mb_max
from edge_agent.config import AgentConfig
from edge_agent.inference.active_model import ActiveModel, LoadedRelease
from edge_agent.inference.process_session import WorkerSession
from edge_agent.inference.procfs_memory import limit_arenas, pad_heap
from edge_agent.inference.session import ModelSession
from edge_agent.inference.session_loader import session_loader
from edge_agent.pipeline_book import PipelineBook
from edge_agent.pipelines import Pipelines
from edge_agent.sinks.due import labels_of
from edge_agent.sources.capture import CaptureState
from edge_agent.telemetry.events import OperatorEvents
from edge_agent.telemetry.numbers import PipelineNumbers
from shared.clock import Clock
from shared.errors import RefusedError
from shared.pipeline.pipeline import PipelineSettings
from shared.pipeline.sinks import HubSinkSettings, Which
from shared.plural import counted
from shared.release.digest import digest_of_file
from shared.wire.records import Body, DecisionRecord, Tracked

TICK_S = 0.2
OVER = (CaptureState.ENDED, CaptureState.FAILED)
VERSION = 1  # A file has none; releases begin with it


class TriedPipeline(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one pipeline."""

    numbers: PipelineNumbers
    labels: dict[str, int]  # As `edge-agent try` counts them without a file of pipelines
    totals: dict[str, int]  # Of lines and zones: "road/in"


class PipelinesSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a try of pipelines."""

    model: str
    runtime: str
    seconds: float
    rss_mb_max: float  # Of this process, from its start
    worker_rss_mb: float  # Of the model's own process, at the end; 0: it has none
    pipelines: tuple[TriedPipeline, ...]


def pipelines_as_text(summary: PipelinesSummary) -> str:
    """Return a summary for a person, several lines."""
    lines = [line for one in summary.pipelines for line in _lines(one)]
    memory = f"memory: {summary.rss_mb_max:.0f} MB at most"
    if summary.worker_rss_mb:
        memory += f", and {summary.worker_rss_mb:.0f} MB of the model's own process"
    return "\n".join([*lines, f"{memory}; {summary.runtime}; {summary.seconds:.1f} s"])


def _lines(one: TriedPipeline) -> Iterator[str]:
    numbers = one.numbers
    yield (
        f"{numbers.pipeline}: {numbers.state}; {counted(numbers.items_in, 'item')} in, "
        f"{numbers.items_gated:,} gated, {numbers.items_dropped:,} dropped, "
        f"{numbers.items_decided:,} decided, {numbers.items_failed:,} failed"
    )
    if numbers.detail:
        yield f"  {numbers.detail}"
    for stage, times in numbers.stages.items():
        yield (
            f"  {stage:9} median {times.ms_p50:.2f} ms, 95 % within {times.ms_p95:.2f} ms, "
            f"99 % within {times.ms_p99:.2f} ms"
        )
    yield f"  found: {_counts(one.labels) or 'nothing'}"
    if one.totals:
        yield f"  counted: {_counts(one.totals)}"
    for sink, count in numbers.lost_by_sink.items():
        yield f"  {sink} lost {count:,}"
    for sink in numbers.sinks:
        yield f"  {sink}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


class _Told:
    """An Outbox that counts what Decisions say, by pipeline. Lanes call it, any thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._labels: dict[str, Counter[str]] = {}
        self._totals: dict[str, dict[str, int]] = {}

    def append(self, body: Body) -> None:
        if not isinstance(body, DecisionRecord):
            return
        with self._lock:
            self._labels.setdefault(body.pipeline, Counter()).update(labels_of(body.outcome))
            if isinstance(body.outcome, Tracked):
                self._totals[body.pipeline] = body.outcome.totals

    def of(self, numbers: PipelineNumbers) -> TriedPipeline:
        """Return what was counted of one pipeline."""
        with self._lock:
            labels = self._labels.get(numbers.pipeline, Counter[str]())
            return TriedPipeline(
                numbers=numbers,
                labels=dict(labels.most_common(LABELS_SHOWN_MAX)),
                totals=dict(self._totals.get(numbers.pipeline, {})),
            )


def try_pipelines(
    config: AgentConfig,
    model: Path,
    spec: Path,
    *,
    items_max: int,
    clock: Clock,
    stop: threading.Event,
    tokenizer: Path | None = None,
    live: TryLive | None = None,
    tell: Callable[[str], None] = lambda _text: None,
) -> PipelinesSummary:
    """Run the pipelines of `config` that name the model of `spec`, until they end; see the rules.

    Args:
        config: the agent's file.
        model: the ONNX file.
        spec: its ModelSpec as TOML; its `model` is the name that pipelines use.
        items_max: Decisions of all pipelines together; 0: as many as come.
        clock: for all of it.
        stop: set to end early.
        tokenizer: of a model of texts; None: tokenizer.json beside the model.
        live: where it can be watched.
        tell: gets what an operator would be told: a source that is lost, a frozen picture.

    Raises:
        RefusedError: `try.no_pipeline`, or the model cannot be loaded or does not fit.
        ContractError: the spec or the tokenizer is wrong.
    """
    limit_arenas()
    pad_heap()
    model_spec = read_spec(spec)
    wanted = _pipelines_of(config, model_spec.model)
    for other in config.pipelines:
        if other.model != model_spec.model:
            tell(f"Pipeline {other.name} is not tried: its model is {other.model}.")
    tokenize = tokenize_beside(model, model_spec, tokenizer)
    session = session_loader(config.inference, clock)(model, model_spec)
    active, told = ActiveModel(model_spec.model), _Told()
    active.swap(
        LoadedRelease(
            model=model_spec.model,
            version=VERSION,
            manifest_digest=digest_of_file(model),
            precision="",
            session=session,
            tokenize=tokenize,
        )
    )
    pipelines = Pipelines(
        {model_spec.model: active},
        outbox=told,
        telemetry=config.telemetry,
        clock=clock,
        lanes=config.inference.lanes,
        device="try",
        live=live.view if live is not None else None,
    )
    started_s = clock.monotonic_s()
    try:
        pipelines.follow(_book(wanted))
        _run(pipelines, items_max=items_max, clock=clock, stop=stop, tell=tell)
        seconds = clock.monotonic_s() - started_s
        numbers, worker_bytes = pipelines.numbers(), _worker_bytes(session)
    finally:
        pipelines.stop(for_good=True)
        session.close()
    return PipelinesSummary(
        model=str(model),
        runtime=session.runtime,
        seconds=seconds,
        rss_mb_max=memory_mb_max(),
        worker_rss_mb=worker_bytes / 1e6,
        pipelines=tuple(told.of(one) for one in numbers),
    )


def _pipelines_of(config: AgentConfig, model: str) -> tuple[PipelineSettings, ...]:
    """Return those that name `model`, with every Decision told to a hub that is not there."""
    found = tuple(one for one in config.pipelines if one.model == model)
    if not found:
        raise RefusedError(
            "try.no_pipeline",
            f"No pipeline of the file names the model {model}; they name: "
            f"{', '.join(config.models)}.",
            remedy="Change `model` in the pipeline or in the spec, so that they are the same.",
        )
    every = HubSinkSettings(which=Which.ALL)
    return tuple(
        msgspec.structs.replace(
            one, sinks=(*(s for s in one.sinks if not isinstance(s, HubSinkSettings)), every)
        )
        for one in found
    )


def _book(wanted: tuple[PipelineSettings, ...]) -> PipelineBook:
    names = frozenset(one.name for one in wanted)
    return PipelineBook(pipelines=wanted, ordered=frozenset(), wanted=names)


def _run(
    pipelines: Pipelines,
    *,
    items_max: int,
    clock: Clock,
    stop: threading.Event,
    tell: Callable[[str], None],
) -> None:
    events = OperatorEvents(disk_free_bytes_min=0)
    while not stop.is_set():
        pipelines.tick()
        numbers = pipelines.numbers()
        now_s = clock.monotonic_s()
        for event in events.of_pipelines(pipelines.standings(), now_s=now_s):
            tell(event.text)
        if items_max and sum(one.items_decided for one in numbers) >= items_max:
            return
        if all(one.state in OVER for one in numbers):
            return
        clock.wait(stop, TICK_S)


def _worker_bytes(session: ModelSession) -> int:
    return session.standing.rss_bytes if isinstance(session, WorkerSession) else 0
