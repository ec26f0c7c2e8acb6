"""Curves, trials and comparisons, from events, runs and reports. Pure."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cloud_hub.explain.report import Interval, Report
from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobId, Run, RunKind
from cloud_hub.training.cloud.job_rules import best_of
from cloud_hub.training.cloud.views import (
    ClassPair,
    Comparison,
    Curve,
    MetricPair,
    NumberedEvent,
    RunValue,
    SettingPair,
    Trial,
)
from cloud_hub.training.trainer.run_files import (
    Evaluated,
    Noted,
    Progressed,
    RunResult,
    Saved,
    Started,
    decode_event,
)

POINTS_MAX = 1000  # Of a curve: more cannot be told apart on a screen
NOTES_MAX = 200
SETTINGS_MAX = 200
_TEXT_MAX = 200


def number_events(data: bytes, *, after: int, limit: int) -> tuple[NumberedEvent, ...]:
    """Return the events of whole lines after line `after`, `limit` at most."""
    lines = data.split(b"\n")[:-1]  # What follows the last end is torn
    found: list[NumberedEvent] = []
    for number, line in enumerate(lines[after:], start=after + 1):
        event = decode_event(line)
        if event is not None:
            found.append(NumberedEvent(number, event))
            if len(found) == limit:
                break
    return tuple(found)


def make_curve(job_id: CloudJobId, run_index: int, events: Iterable[NumberedEvent]) -> Curve:
    """Return a run's curve; see views.py."""
    progress: list[Progressed] = []
    evaluations: list[Evaluated] = []
    attempts: list[Started] = []
    notes: list[Noted] = []
    for numbered in events:
        match numbered.event:
            case Progressed() as event:
                progress.append(event)
            case Evaluated() as event:
                evaluations.append(event)
            case Started() as event:
                attempts.append(event)
            case Noted() as event:
                notes.append(event)
            case Saved():
                pass
    return Curve(
        job_id=job_id,
        run_index=run_index,
        progress=tuple(_thinned(progress)),
        evaluations=tuple(_thinned_evaluations(evaluations)),
        attempts=tuple(attempts),
        notes=tuple(notes[-NOTES_MAX:]),
    )


def make_trials(
    runs: Sequence[Run], values: Mapping[int, tuple[RunValue, ...]]
) -> tuple[Trial, ...]:
    """Return a search's trials, in the order in which they were made."""
    trials = [run for run in runs if run.kind is RunKind.TRIAL]
    best = best_of(trials)
    return tuple(
        Trial(
            index=run.index,
            params=run.params,
            state=run.state,
            outcome=run.outcome,
            is_pruned=run.is_pruned,
            is_best=best is not None and run.index == best.index,
            value=run.value if run.value is not None else run.progress.best_value,
            values=values.get(run.index, ()),
            epoch=run.progress.epoch,
            device_seconds=run.progress.device_seconds,
            code=run.code,
            text=run.text,
        )
        for run in trials
    )


def compare_jobs(
    a: CloudJob,
    b: CloudJob,
    *,
    results: tuple[RunResult | None, RunResult | None],
    reports: tuple[Report | None, Report | None],
) -> Comparison:
    """Return two Jobs beside each other."""
    accuracy_a, accuracy_b = (report.accuracy if report else None for report in reports)
    return Comparison(
        a=a.job_id,
        b=b.job_id,
        accuracy_a=accuracy_a,
        accuracy_b=accuracy_b,
        is_same_data=_data_of(a, reports[0]) == _data_of(b, reports[1]),
        is_clear=_is_apart(accuracy_a, accuracy_b),
        metrics=_metric_pairs(_numbers(results[0], reports[0]), _numbers(results[1], reports[1])),
        classes=_class_pairs(*reports),
        settings=_setting_pairs(a, b),
    )


def _data_of(job: CloudJob, report: Report | None) -> tuple[str, str]:
    return (report.manifest, report.part) if report else (job.manifest_digest, "test")


def _is_apart(a: Interval | None, b: Interval | None) -> bool:
    return a is not None and b is not None and (a.high < b.low or b.high < a.low)


def _numbers(result: RunResult | None, report: Report | None) -> dict[str, float]:
    found: dict[str, float] = {}
    if result is not None:
        found |= {f"validation.{name}": value for name, value in result.metrics.items()}
        found |= {f"test.{name}": value for name, value in result.test_metrics.items()}
        found |= {"device_seconds": result.device_seconds, "items_per_s": result.items_per_s}
    if report is not None:
        found |= {f"report.{name}": value for name, value in report.metrics.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _metric_pairs(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[MetricPair, ...]:
    names = [*a, *(name for name in b if name not in a)]
    return tuple(MetricPair(name, a.get(name), b.get(name)) for name in names)


def _class_pairs(a: Report | None, b: Report | None) -> tuple[ClassPair, ...]:
    if a is None or b is None:
        return ()
    others = {scores.name: scores for scores in b.per_class}
    return tuple(
        ClassPair(
            name=scores.name,
            recall_a=scores.recall,
            recall_b=others[scores.name].recall,
            precision_a=scores.precision,
            precision_b=others[scores.name].precision,
        )
        for scores in a.per_class
        if scores.name in others
    )


def _setting_pairs(a: CloudJob, b: CloudJob) -> tuple[SettingPair, ...]:
    flat_a = dict(_flat("", msgspec.to_builtins(a.order)))
    flat_b = dict(_flat("", msgspec.to_builtins(b.order)))
    names = [*flat_a, *(name for name in flat_b if name not in flat_a)]
    pairs = (SettingPair(name, flat_a.get(name, ""), flat_b.get(name, "")) for name in names)
    return tuple(pair for pair in pairs if pair.a != pair.b)[:SETTINGS_MAX]


def _flat(path: str, tree: object) -> Iterable[tuple[str, str]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _flat(f"{path}.{name}" if path else str(name), value)
    else:
        yield path, json.dumps(tree)[:_TEXT_MAX]


def _thinned(points: list[Progressed]) -> list[Progressed]:
    """Return points so that there are POINTS_MAX at most, the last one always among them."""
    stride = -(-len(points) // POINTS_MAX)
    return points[::-stride][::-1] if stride > 1 else points


def _thinned_evaluations(points: list[Evaluated]) -> list[Evaluated]:
    """Return evaluations likewise; the best ones stay."""
    stride = -(-len(points) // POINTS_MAX)
    if stride <= 1:
        return points
    last = len(points) - 1
    best = max(range(len(points)), key=lambda i: (points[i].is_best, i))
    return [p for i, p in enumerate(points) if (last - i) % stride == 0 or i == best]
