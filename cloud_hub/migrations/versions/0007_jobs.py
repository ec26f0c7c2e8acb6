"""Federated Jobs, their devices, Rounds and events; what Targets ask devices to learn."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

NAME = sa.String(63)
CODE = sa.String(80)


def upgrade() -> None:
    _create_jobs()
    _create_progress()
    op.create_table(
        "device_learning",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("orders_json", sa.Text, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_learning")),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("order_json", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("code", CODE, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("lineage_id", NAME, nullable=False),
        sa.Column("checkpoint_id", NAME, nullable=False),
        sa.Column("result_checkpoint_id", NAME),
        sa.Column("candidate_id", NAME),
        sa.Column("release_version", sa.Integer),
        sa.Column("rounds_done", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("hub_id", NAME, nullable=False),
        sa.Column("result_state", sa.String(16), nullable=False),
        sa.Column("fleet_host", sa.String(253), nullable=False),
        sa.Column("fleet_port", sa.Integer),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.Column("retry_ms", sa.BigInteger, nullable=False),
        sa.Column("events_read", sa.BigInteger, nullable=False),
        sa.Column("events_count", sa.BigInteger, nullable=False),
        sa.Column("is_cleaned", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
    )
    for column in ("model", "state", "lineage_id", "hub_id"):
        op.create_index(op.f(f"ix_jobs_{column}"), "jobs", [column])
    op.create_table(
        "job_models",
        sa.Column("model", NAME, nullable=False),
        sa.Column("dispatched_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_job_models")),
    )


def _create_progress() -> None:
    op.create_table(
        "job_devices",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("state", sa.String(16)),
        sa.Column("code", CODE, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("epsilon_spent", sa.Float),
        sa.Column("epsilon_max", sa.Float),
        sa.Column("node_status", sa.String(120), nullable=False),
        sa.Column("rounds_answered", sa.Integer, nullable=False),
        sa.Column("last_round", sa.Integer, nullable=False),
        sa.Column("updates_refused", sa.Integer, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
        sa.Column("samples_count", sa.BigInteger),
        sa.Column("accuracy_before", sa.Float),
        sa.Column("accuracy_after", sa.Float),
        sa.Column("accuracy_after_round", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "device_id", name=op.f("pk_job_devices")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_devices_job_id")),
    )
    op.create_index(op.f("ix_job_devices_device_id"), "job_devices", ["device_id"])
    op.create_table(
        "job_rounds",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("closed_ms", sa.BigInteger),
        sa.Column("devices_asked", sa.Integer, nullable=False),
        sa.Column("devices_counted", sa.Integer, nullable=False),
        sa.Column("devices_refused", sa.Integer, nullable=False),
        sa.Column("devices_silent", sa.Integer, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
        sa.Column("bytes_down", sa.BigInteger, nullable=False),
        sa.Column("loss_sum", sa.Float, nullable=False),
        sa.Column("loss_count", sa.Integer, nullable=False),
        sa.Column("evaluated_sum", sa.Float, nullable=False),
        sa.Column("evaluated_count", sa.Integer, nullable=False),
        sa.Column("next_before_sum", sa.Float, nullable=False),
        sa.Column("next_before_count", sa.Integer, nullable=False),
        sa.Column("epsilon", sa.Float),
        sa.PrimaryKeyConstraint("job_id", "round", name=op.f("pk_job_rounds")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_rounds_job_id")),
    )
    op.create_table(
        "job_events",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("code", CODE, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("device_id", NAME),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("numbers_json", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_events")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_events_job_id")),
    )


def downgrade() -> None:
    for table in (
        "device_learning",
        "job_events",
        "job_rounds",
        "job_devices",
        "job_models",
        "jobs",
    ):
        op.drop_table(table)
