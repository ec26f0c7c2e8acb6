"""What each run of a Job trains: its TrainSpec, from the order and what the run is for. Pure."""

import math

import msgspec

from cloud_hub.training.cloud.cloud_job import (
    CloudJobState,
    Params,
    Run,
    RunKind,
    RunProgress,
)
from cloud_hub.training.cloud.order import Choice, CloudOrder, Range
from cloud_hub.training.cloud.order_settings import with_params
from cloud_hub.training.cloud.record import JobRecord, RunRecord
from cloud_hub.training.trainer.run_files import TEACHER, WEIGHTS
from cloud_hub.training.trainer.spec import DataSource, DistillationMethod, Start, TrainSpec
from shared.model.network import NetworkSpec

REFIT_FOLDS = 10


def first_runs(record: JobRecord, *, now_ms: int) -> tuple[RunRecord, ...]:
    """Return the runs with which a Job begins; a search makes its trials one by one."""
    order = record.job.order
    if order.search is not None:
        return ()
    if order.folds is not None:
        return tuple(
            new_run(record, index, RunKind.FOLD, fold=index, now_ms=now_ms)
            for index in range(order.folds)
        )
    kind = RunKind.JOIN if order.ensemble else RunKind.SINGLE
    if not order.is_trained:
        kind = RunKind.EXPLAIN
    return (new_run(record, 0, kind, now_ms=now_ms),)


def new_run(
    record: JobRecord,
    index: int,
    kind: RunKind,
    *,
    now_ms: int,
    params: Params | None = None,
    fold: int | None = None,
) -> RunRecord:
    """Return a run that waits."""
    run = Run(
        job_id=record.job.job_id,
        index=index,
        kind=kind,
        params=params or {},
        fold=fold,
        state=CloudJobState.QUEUED,
        outcome=None,
        end_reason=None,
        code="",
        text="",
        attempt=0,
        deaths=0,
        value=None,
        best_epoch=None,
        progress=RunProgress(),
        created_ms=now_ms,
        started_ms=None,
        finished_ms=None,
    )
    order = record.job.order
    return RunRecord(
        run=run, executor=order.executor, processes=order.processes, place_id=record.place_id
    )


def train_spec(
    record: JobRecord, run: Run, *, objects: str, cache: str, teacher: NetworkSpec | None
) -> TrainSpec:
    """Return what a run's trainer reads.

    Args:
        record: the Job's.
        run: what it is for.
        objects: where the dataset lies.
        cache: a folder for decoded datasets.
        teacher: the network of the order's teacher, where it names one.

    Raises ContractError `order.search` where a trial's values do not fit.
    """
    order, network = with_params(record.job.order, record.network, run.params)
    method = order.method
    if isinstance(method, DistillationMethod):
        method = msgspec.structs.replace(method, teacher=teacher, teacher_weights=TEACHER)
    start = Start()
    if order.checkpoint is not None:
        start = Start(weights=WEIGHTS, is_partial=order.is_transfer)
    return TrainSpec(
        run_id=run.key,
        model=record.spec,
        network=network,
        data=DataSource(
            objects=objects,
            manifest=record.job.manifest_digest,
            folds_count=_folds_count(order, run.kind),
            fold=run.fold or 0,
            items_max=order.items_max,
        ),
        start=start,
        trained=order.trained,
        method=method,
        recipe=order.recipe,
        seed=order.seed,
        device=order.device,
        processes=order.processes,
        # Of a trial nobody looks at slices; the model that comes of a search is looked at.
        is_explained=order.is_explained and not _is_only_a_step(order, run.kind),
        cache=cache,
    )


def evaluations_max(order: CloudOrder) -> int:
    """Return how often a run is evaluated, at most: what a search may spend on one trial."""
    epochs = order.recipe.epochs
    match order.search.space.get("recipe.epochs") if order.search is not None else None:
        case Range(high=high):
            epochs = high
        case Choice(values=values):
            epochs = max(float(value) for value in values if isinstance(value, int | float))
        case None:
            pass
    return max(1, math.ceil(epochs / order.recipe.evaluate_every))


def _folds_count(order: CloudOrder, kind: RunKind) -> int | None:
    if kind is RunKind.FOLD:
        return order.folds
    if kind is RunKind.REFIT and order.search is not None:
        # Both parts are trained on together, but for a tenth, which chooses the epoch.
        return REFIT_FOLDS
    return None


def _is_only_a_step(order: CloudOrder, kind: RunKind) -> bool:
    if kind is RunKind.TRIAL:
        return order.search is not None and order.search.is_refitted
    return False
