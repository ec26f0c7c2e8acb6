"""What each pipeline of a device does: what became of its items, how long each stage takes. Pure.

1. Counts are of the windows that arrived within FLOW_MINUTES; stages are those of the newest one.
2. A number that the device does not tell is None, not 0.

What must not live here: where windows come from (fleet_view.py).
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET

from cloud_hub.api.pipelines import PipelineOut
from cloud_hub.telemetry.sql_store import Told
from shared.wire.records import StageTimes, TelemetryRecord

FLOW_MINUTES = 5
STAGE_WORDS = (
    ("wait", "from captured until a core took it: the queue’s age"),
    ("prepare", "picture or window to the model’s input"),
    ("run", "the model"),
    ("conclude", "the model’s output to a decision"),
    ("sinks", "telling whoever is to be told"),
)


@dataclass(frozen=True, slots=True)
class StageColumn:
    """One stage's times."""

    name: str
    what: str
    times: StageTimes


@dataclass(frozen=True, slots=True)
class Flow:
    """What became of a pipeline's items; see the rules above."""

    items_in: int
    items_gated: int | None  # None: it has no gate
    items_dropped: int
    items_decided: int
    items_failed: int
    sinks_lost: int
    stages: tuple[StageColumn, ...]  # Of the newest window; empty: not told
    worker_rss_bytes: int | None  # None: it runs in the agent's own process
    version: int
    told_ms: int


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """One pipeline of a device."""

    name: str
    model: str
    state: str
    detail: str
    source: str  # How its source stands; empty: as the state says
    settings_text: str  # Of one that the hub orders, as JSON for reading; else empty
    changed_by: str | None
    flow: Flow | None  # None: it told no numbers lately

    @property
    def is_ordered(self) -> bool:
        """Whether the hub orders it."""
        return bool(self.settings_text)


def pipeline_rows(
    pipelines: Sequence[PipelineOut],
    windows: Sequence[Told[TelemetryRecord]],
    *,
    now_ms: int,
) -> tuple[PipelineRow, ...]:
    """Return each pipeline with what `windows` (newest first) say of it."""
    since_ms = now_ms - FLOW_MINUTES * 60_000
    told: dict[str, list[Told[TelemetryRecord]]] = defaultdict(list)
    for window in windows:
        if window.received_ms >= since_ms:
            told[window.body.pipeline].append(window)
    return tuple(
        PipelineRow(
            name=one.name,
            model=one.model,
            state=one.state,
            detail=one.detail,
            source=one.source or "",
            settings_text=json.dumps(one.settings, indent=1) if one.settings else "",
            changed_by=one.changed_by,
            flow=_flow(told[one.name]) if told[one.name] else None,
        )
        for one in pipelines
    )


def _flow(told: Sequence[Told[TelemetryRecord]]) -> Flow:
    bodies, newest = [one.body for one in told], told[0].body
    gated = [body.items_gated for body in bodies if body.items_gated is not UNSET]
    rss = newest.worker_rss_bytes
    return Flow(
        items_in=sum(body.items_in for body in bodies),
        items_gated=sum(gated) if gated else None,
        items_dropped=sum(body.items_dropped for body in bodies),
        items_decided=sum(body.items_decided for body in bodies),
        items_failed=sum(body.items_failed for body in bodies),
        sinks_lost=sum(body.sinks_lost for body in bodies if body.sinks_lost is not UNSET),
        stages=_stages(newest),
        worker_rss_bytes=None if rss is UNSET else rss,
        version=newest.version,
        told_ms=told[0].received_ms,
    )


def _stages(window: TelemetryRecord) -> tuple[StageColumn, ...]:
    if window.stages is UNSET:
        return ()
    return tuple(
        StageColumn(name, what, window.stages[name])
        for name, what in STAGE_WORDS
        if name in window.stages
    )
