"""The table of candidates: everyone who asked to be released, and what the gate said."""

import msgspec
import sqlalchemy as sa

from cloud_hub.candidates.candidate import Candidate, CandidateId, Verdict
from cloud_hub.sql_database import METADATA
from shared.ids import LineageId, ModelName

candidates = sa.Table(
    "candidates",
    METADATA,
    sa.Column("candidate_id", sa.String(63), primary_key=True),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("content_digest", sa.String(64), nullable=False),
    sa.Column("lineage_id", sa.String(63), nullable=False),
    sa.Column("precision", sa.String(120), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("is_passed", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Index(None, "model", "created_ms"),
)


def insert_candidate(connection: sa.Connection, candidate: Candidate) -> None:
    """Keep a candidate with its Verdict."""
    connection.execute(
        candidates.insert().values(
            candidate_id=candidate.candidate_id,
            model=candidate.model,
            content_digest=candidate.content_digest,
            lineage_id=candidate.lineage_id,
            precision=candidate.precision,
            created_ms=candidate.created_ms,
            is_passed=candidate.verdict.is_passed,
            verdict=msgspec.json.encode(candidate.verdict).decode(),
        )
    )


def drop_refused(connection: sa.Connection, *, kept_max: int) -> None:
    """Forget refused candidates but the newest `kept_max`."""
    newest = (
        sa.select(candidates.c.created_ms)
        .where(sa.not_(candidates.c.is_passed))
        .order_by(candidates.c.created_ms.desc())
        .offset(kept_max)
        .limit(1)
        .scalar_subquery()
    )
    too_old = candidates.c.created_ms <= newest
    connection.execute(candidates.delete().where(sa.not_(candidates.c.is_passed), too_old))


def find_candidate(connection: sa.Connection, candidate_id: str) -> Candidate | None:
    """Return one candidate, or None."""
    query = candidates.select().where(candidates.c.candidate_id == candidate_id)
    row = connection.execute(query).one_or_none()
    return _candidate(row) if row is not None else None


def select_candidates(
    connection: sa.Connection, *, model: str | None, limit: int
) -> tuple[Candidate, ...]:
    """Return the newest candidates, of one model or of all."""
    query = candidates.select().order_by(candidates.c.created_ms.desc(), candidates.c.candidate_id)
    if model is not None:
        query = query.where(candidates.c.model == model)
    return tuple(_candidate(row) for row in connection.execute(query.limit(limit)))


def _candidate(row: "sa.Row[tuple[object, ...]]") -> Candidate:
    return Candidate(
        candidate_id=CandidateId(row.candidate_id),
        model=ModelName(row.model),
        content_digest=row.content_digest,
        lineage_id=LineageId(row.lineage_id),
        precision=row.precision,
        created_ms=row.created_ms,
        verdict=msgspec.json.decode(row.verdict, type=Verdict),
    )
