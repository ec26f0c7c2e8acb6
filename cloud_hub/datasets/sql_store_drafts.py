"""The table of label drafts: what people have said of items and not yet saved as a version."""

from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa

from cloud_hub.datasets.label_draft import DraftEntry, ItemLabel
from cloud_hub.datasets.raw_item import RawBox
from cloud_hub.datasets.relabelling import LabelChange
from cloud_hub.sql_database import METADATA, upsert

NAME = sa.String(63)
DIGEST = sa.String(64)
OPERATOR = sa.String(63)
DELETED_AT_ONCE = 500  # Variables of a query have a limit

drafts = sa.Table(
    "label_drafts",
    METADATA,
    sa.Column("operator", OPERATOR, primary_key=True),
    sa.Column("dataset", NAME, primary_key=True),
    sa.Column("digest", DIGEST, primary_key=True),
    sa.Column("change_json", sa.Text, nullable=False),
    sa.Column("was_json", sa.Text, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)

_CHANGE = msgspec.json.Decoder(str | tuple[RawBox, ...] | None)
_LABEL = msgspec.json.Decoder(ItemLabel)


def select_draft(connection: sa.Connection, operator: str, dataset: str) -> tuple[DraftEntry, ...]:
    """Return one operator's draft of one dataset, oldest first."""
    query = drafts.select().where(_own(operator, dataset))
    rows = connection.execute(query.order_by(drafts.c.changed_ms, drafts.c.digest))
    return tuple(
        DraftEntry(row.digest, _CHANGE.decode(row.change_json), _LABEL.decode(row.was_json))
        for row in rows
    )


def count_draft(connection: sa.Connection, operator: str, dataset: str) -> int:
    """Return of how many items the operator has said something."""
    query = sa.select(sa.func.count()).select_from(drafts).where(_own(operator, dataset))
    return int(connection.execute(query).scalar_one())


def put_entries(
    connection: sa.Connection,
    operator: str,
    dataset: str,
    entries: Sequence[DraftEntry],
    *,
    now_ms: int,
) -> None:
    """Keep entries; of an item that is there already only what is said of it is written anew."""
    rows = [
        {
            "operator": operator,
            "dataset": dataset,
            "digest": entry.digest,
            "change_json": _json(entry.change),
            "was_json": _json(entry.was),
            "changed_ms": now_ms,
        }
        for entry in entries
    ]
    key = ("operator", "dataset", "digest")
    if rows:
        upsert(connection, drafts, rows, key=key, update=("change_json", "changed_ms"))


def delete_entries(
    connection: sa.Connection, operator: str, dataset: str, digests: Collection[str]
) -> None:
    """Forget what was said of these items."""
    ordered = sorted(digests)
    for start in range(0, len(ordered), DELETED_AT_ONCE):
        chosen = drafts.c.digest.in_(ordered[start : start + DELETED_AT_ONCE])
        connection.execute(drafts.delete().where(_own(operator, dataset) & chosen))


def settle_entry(connection: sa.Connection, operator: str, dataset: str, entry: DraftEntry) -> None:
    """Forget an entry that was saved; if another was said meanwhile, it now stands on this one."""
    own = _own(operator, dataset) & (drafts.c.digest == entry.digest)
    same = drafts.c.change_json == _json(entry.change)
    connection.execute(drafts.delete().where(own & same))
    connection.execute(drafts.update().where(own).values(was_json=_json(entry.said)))


def delete_drafts(connection: sa.Connection, dataset: str) -> None:
    """Forget everybody's drafts of a dataset."""
    connection.execute(drafts.delete().where(drafts.c.dataset == dataset))


def _own(operator: str, dataset: str) -> sa.ColumnElement[bool]:
    return (drafts.c.operator == operator) & (drafts.c.dataset == dataset)


def _json(value: LabelChange | ItemLabel) -> str:
    return msgspec.json.encode(value).decode()
