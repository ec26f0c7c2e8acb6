"""Rows of cloud Jobs and runs to values, and back. No queries."""

from dataclasses import fields

import msgspec
import sqlalchemy as sa

from cloud_hub.candidates.candidate import CandidateId
from cloud_hub.candidates.checkpoint import CheckpointId
from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.training.cloud.cloud_job import (
    CloudJob,
    CloudJobId,
    CloudJobState,
    EndReason,
    Run,
    RunKind,
    RunProgress,
)
from cloud_hub.training.cloud.order import CloudOrder, ExecutorName
from cloud_hub.training.cloud.record import JobRecord, RunRecord
from cloud_hub.training.job import Outcome
from cloud_hub.training.lifecycle import ResultState
from shared.ids import LineageId, ModelName
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec

Row = sa.Row[tuple[object, ...]]
_ORDERS = msgspec.json.Decoder(CloudOrder)
_SPECS = msgspec.json.Decoder(ModelSpec)
_NETWORKS = msgspec.json.Decoder(NetworkSpec)
_PARAMS = msgspec.json.Decoder(dict[str, str | float | int | bool | None])
_PROGRESS = msgspec.json.Decoder(RunProgress)
_ADVICE = msgspec.json.Decoder(dict[str, float | str])
_JOB_FIELDS = tuple(field.name for field in fields(CloudJob) if field.name != "order")
_RUN_FIELDS = tuple(
    field.name for field in fields(Run) if field.name not in ("index", "params", "progress")
)
_RUNS_OWN = tuple(field.name for field in fields(RunRecord) if field.name not in ("run", "advice"))


def job_row(record: JobRecord) -> dict[str, object]:
    """Return a Job's columns, but for who settles its result."""
    values: dict[str, object] = {name: getattr(record.job, name) for name in _JOB_FIELDS}
    return values | {
        "order_json": _encode(record.job.order),
        "spec_json": _encode(record.spec),
        "network_json": _encode(record.network),
        "place_id": record.place_id,
        "is_cleaned": record.is_cleaned,
    }


def to_job(row: Row) -> JobRecord:
    """Return a row as a Job."""
    base, result, candidate = row.base_checkpoint_id, row.result_checkpoint_id, row.candidate_id
    plain = {
        name: getattr(row, name)
        for name in (
            "dataset_version", "manifest_digest", "is_stopping", "code", "text", "owner",
            "created_by", "result_run", "release_version", "value", "value_low", "value_high",
            "created_ms", "changed_ms", "started_ms", "finished_ms",
        )
    }  # fmt: skip
    job = CloudJob(
        job_id=CloudJobId(row.job_id),
        model=ModelName(row.model),
        order=_ORDERS.decode(row.order_json),
        dataset=DatasetName(row.dataset),
        state=CloudJobState(row.state),
        outcome=Outcome(row.outcome) if row.outcome is not None else None,
        lineage_id=LineageId(row.lineage_id),
        base_checkpoint_id=CheckpointId(base) if base is not None else None,
        result_state=ResultState(row.result_state),
        result_checkpoint_id=CheckpointId(result) if result is not None else None,
        candidate_id=CandidateId(candidate) if candidate is not None else None,
        **plain,
    )
    return JobRecord(
        job=job,
        spec=_SPECS.decode(row.spec_json),
        network=_NETWORKS.decode(row.network_json),
        place_id=row.place_id,
        is_cleaned=row.is_cleaned,
    )


def run_row(record: RunRecord) -> dict[str, object]:
    """Return a run's columns."""
    values: dict[str, object] = {name: getattr(record.run, name) for name in _RUN_FIELDS}
    values |= {name: getattr(record, name) for name in _RUNS_OWN}
    return values | {
        "run_index": record.run.index,
        "params_json": _encode(record.run.params),
        "progress_json": _encode(record.run.progress),
        "advice_json": _encode(record.advice),
    }


def to_run(row: Row) -> RunRecord:
    """Return a row as a run."""
    reason = row.end_reason
    plain = {
        name: getattr(row, name)
        for name in (
            "fold", "code", "text", "attempt", "deaths", "value", "best_epoch", "created_ms",
            "started_ms", "finished_ms",
        )
    }  # fmt: skip
    run = Run(
        job_id=CloudJobId(row.job_id),
        index=row.run_index,
        kind=RunKind(row.kind),
        params=_PARAMS.decode(row.params_json),
        state=CloudJobState(row.state),
        outcome=Outcome(row.outcome) if row.outcome is not None else None,
        end_reason=EndReason(reason) if reason is not None else None,
        progress=_PROGRESS.decode(row.progress_json),
        **plain,
    )
    own = {name: getattr(row, name) for name in _RUNS_OWN if name != "executor"}
    return RunRecord(
        run=run,
        executor=ExecutorName(row.executor),
        advice=_ADVICE.decode(row.advice_json),
        **own,
    )


def _encode(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
