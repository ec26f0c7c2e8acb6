"""Queries that gather a device's history, and have timeline.py put it into sentences."""

import sqlalchemy as sa

from cloud_hub.rollouts.device_model import DeviceModel
from cloud_hub.rollouts.sql_reports import read_models, read_receipt, read_report
from cloud_hub.rollouts.sql_rollouts import read_models_of, read_parts
from cloud_hub.rollouts.sql_timeline import read_entries
from cloud_hub.rollouts.timeline import Part, explain_device
from shared.ids import DeviceId, ModelName

ROLLOUTS_MAX = 5  # Newest ones that are told of
ENTRIES_MAX = 60  # Newest entries of each


def explain(
    connection: sa.Connection, device_id: DeviceId, model: ModelName | None
) -> tuple[str, ...]:
    """Return in sentences what a device runs of `model`, or of every model, and how it came."""
    seen = {found.model: found for found in read_models(connection, device_id)}
    models = [model] if model else sorted({*seen, *read_models_of(connection, device_id)})
    return tuple(
        sentence
        for name in models
        for sentence in _explain_model(connection, device_id, name, seen.get(name))
    )


def _explain_model(
    connection: sa.Connection, device_id: DeviceId, model: ModelName, now: DeviceModel | None
) -> tuple[str, ...]:
    receipt = None
    if now is not None and now.receipt_id is not None:
        receipt = read_receipt(connection, now.receipt_id)
    parts = [
        Part(
            rollout=rollout,
            device=device,
            entries=read_entries(
                connection, rollout.rollout_id, device_id=device_id, limit=ENTRIES_MAX
            ),
        )
        for rollout, device in read_parts(connection, device_id, model, limit=ROLLOUTS_MAX)
    ]
    report = read_report(connection, device_id)
    return explain_device(
        device_id,
        model,
        now=now,
        receipt=receipt,
        parts=parts,
        pipelines=report.pipelines if report is not None else (),
    )
