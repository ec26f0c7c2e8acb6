"""What a device decided lately, as a person reads it: equal decisions in a row are one line. Pure.

1. Decisions of one pipeline (and one sensor, one release) that conclude the same and follow each
   other are a run. Confidence, score and place of a box may differ within it.
2. A pipeline shows its newest RUNS_PER_PIPELINE runs, so that a fast one leaves room for others.
3. Totals of lines and zones are said where they changed; the newest run of a pipeline says all.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import assert_never

from msgspec import UNSET

from cloud_hub.dashboard.formats import percent
from cloud_hub.telemetry.sql_store import Told
from shared.wire.records import (
    Classified,
    DecisionRecord,
    Detected,
    Estimated,
    Outcome,
    Scored,
    Segmented,
    Tracked,
)

RUNS_PER_PIPELINE = 8
RUNS_SHOWN = 16
LABELS_SHOWN = 6
NO_TOTALS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a conclusion."""

    main: str
    beside: str = ""
    tone: str | None = None  # Of a chip; None: plain text


@dataclass(frozen=True, slots=True)
class DecisionRun:
    """Decisions in a row that conclude the same; see rule 1."""

    id: int  # Of the newest
    pipeline: str
    sensor: str
    model: str
    version: int
    count: int
    first_ms: int  # Captured
    last_ms: int
    latency_ms_max: float
    parts: tuple[Part, ...]  # Empty: nothing was found

    @property
    def span_s(self) -> float:
        """Return how long it went on."""
        return max(0, self.last_ms - self.first_ms) / 1000


def decision_runs(told: Sequence[Told[DecisionRecord]]) -> tuple[DecisionRun, ...]:
    """Return decisions, newest first, as runs, newest first; see the rules above."""
    by_pipeline: dict[tuple[str, str], list[Told[DecisionRecord]]] = defaultdict(list)
    for one in told:
        by_pipeline[one.body.pipeline, _sensor(one)].append(one)
    runs = [run for own in by_pipeline.values() for run in _runs(own)]
    runs.sort(key=lambda run: run.id, reverse=True)
    return tuple(runs[:RUNS_SHOWN])


def _runs(told: Sequence[Told[DecisionRecord]]) -> Iterator[DecisionRun]:
    """Yield the newest runs of one pipeline, newest first."""
    groups = [tuple(group) for _, group in groupby(told, key=_same)]
    older_totals = [_totals(group[0].body.outcome) for group in groups[1:]]
    if groups:
        # Of the oldest that is known nobody knows what it changed.
        older_totals.append(_totals(groups[-1][0].body.outcome))
    newest = list(zip(groups, older_totals, strict=True))[:RUNS_PER_PIPELINE]
    for index, (group, before) in enumerate(newest):
        yield _run(group, before, is_newest=index == 0)


def _run(
    group: Sequence[Told[DecisionRecord]], before: Mapping[str, int], *, is_newest: bool
) -> DecisionRun:
    newest, oldest = group[0].body, group[-1].body
    return DecisionRun(
        id=group[0].id,
        pipeline=newest.pipeline,
        sensor=_sensor(group[0]),
        model=newest.model,
        version=newest.version,
        count=len(group),
        first_ms=oldest.captured_ms,
        last_ms=newest.captured_ms,
        latency_ms_max=max(one.body.latency_ms for one in group),
        parts=(
            *_parts([one.body.outcome for one in group]),
            *_total_parts(_totals(newest.outcome), before, is_newest=is_newest),
        ),
    )


def _sensor(told: Told[DecisionRecord]) -> str:
    return "" if told.body.sensor is UNSET else told.body.sensor


def _same(told: Told[DecisionRecord]) -> tuple[object, ...]:
    """Return what is equal for decisions of one run."""
    return told.body.model, told.body.version, _conclusion(told.body.outcome)


def _conclusion(outcome: Outcome) -> tuple[object, ...]:
    match outcome:
        case Classified(label=label):
            return ("class", label)
        case Detected(boxes=boxes):
            return ("boxes", *sorted(Counter(box.label for box in boxes).items()))
        case Tracked(tracks=tracks, zones=zones, totals=totals):
            labels = sorted(Counter(track.label for track in tracks).items())
            standing = tuple((zone.zone, zone.tracks_count) for zone in zones)
            return ("tracks", tuple(labels), standing, tuple(sorted(totals.items())))
        case Scored(is_anomalous=is_anomalous):
            return ("score", is_anomalous)
        case Estimated(values=values):
            return ("values", *(f"{value:.3g}" for value in values))
        case Segmented(shares=shares):
            return ("segments", *((name, percent(share)) for name, share in shares.items()))
        case _:
            assert_never(outcome)


def _parts(outcomes: Sequence[Outcome]) -> tuple[Part, ...]:
    """Return what equal outcomes conclude, the newest first among them."""
    newest = outcomes[0]
    match newest:
        case Classified(label=label):
            shares = [one.confidence for one in outcomes if isinstance(one, Classified)]
            return (Part(label, _percents(min(shares), max(shares))),)
        case Detected(boxes=boxes):
            return _label_parts(Counter(box.label for box in boxes))
        case Tracked(tracks=tracks, zones=zones):
            standing = (
                Part(
                    f"{zone.zone}: {zone.tracks_count} in it for {int(zone.dwell_s_max)} s", tone=""
                )
                for zone in zones
                if zone.tracks_count
            )
            return (*_label_parts(Counter(track.label for track in tracks)), *standing)
        case Scored(is_anomalous=is_anomalous, threshold=threshold):
            score = max(one.score for one in outcomes if isinstance(one, Scored))
            words = ("anomalous", "bad") if is_anomalous else ("normal", "good")
            beside = f"score {score:.3g}, limit {threshold:.3g}"
            return (Part(words[0], beside, tone=words[1]),)
        case Estimated(values=values):
            return tuple(Part(f"{value:.4g}") for value in values)
        case Segmented(shares=shares):
            return tuple(
                Part(name, f"{share:.0%}".replace("%", " %")) for name, share in shares.items()
            )
        case _:
            assert_never(newest)


def _label_parts(labels: Counter[str]) -> tuple[Part, ...]:
    return tuple(Part(str(count), label) for label, count in labels.most_common(LABELS_SHOWN))


def _percents(low: float, high: float) -> str:
    least, most = round(100 * low), round(100 * high)
    return f"{most} %" if least == most else f"{least} to {most} %"


def _totals(outcome: Outcome) -> Mapping[str, int]:
    return outcome.totals if isinstance(outcome, Tracked) else NO_TOTALS


def _total_parts(
    totals: Mapping[str, int], before: Mapping[str, int], *, is_newest: bool
) -> Iterator[Part]:
    """Yield totals; see rule 3."""
    for name, count in totals.items():
        more = count - before.get(name, 0)
        if more > 0:
            yield Part(f"{name} {count:,}", f"+{more:,}", tone="busy")
        elif is_newest and count:
            yield Part(f"{name} {count:,}", tone="")
