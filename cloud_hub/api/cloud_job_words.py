"""Sentences about Jobs in the cloud, for every page and command alike. Pure.

1. What the trainer, the gate or a rule said itself is kept as it was said; only what nobody put
   into words is put into words here.
2. A sentence ends with a full stop. "Value" is what a run is compared by; higher is better.
"""

from cloud_hub.training.cloud.cloud_job import CloudJob, CloudJobState, Run, RunKind
from cloud_hub.training.cloud.order import CloudOrder
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState
from cloud_hub.training.trainer.run_files import Evaluated, Event, Noted, Progressed, Saved, Started
from cloud_hub.training.trainer.spec import (
    AdversarialMethod,
    AllTrained,
    ContrastiveMethod,
    DistillationMethod,
    GenerativeMethod,
    LowRankTrained,
    MaskedMethod,
    Method,
    PartTrained,
    PseudoLabelMethod,
    SupervisedMethod,
    Trained,
)

KIND_TEXTS = {
    RunKind.SINGLE: "the run",
    RunKind.FOLD: "fold",
    RunKind.TRIAL: "trial",
    RunKind.REFIT: "the model itself",
    RunKind.JOIN: "the ensemble",
    RunKind.EXPLAIN: "the report",
}
_RESULTS = {
    ResultState.AWAITED: "What came of it is looked at next.",
    ResultState.KEEPING: "Its weights are being kept.",
    ResultState.RELEASING: "The gate judges it now.",
    ResultState.SETTLED: "",
}


def cloud_job_text(job: CloudJob) -> str:
    """Return how a Job stands."""
    if job.is_stopping:
        return f"It is being stopped. {sentence(job.text)}".strip()
    match job.state:
        case CloudJobState.QUEUED:
            return "It waits until there is room to train."
        case CloudJobState.RUNNING:
            return f"It {work_text(job.order)}."
        case CloudJobState.FINISHED:
            parts = (_ending(job.outcome), sentence(job.text), _RESULTS[job.result_state])
            return " ".join(part for part in parts if part)


def work_text(order: CloudOrder) -> str:
    """Return what a Job does while it runs: "trains 5 folds", "searches among 20 trials"."""
    if order.ensemble:
        return f"joins {len(order.ensemble)} checkpoints"
    if not order.is_trained:
        return f"explains {order.checkpoint}"
    if order.folds is not None:
        return f"trains {order.folds} folds{', then the model itself' if order.is_released else ''}"
    if order.search is not None:
        return f"searches among {order.search.trials} trials"
    return "trains"


def order_text(job: CloudJob) -> str:
    """Return what was ordered, by whom, and from what: one sentence."""
    order = job.order
    if order.ensemble:
        start = f"from {', '.join(order.ensemble)}"
    elif job.base_checkpoint_id is not None:
        start = f"starting from {job.base_checkpoint_id}"
    else:
        start = "starting from fresh weights"
    recipe = order.recipe
    how = (
        f", {method_text(order.method)}{trained_text(order.trained)}, {recipe.epochs:g} epochs, "
        f"batch {recipe.batch}, {recipe.optimiser} at {recipe.learning_rate:g}"
    )
    return (
        f"{job.created_by} ordered a Job that {work_text(order)}: {job.model} on "
        f"{job.dataset}:{job.dataset_version}"
        f"{f', {start}' if order.is_trained else ''}"
        f"{how if order.is_trained and not order.ensemble else ''}."
    )


def method_text(method: Method) -> str:
    """Return a method in a few words."""
    match method:
        case SupervisedMethod():
            return "on labels"
        case DistillationMethod():
            return "distilled from a larger teacher"
        case AdversarialMethod():
            return f"on inputs attacked by {method.attack.upper()}"
        case ContrastiveMethod():
            return "by contrast, without labels"
        case MaskedMethod():
            return "by filling masked spans, without labels"
        case PseudoLabelMethod():
            return "on labels and its own sure answers"
        case GenerativeMethod():
            return "by reconstruction against a critic"


def trained_text(trained: Trained) -> str:
    """Return which parameters are trained, ", only head"; "" for all."""
    match trained:
        case AllTrained():
            return ""
        case PartTrained():
            return f", only {', '.join(trained.prefixes)}"
        case LowRankTrained():
            return f", by LoRA of rank {trained.rank}"


def run_name(run: Run) -> str:
    """Return what a run is: "Fold 2", "Trial 7"."""
    if run.kind is RunKind.FOLD:
        return f"Fold {run.fold}"
    return f"Trial {run.index}" if run.kind is RunKind.TRIAL else KIND_TEXTS[run.kind].capitalize()


def run_text(run: Run) -> str:
    """Return how a run stands."""
    match run.state:
        case CloudJobState.QUEUED if run.attempt:
            return f"It will be tried again. {sentence(run.text)}".strip()
        case CloudJobState.QUEUED:
            return "It waits for room."
        case CloudJobState.RUNNING:
            return f"{_standing(run)}{_ending_early(run)}"
        case CloudJobState.FINISHED:
            pruned = "Ended early by the search." if run.is_pruned else _ending(run.outcome)
            value = f"Value {run.value:.4f}." if run.value is not None else ""
            parts = (pruned, value, sentence(run.text))
            return " ".join(part for part in parts if part)


def event_text(event: Event) -> str:
    """Return what happened in a run."""
    match event:
        case Started() if event.resumed_step is not None:
            return f"Went on from step {event.resumed_step} on {event.device}."
        case Started():
            items = event.items_by_part.get("train", 0)
            return (
                f"Began on {event.device}, {event.precision}, with {event.processes} "
                f"{'process' if event.processes == 1 else 'processes'}: {event.steps_total:,} "
                f"steps over {items:,} items; {event.trained_count:,} of "
                f"{event.parameters_count:,} parameters are trained."
            )
        case Progressed():
            return (
                f"Epoch {event.epoch:.2f}, step {event.step:,}: loss {event.loss:.4f}, "
                f"{event.items_per_s:,.0f} items/s, {event.device_seconds:.1f} device-seconds."
            )
        case Evaluated():
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            best = "; the best so far" if event.is_best else ""
            return f"Epoch {event.epoch:.2f} evaluated: {numbers}{best}."
        case Saved():
            return f"A state was kept at step {event.step:,}."
        case Noted():
            return sentence(event.text)


def sentence(text: str) -> str:
    """Return a text with a full stop; "" stays."""
    said = text.strip()
    return said if not said or said.endswith((".", "!", "?")) else f"{said}."


def _ending(outcome: Outcome | None) -> str:
    match outcome:
        case Outcome.COMPLETED:
            return "Completed."
        case Outcome.STOPPED:
            return "Stopped."
        case Outcome.FAILED | None:
            return "Failed."


def _standing(run: Run) -> str:
    progress = run.progress
    if not progress.steps_total:
        return "Its process starts."
    parts = [f"Epoch {progress.epoch:.2f}, step {progress.step:,} of {progress.steps_total:,}"]
    parts += [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
    parts += [f"best {progress.best_value:.4f}"] if progress.best_value is not None else []
    parts += [f"{progress.items_per_s:,.0f} items/s"] if progress.items_per_s else []
    return f"{', '.join(parts)}, on {progress.device or 'an unknown device'}."


def _ending_early(run: Run) -> str:
    return f" It was asked to end ({run.end_reason})." if run.end_reason is not None else ""
