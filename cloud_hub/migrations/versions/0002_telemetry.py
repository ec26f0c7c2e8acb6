"""What devices tell: streams, decisions, windows, hosts, events.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "telemetry_streams",
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("stream", sa.String(16), nullable=False),
        sa.Column("watermark", sa.BigInteger, nullable=False),
        sa.Column("missing", sa.BigInteger, nullable=False),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "stream", name=op.f("pk_telemetry_streams")),
    )
    _create_record_table(
        "telemetry_decisions",
        *_what(),
        sa.Column("item", sa.BigInteger, nullable=False),
        sa.Column("captured_ms", sa.BigInteger, nullable=False),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
    )
    _create_record_table(
        "telemetry_windows",
        *_what(),
        sa.Column("window_s", sa.Double, nullable=False),
        sa.Column("items_in", sa.BigInteger, nullable=False),
        sa.Column("items_decided", sa.BigInteger, nullable=False),
        sa.Column("items_dropped", sa.BigInteger, nullable=False),
        sa.Column("items_failed", sa.BigInteger, nullable=False),
        sa.Column("latency_ms_p50", sa.Double, nullable=False),
        sa.Column("latency_ms_p95", sa.Double, nullable=False),
        sa.Column("latency_ms_max", sa.Double, nullable=False),
        sa.Column("inference_ms_p50", sa.Double, nullable=False),
        sa.Column("inference_ms_p95", sa.Double, nullable=False),
        sa.Column("confidence_mean", sa.Double, nullable=False),
        sa.Column("swap_pause_ms_max", sa.Double, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
    )
    op.create_index("ix_telemetry_windows_received_ms", "telemetry_windows", ["received_ms"])
    op.create_index(
        "ix_telemetry_windows_model", "telemetry_windows", ["model", "version", "received_ms"]
    )
    _create_record_table(
        "telemetry_hosts",
        sa.Column("window_s", sa.Double, nullable=False),
        sa.Column("cpu_share", sa.Double, nullable=False),
        sa.Column("rss_bytes", sa.BigInteger, nullable=False),
        sa.Column("disk_free_bytes", sa.BigInteger, nullable=False),
        sa.Column("temperature_c", sa.Double, nullable=True),
    )
    _create_record_table(
        "telemetry_events",
        sa.Column("code", sa.String(80), nullable=False),
        sa.Column("text", sa.String(2000), nullable=False),
    )


def downgrade() -> None:
    for name in ("events", "hosts", "windows", "decisions", "streams"):
        op.drop_table(f"telemetry_{name}")


def _what() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )


def _create_record_table(name: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("stream", sa.String(16), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
    )
    op.create_index(f"ix_{name}_device_id_id", name, ["device_id", "id"])
