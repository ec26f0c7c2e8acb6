"""The table of evaluation sets. Their items lie in the object store."""

import msgspec
import sqlalchemy as sa

from cloud_hub.candidates.evaluation_set import EvaluationSet
from cloud_hub.sql_database import METADATA, upsert
from shared.ids import ModelName

evaluation_sets = sa.Table(
    "evaluation_sets",
    METADATA,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("items_count", sa.Integer, nullable=False),
    sa.Column("item_shape", sa.String(120), nullable=False),
    sa.Column("slices", sa.Text, nullable=False),
    sa.Column("file_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)


def put_set(connection: sa.Connection, added: EvaluationSet) -> None:
    """Keep a set; one that is there is only the newest again."""
    values = {
        "model": added.model,
        "digest": added.digest,
        "items_count": added.items_count,
        "item_shape": msgspec.json.encode(added.item_shape).decode(),
        "slices": msgspec.json.encode(added.slices, order="deterministic").decode(),
        "file_bytes": added.file_bytes,
        "created_ms": added.created_ms,
    }
    upsert(connection, evaluation_sets, values, key=("model", "digest"), update=("created_ms",))


def count_others(connection: sa.Connection, added: EvaluationSet) -> int:
    """Return how many other sets the model has."""
    c = evaluation_sets.c
    query = sa.select(sa.func.count()).where(c.model == added.model, c.digest != added.digest)
    return int(connection.execute(query).scalar_one())


def select_sets(connection: sa.Connection, model: str | None) -> tuple[EvaluationSet, ...]:
    """Return sets of one model or of all, newest first."""
    c = evaluation_sets.c
    query = evaluation_sets.select().order_by(c.created_ms.desc(), c.model, c.digest)
    if model is not None:
        query = query.where(c.model == model)
    return tuple(_set(row) for row in connection.execute(query))


def delete_set(connection: sa.Connection, found: EvaluationSet) -> bool:
    """Forget a set; return whether no model has its items any more."""
    c = evaluation_sets.c
    is_it = (c.model == found.model) & (c.digest == found.digest)
    connection.execute(evaluation_sets.delete().where(is_it))
    query = evaluation_sets.select().where(c.digest == found.digest).limit(1)
    return connection.execute(query).first() is None


def _set(row: "sa.Row[tuple[object, ...]]") -> EvaluationSet:
    return EvaluationSet(
        digest=row.digest,
        model=ModelName(row.model),
        items_count=row.items_count,
        item_shape=msgspec.json.decode(row.item_shape, type=tuple[int, ...]),
        slices=msgspec.json.decode(row.slices, type=dict[str, int]),
        file_bytes=row.file_bytes,
        created_ms=row.created_ms,
    )
