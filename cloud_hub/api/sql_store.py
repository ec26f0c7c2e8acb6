"""Tables of the API: operators' tokens and sessions (hashes only), and the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from cloud_hub.sql_database import METADATA

NAME_CHARS_MAX = 63
ACTION_CHARS_MAX = 80
SUBJECT_CHARS_MAX = 200
DETAIL_CHARS_MAX = 500

operator_tokens = sa.Table(
    "operator_tokens",
    METADATA,
    sa.Column("name", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
operator_sessions = sa.Table(
    "operator_sessions",
    METADATA,
    sa.Column("session_hash", sa.String(64), primary_key=True),
    sa.Column("operator", sa.String(NAME_CHARS_MAX), nullable=False, index=True),
    sa.Column("expires_ms", sa.BigInteger, nullable=False, index=True),
)
audit_entries = sa.Table(
    "audit_entries",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("operator", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("action", sa.String(ACTION_CHARS_MAX), nullable=False),
    sa.Column("subject", sa.String(SUBJECT_CHARS_MAX), nullable=False),
    sa.Column("detail", sa.String(DETAIL_CHARS_MAX), nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("code", sa.String(ACTION_CHARS_MAX), nullable=False),
)


class Outcome(StrEnum):
    """How an act ended."""

    STARTED = "started"  # Still running, or the hub died in the middle of it
    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, when, and how it ended."""

    id: int
    at_ms: int
    operator: str
    action: str
    subject: str
    detail: str
    outcome: Outcome
    code: str  # The error's code; empty where it went well


def count_tokens(connection: sa.Connection) -> int:
    """Return how many operators there are."""
    return connection.execute(sa.select(sa.func.count()).select_from(operator_tokens)).scalar_one()


def put_token(connection: sa.Connection, name: str, token_hash: str, *, created_ms: int) -> None:
    """Give operator `name` this token in place of any older one."""
    connection.execute(sa.delete(operator_tokens).where(operator_tokens.c.name == name))
    connection.execute(
        sa.insert(operator_tokens).values(name=name, token_hash=token_hash, created_ms=created_ms)
    )


def find_token(connection: sa.Connection, token_hash: str) -> str | None:
    """Return the operator whose token has this hash."""
    query = sa.select(operator_tokens.c.name).where(operator_tokens.c.token_hash == token_hash)
    return connection.execute(query).scalar_one_or_none()


def put_session(
    connection: sa.Connection, session_hash: str, operator: str, *, expires_ms: int
) -> None:
    """Store a session."""
    connection.execute(
        sa.insert(operator_sessions).values(
            session_hash=session_hash, operator=operator, expires_ms=expires_ms
        )
    )


def find_session(connection: sa.Connection, session_hash: str, *, now_ms: int) -> str | None:
    """Return the operator of a session that has not ended."""
    query = sa.select(operator_sessions.c.operator).where(
        operator_sessions.c.session_hash == session_hash, operator_sessions.c.expires_ms > now_ms
    )
    return connection.execute(query).scalar_one_or_none()


def delete_session(connection: sa.Connection, session_hash: str) -> None:
    """End one session."""
    connection.execute(
        sa.delete(operator_sessions).where(operator_sessions.c.session_hash == session_hash)
    )


def delete_sessions_of(connection: sa.Connection, operator: str) -> None:
    """End every session of an operator."""
    connection.execute(sa.delete(operator_sessions).where(operator_sessions.c.operator == operator))


def delete_expired_sessions(connection: sa.Connection, *, now_ms: int) -> None:
    """Forget the sessions that have ended."""
    connection.execute(sa.delete(operator_sessions).where(operator_sessions.c.expires_ms <= now_ms))


def add_entry(
    connection: sa.Connection, *, at_ms: int, operator: str, action: str, subject: str, detail: str
) -> int:
    """Write down that an act begins; return the entry's id."""
    result = connection.execute(
        sa.insert(audit_entries).values(
            at_ms=at_ms,
            operator=_storable(operator, NAME_CHARS_MAX),
            action=_storable(action, ACTION_CHARS_MAX),
            subject=_storable(subject, SUBJECT_CHARS_MAX),
            detail=_storable(detail, DETAIL_CHARS_MAX),
            outcome=Outcome.STARTED.value,
            code="",
        )
    )
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def finish_entry(connection: sa.Connection, entry_id: int, outcome: Outcome, *, code: str) -> None:
    """Write down how an act ended."""
    connection.execute(
        sa.update(audit_entries)
        .where(audit_entries.c.id == entry_id)
        .values(outcome=outcome.value, code=code[:ACTION_CHARS_MAX])
    )


def read_entries(
    connection: sa.Connection, *, limit: int, before: int | None
) -> Sequence[AuditEntry]:
    """Return the newest entries first, those with an id below `before` if given."""
    query = sa.select(audit_entries).order_by(audit_entries.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit_entries.c.id < before)
    return tuple(
        AuditEntry(
            id=row.id,
            at_ms=row.at_ms,
            operator=row.operator,
            action=row.action,
            subject=row.subject,
            detail=row.detail,
            outcome=Outcome(row.outcome),
            code=row.code,
        )
        for row in connection.execute(query)
    )


def delete_entries_up_to(connection: sa.Connection, entry_id: int) -> None:
    """Forget the entries up to and including this id."""
    connection.execute(sa.delete(audit_entries).where(audit_entries.c.id <= entry_id))


def _storable(text: str, chars_max: int) -> str:
    """Return `text` cut, and without what PostgreSQL cannot store: people send it unchecked."""
    clean = text.replace("\x00", "�").encode("utf-8", "replace").decode()
    return clean[:chars_max]
