"""Devices, their groups and certificates, and the tokens they join with.

Revision: 0001, after nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("certificate_serial", sa.String(40), nullable=False),
        sa.Column("certificate_expires_ms", sa.BigInteger, nullable=False),
        sa.Column("presence", sa.String(16), nullable=False),
        sa.Column("presence_reason", sa.String(120), nullable=False),
        sa.Column("session_id", sa.String(16)),
        sa.Column("birth_message_id", sa.String(16)),
        sa.Column("ended_sessions", sa.String(300), nullable=False),
        sa.Column("last_seen_ms", sa.BigInteger),
        sa.Column("agent_version", sa.String(120), nullable=False),
        sa.Column("boot_id", sa.String(120), nullable=False),
        sa.Column("machine", sa.String(120), nullable=False),
        sa.Column("board", sa.String(120), nullable=False),
        sa.Column("cores_count", sa.BigInteger),
        sa.Column("memory_bytes", sa.BigInteger),
        sa.Column("uptime_s", sa.BigInteger),
        sa.Column("outbox_rows", sa.BigInteger),
        sa.Column("outbox_dropped", sa.BigInteger),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_devices")),
    )
    op.create_table(
        "device_groups",
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("group_name", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "group_name", name=op.f("pk_device_groups")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.device_id"], name=op.f("fk_device_groups_device_id")
        ),
    )
    op.create_index(op.f("ix_device_groups_group_name"), "device_groups", ["group_name"])
    op.create_table(
        "device_certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("certificate_pem", sa.Text, nullable=False),
        sa.Column("issued_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_device_certificates")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.device_id"], name=op.f("fk_device_certificates_device_id")
        ),
    )
    op.create_index(op.f("ix_device_certificates_device_id"), "device_certificates", ["device_id"])
    op.create_table(
        "join_tokens",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(63)),
        sa.Column("group_names", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("redeemed_ms", sa.BigInteger),
        sa.Column("device_id", sa.String(63)),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_join_tokens")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.device_id"], name=op.f("fk_join_tokens_device_id")
        ),
    )


def downgrade() -> None:
    for table in ("join_tokens", "device_certificates", "device_groups", "devices"):
        op.drop_table(table)
