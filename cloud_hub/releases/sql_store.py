"""Tables of releases and channels. What a row says can be made again from the signed manifest."""

import msgspec
import sqlalchemy as sa

from cloud_hub.candidates.candidate import CandidateId, Verdict
from cloud_hub.candidates.sql_store import candidates
from cloud_hub.releases.channel import Channel, ChannelName
from cloud_hub.releases.release import Release
from cloud_hub.sql_database import METADATA, upsert
from shared.ids import LineageId, ModelName

RELEASES_SHOWN_MAX = 1000

releases = sa.Table(
    "releases",
    METADATA,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("manifest_digest", sa.String(64), nullable=False, unique=True),
    sa.Column("content_digest", sa.String(64), nullable=False),
    sa.Column("candidate_id", sa.String(63), nullable=False),
    sa.Column("precisions", sa.Text, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("notes", sa.Text, nullable=False),
    sa.Column("lineage_id", sa.String(63), nullable=False),
    sa.Column("artifact_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "model", "content_digest"),
)

channels = sa.Table(
    "channels",
    METADATA,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)

# A release whose candidate's row is lost passed the gate all the same: it is signed.
_QUERY = sa.select(releases, candidates.c.verdict).select_from(
    releases.outerjoin(candidates, releases.c.candidate_id == candidates.c.candidate_id)
)
_PASSED = Verdict(is_passed=True, reasons=())


def insert_release(connection: sa.Connection, release: Release) -> None:
    """Keep a release; one that is there already stays as it is."""
    values = {
        "model": release.model,
        "version": release.version,
        "manifest_digest": release.manifest_digest,
        "content_digest": release.content_digest,
        "candidate_id": release.candidate_id,
        "precisions": msgspec.json.encode(release.precisions).decode(),
        "metrics": msgspec.json.encode(release.metrics, order="deterministic").decode(),
        "notes": release.notes,
        "lineage_id": release.lineage_id,
        "artifact_bytes": release.artifact_bytes,
        "created_ms": release.created_ms,
    }
    upsert(connection, releases, values, key=("model", "version"), update=())


def find_release(connection: sa.Connection, model: str, version: int) -> Release | None:
    """Return one release, or None."""
    query = _QUERY.where(releases.c.model == model, releases.c.version == version)
    row = connection.execute(query).one_or_none()
    return _release(row) if row is not None else None


def find_content(connection: sa.Connection, model: str, content_digest: str) -> Release | None:
    """Return the first release that came of an upload, or None."""
    query = _QUERY.where(
        releases.c.model == model, releases.c.content_digest == content_digest
    ).order_by(releases.c.version)
    row = connection.execute(query.limit(1)).one_or_none()
    return _release(row) if row is not None else None


def select_releases(connection: sa.Connection, model: str | None) -> tuple[Release, ...]:
    """Return releases of one model or of all, newest first."""
    query = _QUERY.order_by(releases.c.created_ms.desc(), releases.c.model, releases.c.version)
    if model is not None:
        query = query.where(releases.c.model == model)
    return tuple(_release(row) for row in connection.execute(query.limit(RELEASES_SHOWN_MAX)))


def select_names(connection: sa.Connection) -> set[tuple[str, int]]:
    """Return (model, version) of every release."""
    rows = connection.execute(sa.select(releases.c.model, releases.c.version))
    return {(row.model, row.version) for row in rows}


def put_channel(connection: sa.Connection, channel: Channel) -> None:
    """Point a channel somewhere."""
    values = {
        "model": channel.model,
        "name": str(channel.name),
        "version": channel.version,
        "changed_ms": channel.changed_ms,
    }
    update = ("version", "changed_ms")
    upsert(connection, channels, values, key=("model", "name"), update=update)


def select_channels(connection: sa.Connection, model: str | None) -> tuple[Channel, ...]:
    """Return channels of one model or of all, by model and name."""
    query = channels.select().order_by(channels.c.model, channels.c.name)
    if model is not None:
        query = query.where(channels.c.model == model)
    return tuple(
        Channel(ModelName(row.model), ChannelName(row.name), row.version, row.changed_ms)
        for row in connection.execute(query)
    )


def _release(row: "sa.Row[tuple[object, ...]]") -> Release:
    verdict = _PASSED
    if row.verdict is not None:
        verdict = msgspec.json.decode(row.verdict, type=Verdict)
    return Release(
        model=ModelName(row.model),
        version=row.version,
        manifest_digest=row.manifest_digest,
        precisions=msgspec.json.decode(row.precisions, type=tuple[str, ...]),
        metrics=msgspec.json.decode(row.metrics, type=dict[str, float]),
        notes=row.notes,
        lineage_id=LineageId(row.lineage_id),
        created_ms=row.created_ms,
        artifact_bytes=row.artifact_bytes,
        candidate_id=CandidateId(row.candidate_id),
        content_digest=row.content_digest,
        verdict=verdict,
    )
