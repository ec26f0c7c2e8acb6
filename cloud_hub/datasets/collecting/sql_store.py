"""The tables of collecting: what is open, what has arrived, and what each device sent in a day.

The bytes of arrivals lie on the disk (file_arrivals.py).
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_hub.datasets.collecting.collection import Arrival, Collection, Usage, WaitingCount
from cloud_hub.datasets.dataset import DatasetName
from cloud_hub.sql_database import METADATA, upsert
from shared.ids import DeviceId
from shared.wire.device_samples import SampleKind

NAME = sa.String(63)
DIGEST = sa.String(64)
TEXT = sa.String(120)
IN_MAX = 500  # Values in one condition

collections = sa.Table(
    "collections",
    METADATA,
    sa.Column("dataset", NAME, primary_key=True),
    sa.Column("group_name", NAME, nullable=False),
    sa.Column("items_max", sa.Integer, nullable=False),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("kind", sa.String(16)),
    sa.Column("window_json", sa.Text, nullable=False),
    sa.Column("arrived_count", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", NAME, nullable=False),
)
arrivals = sa.Table(
    "arrivals",
    METADATA,
    sa.Column("dataset", NAME, sa.ForeignKey("collections.dataset"), primary_key=True),
    sa.Column("digest", DIGEST, primary_key=True),
    sa.Column("device", NAME, nullable=False),
    sa.Column("bytes_count", sa.BigInteger, nullable=False),
    sa.Column("label", TEXT),
    sa.Column("captured_ms", sa.BigInteger),
    sa.Column("site", TEXT, nullable=False),
    sa.Column("group_name", TEXT, nullable=False),
    sa.Column("arrived_ms", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, index=True),
)
arrival_days = sa.Table(
    "arrival_days",
    METADATA,
    sa.Column("device", NAME, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("items_count", sa.Integer, nullable=False),
    sa.Column("bytes_count", sa.BigInteger, nullable=False),
)


def find_collection(
    connection: sa.Connection, dataset: str, *, for_update: bool = False
) -> Collection | None:
    """Return a dataset's collection, or None."""
    query = collections.select().where(collections.c.dataset == dataset)
    if for_update:
        query = query.with_for_update()
    row = connection.execute(query).one_or_none()
    return _collection(row) if row is not None else None


def select_collections(connection: sa.Connection) -> tuple[Collection, ...]:
    """Return every collection, by dataset."""
    rows = connection.execute(collections.select().order_by(collections.c.dataset))
    return tuple(_collection(row) for row in rows)


def put_collection(connection: sa.Connection, collection: Collection) -> None:
    """Keep a collection; one that is there is changed but for what has arrived."""
    values = {
        "dataset": collection.dataset,
        "group_name": collection.group,
        "items_max": collection.items_max,
        "is_open": collection.is_open,
        "kind": collection.kind,
        "window_json": msgspec.json.encode(collection.window_shape).decode(),
        "arrived_count": collection.arrived_count,
        "created_ms": collection.created_ms,
        "created_by": collection.created_by,
    }
    changed = ("group_name", "items_max", "is_open", "kind", "window_json")
    upsert(connection, collections, values, key=("dataset",), update=changed)


def count_one(connection: sa.Connection, collection: Collection) -> bool:
    """Count one more arrival, and keep its kind; return whether the collection takes it."""
    table = collections.c
    changed = connection.execute(
        collections.update()
        .where(table.dataset == collection.dataset, table.is_open.is_(True))
        .where(table.arrived_count < table.items_max)
        .values(
            arrived_count=table.arrived_count + 1,
            kind=collection.kind,
            window_json=msgspec.json.encode(collection.window_shape).decode(),
        )
    )
    return changed.rowcount == 1


def charge(
    connection: sa.Connection, device: DeviceId, *, day: int, bytes_count: int, most: Usage
) -> bool:
    """Count one more item of a device on a day; return whether that is within `most`."""
    values = {"device": device, "day": day, "items_count": 0, "bytes_count": 0}
    upsert(connection, arrival_days, values, key=("device", "day"), update=())
    table = arrival_days.c
    changed = connection.execute(
        arrival_days.update()
        .where(table.device == device, table.day == day)
        .where(table.items_count < most.items_count)
        .where(table.bytes_count + bytes_count <= most.bytes_count)
        .values(items_count=table.items_count + 1, bytes_count=table.bytes_count + bytes_count)
    )
    return changed.rowcount == 1


def usage_of(connection: sa.Connection, device: DeviceId, *, day: int) -> Usage:
    """Return what a device has sent on a day."""
    table = arrival_days.c
    query = arrival_days.select().where(table.device == device, table.day == day)
    row = connection.execute(query).one_or_none()
    return Usage(row.items_count, row.bytes_count) if row is not None else Usage()


def forget_days(connection: sa.Connection, *, before: int) -> None:
    """Forget what devices sent on days before this one."""
    connection.execute(arrival_days.delete().where(arrival_days.c.day < before))


def insert_arrival(connection: sa.Connection, arrival: Arrival) -> None:
    """Keep an arrival that is not there."""
    connection.execute(
        arrivals.insert().values(
            dataset=arrival.dataset,
            digest=arrival.digest,
            device=arrival.device,
            bytes_count=arrival.bytes_count,
            label=arrival.label,
            captured_ms=arrival.captured_ms,
            site=arrival.site,
            group_name=arrival.group,
            arrived_ms=arrival.arrived_ms,
            version=arrival.version,
        )
    )


def known_digests(
    connection: sa.Connection, dataset: str, digests: Sequence[str]
) -> frozenset[str]:
    """Return those of these digests that have arrived."""
    found: set[str] = set()
    for start in range(0, len(digests), IN_MAX):
        some = digests[start : start + IN_MAX]
        query = sa.select(arrivals.c.digest).where(
            arrivals.c.dataset == dataset, arrivals.c.digest.in_(some)
        )
        found.update(connection.execute(query).scalars())
    return frozenset(found)


def select_waiting(connection: sa.Connection, dataset: str) -> tuple[Arrival, ...]:
    """Return what waits to be a version, in the order of arrival."""
    query = arrivals.select().where(arrivals.c.dataset == dataset, arrivals.c.version.is_(None))
    rows = connection.execute(query.order_by(arrivals.c.arrived_ms, arrivals.c.digest))
    return tuple(_arrival(row) for row in rows)


def waiting_digests(connection: sa.Connection) -> frozenset[tuple[str, str]]:
    """Return (dataset, digest) of everything that waits."""
    query = sa.select(arrivals.c.dataset, arrivals.c.digest).where(arrivals.c.version.is_(None))
    return frozenset((row.dataset, row.digest) for row in connection.execute(query))


def count_waiting(connection: sa.Connection, dataset: str | None = None) -> WaitingCount:
    """Return how much waits to be a version, of one dataset or of all."""
    query = sa.select(
        sa.func.count(), sa.func.count(arrivals.c.label), sa.func.sum(arrivals.c.bytes_count)
    ).where(arrivals.c.version.is_(None))
    if dataset is not None:
        query = query.where(arrivals.c.dataset == dataset)
    items, labelled, size = connection.execute(query).one()
    return WaitingCount(int(items), int(labelled), int(size or 0))


def count_by_device(connection: sa.Connection, dataset: str) -> dict[str, int]:
    """Return how much of what waits each device has sent, by device."""
    query = (
        sa.select(arrivals.c.device, sa.func.count().label("n"))
        .where(arrivals.c.dataset == dataset, arrivals.c.version.is_(None))
        .group_by(arrivals.c.device)
        .order_by(arrivals.c.device)
    )
    return {row.device: row.n for row in connection.execute(query)}


def set_version(
    connection: sa.Connection, dataset: str, digests: Sequence[str], version: int
) -> None:
    """Say which version has these arrivals."""
    for start in range(0, len(digests), IN_MAX):
        some = digests[start : start + IN_MAX]
        connection.execute(
            arrivals.update()
            .where(arrivals.c.dataset == dataset, arrivals.c.digest.in_(some))
            .values(version=version)
        )


def delete_waiting(connection: sa.Connection, dataset: str) -> int:
    """Forget what waits; return how many arrivals that were."""
    gone = connection.execute(
        arrivals.delete().where(arrivals.c.dataset == dataset, arrivals.c.version.is_(None))
    ).rowcount
    table = collections.c
    connection.execute(
        collections.update()
        .where(table.dataset == dataset)
        .values(arrived_count=table.arrived_count - gone)
    )
    return int(gone)


def _collection(row: "sa.Row[tuple[object, ...]]") -> Collection:
    return Collection(
        dataset=DatasetName(row.dataset),
        group=row.group_name,
        items_max=row.items_max,
        is_open=row.is_open,
        kind=SampleKind(row.kind) if row.kind is not None else None,
        window_shape=msgspec.json.decode(row.window_json, type=tuple[int, ...]),
        arrived_count=row.arrived_count,
        created_ms=row.created_ms,
        created_by=row.created_by,
    )


def _arrival(row: "sa.Row[tuple[object, ...]]") -> Arrival:
    return Arrival(
        dataset=DatasetName(row.dataset),
        digest=row.digest,
        device=DeviceId(row.device),
        bytes_count=row.bytes_count,
        label=row.label,
        captured_ms=row.captured_ms,
        site=row.site,
        group=row.group_name,
        arrived_ms=row.arrived_ms,
        version=row.version,
    )
