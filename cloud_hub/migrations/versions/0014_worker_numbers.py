"""What sinks lost in a window, and what the processes that run models take."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in _told():
        op.add_column(table, column)


def downgrade() -> None:
    for table, column in _told():
        op.drop_column(table, column.name)


def _told() -> tuple[tuple[str, sa.Column[object]], ...]:
    return (
        ("telemetry_windows", sa.Column("sinks_lost", sa.BigInteger, nullable=True)),
        ("telemetry_windows", sa.Column("worker_rss_bytes", sa.BigInteger, nullable=True)),
        ("telemetry_hosts", sa.Column("workers_cpu_share", sa.Double, nullable=True)),
    )
