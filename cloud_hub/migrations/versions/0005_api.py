"""Operators' tokens and sessions, and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operator_tokens",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_operator_tokens"),
        sa.UniqueConstraint("token_hash", name="uq_operator_tokens_token_hash"),
    )
    op.create_table(
        "operator_sessions",
        sa.Column("session_hash", sa.String(64), nullable=False),
        sa.Column("operator", sa.String(63), nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_hash", name="pk_operator_sessions"),
    )
    op.create_index("ix_operator_sessions_operator", "operator_sessions", ["operator"])
    op.create_index("ix_operator_sessions_expires_ms", "operator_sessions", ["expires_ms"])
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("operator", sa.String(63), nullable=False),
        sa.Column("action", sa.String(80), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("code", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_entries"),
    )


def downgrade() -> None:
    op.drop_table("audit_entries")
    op.drop_table("operator_sessions")
    op.drop_table("operator_tokens")
