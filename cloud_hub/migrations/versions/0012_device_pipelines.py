"""Pipelines that the hub orders of devices, and what more those tell."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_pipelines",
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("settings_json", sa.Text, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "name", name=op.f("pk_device_pipelines")),
    )
    for table, column in _told():
        op.add_column(table, column)


def downgrade() -> None:
    for table, column in _told():
        op.drop_column(table, column.name)
    op.drop_table("device_pipelines")


def _told() -> tuple[tuple[str, sa.Column[object]], ...]:
    return (
        ("telemetry_decisions", sa.Column("sensor", sa.String(120), nullable=True)),
        ("telemetry_windows", sa.Column("items_gated", sa.BigInteger, nullable=True)),
        ("telemetry_windows", sa.Column("stages", sa.Text, nullable=True)),
        ("telemetry_hosts", sa.Column("workers_rss_bytes", sa.BigInteger, nullable=True)),
    )
