"""The tables of datasets: names, versions, and which packs each manifest names.

Manifests and items lie in the object store.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_hub.datasets.dataset import Dataset, DatasetName, DatasetVersion
from cloud_hub.datasets.making import PackFacts
from cloud_hub.datasets.manifest import ItemKind, Part
from cloud_hub.sql_database import METADATA, upsert
from shared.ids import LineageId

NAME = sa.String(63)
DIGEST = sa.String(64)

datasets = sa.Table(
    "datasets",
    METADATA,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("classes_json", sa.Text, nullable=False),
    sa.Column("owner", NAME, nullable=False),
    sa.Column("last_version", sa.Integer, nullable=False),  # A number is never given twice
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
versions = sa.Table(
    "dataset_versions",
    METADATA,
    sa.Column("dataset", NAME, sa.ForeignKey("datasets.name"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", DIGEST, nullable=False, index=True),
    sa.Column("parent", sa.Integer),
    sa.Column("items_count", sa.Integer, nullable=False),
    sa.Column("labelled_count", sa.Integer, nullable=False),
    sa.Column("parts_json", sa.Text, nullable=False),
    sa.Column("classes_json", sa.Text, nullable=False),
    sa.Column("bytes_count", sa.BigInteger, nullable=False),
    sa.Column("lineage_id", NAME, nullable=False, index=True),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", NAME, nullable=False),
)
packs = sa.Table(
    "dataset_packs",
    METADATA,
    sa.Column("manifest", DIGEST, primary_key=True),
    sa.Column("pack", DIGEST, primary_key=True, index=True),
    sa.Column("bytes_count", sa.BigInteger, nullable=False),
)


def find_dataset(connection: sa.Connection, name: str) -> Dataset | None:
    """Return a dataset with its newest version, or None."""
    row = connection.execute(datasets.select().where(datasets.c.name == name)).one_or_none()
    if row is None:
        return None
    return _dataset(row, find_version(connection, name, None))


def select_datasets(connection: sa.Connection) -> tuple[Dataset, ...]:
    """Return every dataset by name, each with its newest version."""
    newest = (
        sa.select(versions.c.dataset, sa.func.max(versions.c.version).label("version"))
        .group_by(versions.c.dataset)
        .subquery()
    )
    joined = versions.join(
        newest,
        (versions.c.dataset == newest.c.dataset) & (versions.c.version == newest.c.version),
    )
    rows = connection.execute(sa.select(versions).select_from(joined))
    found = {row.dataset: _version(row) for row in rows}
    query = datasets.select().order_by(datasets.c.name)
    return tuple(_dataset(row, found.get(row.name)) for row in connection.execute(query))


def count_datasets(connection: sa.Connection) -> int:
    """Return how many datasets there are."""
    return int(connection.execute(sa.select(sa.func.count()).select_from(datasets)).scalar_one())


def put_dataset(connection: sa.Connection, dataset: Dataset) -> None:
    """Keep a dataset; one that is there has other classes from now on."""
    values = {
        "name": dataset.name,
        "kind": dataset.kind,
        "classes_json": _json(dataset.classes),
        "owner": dataset.owner,
        "last_version": 0,
        "created_ms": dataset.created_ms,
    }
    upsert(connection, datasets, values, key=("name",), update=("classes_json",))


def next_version(connection: sa.Connection, name: str) -> int:
    """Return the number of the next version of a dataset, and remember that it was given."""
    found = datasets.c.name == name
    connection.execute(
        datasets.update().where(found).values(last_version=datasets.c.last_version + 1)
    )
    query = sa.select(datasets.c.last_version).where(found)
    return int(connection.execute(query).scalar_one())


def insert_version(
    connection: sa.Connection, version: DatasetVersion, packs_named: Sequence[PackFacts]
) -> None:
    """Keep a version, and which packs its manifest names."""
    connection.execute(
        versions.insert().values(
            dataset=version.dataset,
            version=version.version,
            digest=version.digest,
            parent=version.parent,
            items_count=version.items_count,
            labelled_count=version.labelled_count,
            parts_json=_json(version.counts_by_part),
            classes_json=_json(version.counts_by_class),
            bytes_count=version.bytes_count,
            lineage_id=version.lineage_id,
            note=version.note,
            created_ms=version.created_ms,
            created_by=version.created_by,
        )
    )
    rows = [
        {"manifest": version.digest, "pack": pack.digest, "bytes_count": pack.bytes_count}
        for pack in packs_named
    ]
    upsert(connection, packs, rows, key=("manifest", "pack"), update=())


def find_version(
    connection: sa.Connection, dataset: str, number: int | None
) -> DatasetVersion | None:
    """Return one version of a dataset, the newest where no number is given, or None."""
    query = versions.select().where(versions.c.dataset == dataset)
    if number is not None:
        query = query.where(versions.c.version == number)
    row = connection.execute(query.order_by(versions.c.version.desc()).limit(1)).one_or_none()
    return _version(row) if row is not None else None


def select_versions(connection: sa.Connection, dataset: str) -> tuple[DatasetVersion, ...]:
    """Return the versions of a dataset, newest first."""
    query = versions.select().where(versions.c.dataset == dataset)
    rows = connection.execute(query.order_by(versions.c.version.desc()))
    return tuple(_version(row) for row in rows)


def delete_version(connection: sa.Connection, version: DatasetVersion) -> None:
    """Forget a version, and what its manifest names if no other version has that manifest."""
    is_it = (versions.c.dataset == version.dataset) & (versions.c.version == version.version)
    connection.execute(versions.delete().where(is_it))
    same = versions.select().where(versions.c.digest == version.digest).limit(1)
    if connection.execute(same).first() is None:
        connection.execute(packs.delete().where(packs.c.manifest == version.digest))


def delete_dataset(connection: sa.Connection, name: str) -> None:
    """Forget a dataset that has no version any more."""
    connection.execute(datasets.delete().where(datasets.c.name == name))


def named_packs(connection: sa.Connection) -> set[str]:
    """Return every pack that some version needs."""
    return set(connection.execute(sa.select(packs.c.pack).distinct()).scalars())


def named_manifests(connection: sa.Connection) -> set[str]:
    """Return the manifest of every version."""
    return set(connection.execute(sa.select(versions.c.digest).distinct()).scalars())


def kept_bytes(connection: sa.Connection) -> int:
    """Return how many bytes the packs of all versions have, each pack counted once."""
    each = sa.select(sa.func.max(packs.c.bytes_count).label("n")).group_by(packs.c.pack).subquery()
    return int(connection.execute(sa.select(sa.func.sum(each.c.n))).scalar_one() or 0)


def packs_named_by(connection: sa.Connection, manifest: str) -> tuple[PackFacts, ...]:
    """Return the packs that a manifest names."""
    query = packs.select().where(packs.c.manifest == manifest).order_by(packs.c.pack)
    return tuple(PackFacts(row.pack, row.bytes_count) for row in connection.execute(query))


def _dataset(row: "sa.Row[tuple[object, ...]]", newest: DatasetVersion | None) -> Dataset:
    return Dataset(
        name=DatasetName(row.name),
        kind=ItemKind(row.kind),
        classes=msgspec.json.decode(row.classes_json, type=tuple[str, ...]),
        owner=row.owner,
        created_ms=row.created_ms,
        newest=newest,
    )


def _version(row: "sa.Row[tuple[object, ...]]") -> DatasetVersion:
    return DatasetVersion(
        dataset=DatasetName(row.dataset),
        version=row.version,
        digest=row.digest,
        parent=row.parent,
        items_count=row.items_count,
        labelled_count=row.labelled_count,
        counts_by_part=msgspec.json.decode(row.parts_json, type=dict[Part, int]),
        counts_by_class=msgspec.json.decode(row.classes_json, type=dict[str, int]),
        bytes_count=row.bytes_count,
        lineage_id=LineageId(row.lineage_id),
        note=row.note,
        created_ms=row.created_ms,
        created_by=row.created_by,
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
