"""The table of checkpoints. Their weights lie in the object store."""

import msgspec
import sqlalchemy as sa

from cloud_hub.candidates.checkpoint import Checkpoint, CheckpointId
from cloud_hub.sql_database import METADATA, upsert
from shared.ids import LineageId, ModelName
from shared.model.network import NetworkSpec
from shared.model.spec import ModelSpec, encode_spec

ORIGIN_CHARS_MAX = 63

checkpoints = sa.Table(
    "checkpoints",
    METADATA,
    sa.Column("checkpoint_id", sa.String(63), primary_key=True),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("network", sa.Text, nullable=False),
    sa.Column("weights_digest", sa.String(64), nullable=False, index=True),
    sa.Column("parameters_count", sa.BigInteger, nullable=False),
    sa.Column("lineage_id", sa.String(63), nullable=False),
    sa.Column("origin", sa.String(ORIGIN_CHARS_MAX), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "model", "created_ms"),
)
_NEWEST_FIRST = (checkpoints.c.created_ms.desc(), checkpoints.c.checkpoint_id)


def insert_checkpoint(connection: sa.Connection, checkpoint: Checkpoint) -> None:
    """Keep a checkpoint; one that is there is only the newest again."""
    network = msgspec.json.encode(checkpoint.network, order="deterministic")
    values = {
        "checkpoint_id": checkpoint.checkpoint_id,
        "model": checkpoint.model,
        "spec": encode_spec(checkpoint.spec).decode(),
        "network": network.decode(),
        "weights_digest": checkpoint.weights_digest,
        "parameters_count": checkpoint.parameters_count,
        "lineage_id": checkpoint.lineage_id,
        "origin": checkpoint.origin,
        "created_ms": checkpoint.created_ms,
    }
    upsert(connection, checkpoints, values, key=("checkpoint_id",), update=("created_ms",))


def find_checkpoint(connection: sa.Connection, checkpoint_id: str) -> Checkpoint | None:
    """Return one checkpoint, or None."""
    query = checkpoints.select().where(checkpoints.c.checkpoint_id == checkpoint_id)
    row = connection.execute(query).one_or_none()
    return _checkpoint(row) if row is not None else None


def select_checkpoints(
    connection: sa.Connection, *, model: str | None, limit: int
) -> tuple[Checkpoint, ...]:
    """Return the newest checkpoints, of one model or of all."""
    query = checkpoints.select().order_by(*_NEWEST_FIRST)
    if model is not None:
        query = query.where(checkpoints.c.model == model)
    return tuple(_checkpoint(row) for row in connection.execute(query.limit(limit)))


def select_oldest(
    connection: sa.Connection, model: str, *, kept_max: int
) -> tuple[Checkpoint, ...]:
    """Return a model's checkpoints but the newest `kept_max`."""
    query = checkpoints.select().where(checkpoints.c.model == model).order_by(*_NEWEST_FIRST)
    return tuple(_checkpoint(row) for row in connection.execute(query).all()[kept_max:])


def delete_checkpoint(connection: sa.Connection, checkpoint: Checkpoint) -> bool:
    """Forget a checkpoint; return whether nobody has its weights any more."""
    key = checkpoints.c.checkpoint_id == checkpoint.checkpoint_id
    connection.execute(checkpoints.delete().where(key))
    same = checkpoints.c.weights_digest == checkpoint.weights_digest
    return connection.execute(checkpoints.select().where(same).limit(1)).first() is None


def _checkpoint(row: "sa.Row[tuple[object, ...]]") -> Checkpoint:
    return Checkpoint(
        checkpoint_id=CheckpointId(row.checkpoint_id),
        model=ModelName(row.model),
        spec=msgspec.json.decode(row.spec, type=ModelSpec),
        network=msgspec.json.decode(row.network, type=NetworkSpec),
        weights_digest=row.weights_digest,
        parameters_count=row.parameters_count,
        lineage_id=LineageId(row.lineage_id),
        origin=row.origin,
        created_ms=row.created_ms,
    )
