"""Cloud Jobs, their training runs, the values of trials, and usage."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NAME = sa.String(63)
STATE = sa.String(16)
CODE = sa.String(80)


def upgrade() -> None:
    _create_jobs()
    _create_runs()
    op.create_table(
        "cloud_run_values",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("run_index", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("step", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Float, nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "run_index", "step", name=op.f("pk_cloud_run_values")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["cloud_jobs.job_id"], name=op.f("fk_cloud_run_values_job_id")
        ),
    )
    op.create_table(
        "cloud_usage",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("run_index", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("owner", CODE, nullable=False),
        sa.Column("device_seconds", sa.Float, nullable=False),
        sa.Column("memory_bytes_max", sa.BigInteger, nullable=False),
        sa.Column("items_per_s", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "run_index", "month", name=op.f("pk_cloud_usage")),
    )
    for column in ("model", "owner"):
        op.create_index(op.f(f"ix_cloud_usage_{column}"), "cloud_usage", [column])


def _create_jobs() -> None:
    op.create_table(
        "cloud_jobs",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("order_json", sa.Text, nullable=False),
        sa.Column("spec_json", sa.Text, nullable=False),
        sa.Column("network_json", sa.Text, nullable=False),
        sa.Column("dataset", NAME, nullable=False),
        sa.Column("dataset_version", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("outcome", STATE),
        sa.Column("is_stopping", sa.Boolean, nullable=False),
        sa.Column("code", CODE, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("owner", CODE, nullable=False),
        sa.Column("created_by", CODE, nullable=False),
        sa.Column("lineage_id", NAME, nullable=False),
        sa.Column("base_checkpoint_id", NAME),
        sa.Column("result_state", STATE, nullable=False),
        sa.Column("result_run", sa.Integer),
        sa.Column("result_checkpoint_id", NAME),
        sa.Column("candidate_id", NAME),
        sa.Column("release_version", sa.Integer),
        sa.Column("value", sa.Float),
        sa.Column("value_low", sa.Float),
        sa.Column("value_high", sa.Float),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("finished_ms", sa.BigInteger),
        sa.Column("place_id", NAME, nullable=False),
        sa.Column("is_cleaned", sa.Boolean, nullable=False),
        sa.Column("holder", NAME),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_cloud_jobs")),
    )
    for column in ("model", "state", "lineage_id", "result_state", "place_id"):
        op.create_index(op.f(f"ix_cloud_jobs_{column}"), "cloud_jobs", [column])


def _create_runs() -> None:
    op.create_table(
        "cloud_runs",
        sa.Column("job_id", NAME, nullable=False),
        sa.Column("run_index", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("kind", STATE, nullable=False),
        sa.Column("params_json", sa.Text, nullable=False),
        sa.Column("fold", sa.Integer),
        sa.Column("state", STATE, nullable=False),
        sa.Column("outcome", STATE),
        sa.Column("end_reason", STATE),
        sa.Column("end_asked_ms", sa.BigInteger),
        sa.Column("code", CODE, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("best_epoch", sa.Float),
        sa.Column("progress_json", sa.Text, nullable=False),
        sa.Column("advice_json", sa.Text, nullable=False),
        sa.Column("events_read", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("started_ms", sa.BigInteger),
        sa.Column("finished_ms", sa.BigInteger),
        sa.Column("spent_ms", sa.BigInteger, nullable=False),
        sa.Column("attempt_ms", sa.BigInteger),
        sa.Column("retry_ms", sa.BigInteger, nullable=False),
        sa.Column("executor", STATE, nullable=False),
        sa.Column("processes", sa.Integer, nullable=False),
        sa.Column("place_id", NAME, nullable=False),
        sa.Column("holder", NAME),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "run_index", name=op.f("pk_cloud_runs")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["cloud_jobs.job_id"], name=op.f("fk_cloud_runs_job_id")
        ),
    )
    for column in ("state", "place_id"):
        op.create_index(op.f(f"ix_cloud_runs_{column}"), "cloud_runs", [column])
    op.create_index(op.f("ix_cloud_runs_state_created_ms"), "cloud_runs", ["state", "created_ms"])


def downgrade() -> None:
    for table in ("cloud_usage", "cloud_run_values", "cloud_runs", "cloud_jobs"):
        op.drop_table(table)
