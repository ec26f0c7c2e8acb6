"""Jobs in the cloud as people read them: facts, tables and reports. Pure but for the Output."""

from collections.abc import Sequence

from cloud_hub.command_line.cloud_job_answers import (
    CloudJob,
    Compared,
    JobReport,
    Share,
    TrainingRuns,
    Trials,
    Usage,
)
from cloud_hub.command_line.output import Output, clock_text

CONFUSION_CLASSES_MAX = 12  # A wider table is not read in a terminal
WORST_SHOWN_MAX = 10
SLICES_SHOWN_MAX = 20
SETTINGS_SHOWN_MAX = 40
LARGE = 1000.0  # From there on a number's fraction says nothing
WHOLE_SETTINGS = ("spec", "network")  # Given as a whole or not at all: one row
BYTES_OF_MEGABYTE = 1e6
RUN_COLUMNS = (
    "run", "state", "epoch#", "step#", "loss#", "value#", "best#", "items/s#", "device-s#",
)  # fmt: skip


def show_job(output: Output, job: CloudJob) -> None:
    """Write what a Job is and how it stands."""
    output.facts(
        [
            ("job", job.job_id),
            ("model", f"{job.model}, from {job.base_checkpoint_id or 'fresh weights'}"),
            ("dataset", f"{job.dataset}:{job.dataset_version}"),
            ("state", f"{job.outcome or job.state} {job.code}".strip()),
            ("value", value_text(job)),
            ("result", came_of(job)),
            ("weights", job.result_checkpoint_id or ""),
            ("lineage", job.lineage_id),
            ("ordered", f"{clock_text(job.created_ms)} by {job.created_by}, for {job.owner}"),
        ]
    )
    output.say(job.sentence)


def run_rows(runs: TrainingRuns) -> list[tuple[str, ...]]:
    """Return the rows of RUN_COLUMNS."""
    return [
        (
            run.name,
            run.state if run.attempt < 2 else f"{run.state}, attempt {run.attempt}",
            f"{run.progress.epoch:.2f}",
            f"{run.progress.step:,}/{run.progress.steps_total:,}",
            number(run.progress.loss),
            number(run.progress.last_value),
            number(run.value if run.value is not None else run.progress.best_value),
            f"{run.progress.items_per_s:,.0f}" if run.progress.items_per_s else "–",
            f"{run.progress.device_seconds:,.1f}",
        )
        for run in runs.runs
    ]


def show_trials(output: Output, trials: Trials) -> None:
    """Write a search's trials, the best one marked."""
    names = list(dict.fromkeys(name for trial in trials.trials for name in trial.params))
    rows = [
        (
            f"{trial.index}{' *' if trial.is_best else ''}",
            "pruned" if trial.is_pruned else trial.outcome or trial.state,
            number(trial.value),
            f"{trial.epoch:.1f}",
            f"{trial.device_seconds:,.1f}",
            *(_setting(trial.params.get(name)) for name in names),
        )
        for trial in trials.trials
    ]
    columns = ("trial", "state", "value#", "epoch#", "device-s#", *(f"{name}#" for name in names))
    output.table(columns, rows, empty="It searches nothing.")
    if any(trial.is_best for trial in trials.trials):
        output.say("* the best")


def show_report(output: Output, report: JobReport) -> None:
    """Write how good a model became."""
    output.facts(
        [
            ("on", f"{report.items_count:,} items of {report.dataset}, part {report.part}"),
            ("right", share(report.accuracy) if report.accuracy is not None else ""),
            *((name, number(value)) for name, value in report.metrics.items()),
        ]
    )
    if report.per_class:
        output.say("")
        rows = [
            (row.name, f"{row.support:,}", share(row.precision), share(row.recall), number(row.f1))
            for row in report.per_class
        ]
        output.table(("class", "items#", "precision#", "recall#", "F1#"), rows, empty="")
    _confusion(output, report)
    _slices(output, report)
    worst = [
        (row.name, row.label, row.answer, f"{row.confidence * 100:.1f} %")
        for row in report.worst[:WORST_SHOWN_MAX]
    ]
    if worst:
        output.say("")
        output.table(("worst items", "label", "answer", "sure#"), worst, empty="")
    for note in report.notes:
        output.say(f"Note: {note}")


def show_compared(output: Output, found: Compared) -> None:
    """Write two Jobs beside each other."""
    for letter, job in (("A", found.a), ("B", found.b)):
        made = came_of(job)
        output.say(f"{letter}: {job.job_id}, {job.model} on {job.dataset}:{job.dataset_version}"
                   f"{f', {made}' if made else ''}")  # fmt: skip
    output.say("")
    output.say(found.sentence)
    if not found.is_same_data:
        output.say("They were judged on different data: their numbers are not comparable.")
    output.say("")
    rows = [
        (pair.name, number(pair.a), number(pair.b), number(pair.difference, is_signed=True))
        for pair in found.metrics
    ]
    output.table(("number", "A#", "B#", "B - A#"), rows, empty="Neither says a number.")
    output.say("")
    settings = _settings(found)[:SETTINGS_SHOWN_MAX]
    output.table(("ordered otherwise", "A", "B"), settings, empty="They were ordered alike.")


def show_usage(output: Output, usage: Usage) -> None:
    """Write what training took."""
    rows = [
        (
            row.month,
            row.model or "all",
            row.owner or "all",
            f"{row.device_seconds:,.1f}",
            str(row.jobs_count),
            str(row.runs_count),
            f"{row.memory_bytes_max / BYTES_OF_MEGABYTE:,.0f}",
            f"{row.items_per_s_max:,.0f}",
        )
        for row in usage.rows
    ]
    columns = (
        "month", "model", "owner", "device-s#", "jobs#", "runs#", "peak MB#", "items/s#",
    )  # fmt: skip
    output.table(columns, rows, empty="Nothing has been trained yet.")
    for model, count in usage.items_served.items():
        output.say(f"{model} was asked {count:,} items since the hub's start.")


def came_of(job: CloudJob) -> str:
    """Return what came of a Job, in a few words."""
    if job.release_version is not None:
        return f"release {job.model}:{job.release_version}"
    if job.candidate_id is not None:
        return f"refused: {job.candidate_id}"
    return job.result_checkpoint_id or ""


def value_text(job: CloudJob) -> str:
    """Return a Job's value, with its interval where it has one."""
    if job.value is None:
        return ""
    if job.value_low is None or job.value_high is None:
        return f"{job.value:.4f}"
    return f"{job.value:.4f}, 95 % interval {job.value_low:.4f} to {job.value_high:.4f}"


def share(value: Share | None) -> str:
    """Return a share with its interval."""
    if value is None:
        return "–"
    return f"{value.value * 100:.1f} % ({value.low * 100:.1f}–{value.high * 100:.1f})"


def number(value: float | None, *, is_signed: bool = False) -> str:
    """Return a number, or a dash where there is none."""
    if value is None:
        return "–"
    digits = ",.0f" if abs(value) >= LARGE else ".4f"
    return f"{value:{'+' if is_signed else ''}{digits}}"


def _settings(found: Compared) -> list[tuple[str, str, str]]:
    """Return the settings that differ; a spec that only one order has is one row."""
    rows: dict[str, tuple[str, str, str]] = {}
    for pair in found.settings:
        head = pair.path.partition(".")[0]
        is_one_sided = head in WHOLE_SETTINGS and not (pair.a and pair.b)
        if not is_one_sided:
            rows[pair.path] = (pair.path, pair.a, pair.b)
        elif pair.path != head:
            rows[head] = (head, "given" if pair.a else "–", "given" if pair.b else "–")
    return list(rows.values())


def _confusion(output: Output, report: JobReport) -> None:
    if not report.confusion or len(report.classes) > CONFUSION_CLASSES_MAX:
        return
    output.say("")
    rows = [
        (name, *(str(count) if count else "·" for count in counts))
        for name, counts in zip(report.classes, report.confusion, strict=False)
    ]
    output.table(("true \\ said", *(f"{name}#" for name in report.classes)), rows, empty="")


def _slices(output: Output, report: JobReport) -> None:
    worse = [row for row in report.slices if row.is_worse][:SLICES_SHOWN_MAX]
    rows: Sequence[tuple[str, ...]] = [
        (f"{row.by} {row.name}", f"{row.accuracy.count:,}", share(row.accuracy)) for row in worse
    ]
    if rows:
        output.say("")
        output.table(("worse than the whole", "items#", "right#"), rows, empty="")


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
