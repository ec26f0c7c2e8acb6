"""Tables of cloud Jobs, their runs, values of trials, and usage. Queries are in the other sql_*."""

import sqlalchemy as sa

from cloud_hub.sql_database import METADATA
from shared.ids import NAME_CHARS_MAX

CODE_CHARS_MAX = 80
_NAME = sa.String(NAME_CHARS_MAX)
_STATE = sa.String(16)

cloud_jobs = sa.Table(
    "cloud_jobs",
    METADATA,
    sa.Column("job_id", _NAME, primary_key=True),
    sa.Column("model", _NAME, nullable=False, index=True),
    sa.Column("order_json", sa.Text, nullable=False),
    # What is trained: of the order, or of the checkpoint that it goes on from.
    sa.Column("spec_json", sa.Text, nullable=False),
    sa.Column("network_json", sa.Text, nullable=False),
    sa.Column("dataset", _NAME, nullable=False),
    sa.Column("dataset_version", sa.Integer, nullable=False),
    sa.Column("manifest_digest", sa.String(64), nullable=False),
    sa.Column("state", _STATE, nullable=False, index=True),
    sa.Column("outcome", _STATE),
    sa.Column("is_stopping", sa.Boolean, nullable=False),
    sa.Column("code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("owner", sa.String(80), nullable=False),
    sa.Column("created_by", sa.String(80), nullable=False),
    sa.Column("lineage_id", _NAME, nullable=False, index=True),
    sa.Column("base_checkpoint_id", _NAME),
    sa.Column("result_state", _STATE, nullable=False, index=True),
    sa.Column("result_run", sa.Integer),
    sa.Column("result_checkpoint_id", _NAME),
    sa.Column("candidate_id", _NAME),
    sa.Column("release_version", sa.Integer),
    sa.Column("value", sa.Float),
    sa.Column("value_low", sa.Float),
    sa.Column("value_high", sa.Float),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("finished_ms", sa.BigInteger),
    # The disk on which its folders lie; hubs that share it share its Jobs.
    sa.Column("place_id", _NAME, nullable=False, index=True),
    sa.Column("is_cleaned", sa.Boolean, nullable=False),  # Its folders are gone
    # Who settles its result, and until when that is so without another word.
    sa.Column("holder", _NAME),
    sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
)
cloud_runs = sa.Table(
    "cloud_runs",
    METADATA,
    sa.Column("job_id", _NAME, sa.ForeignKey("cloud_jobs.job_id"), primary_key=True),
    sa.Column("run_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", _STATE, nullable=False),
    sa.Column("params_json", sa.Text, nullable=False),
    sa.Column("fold", sa.Integer),
    sa.Column("state", _STATE, nullable=False, index=True),
    sa.Column("outcome", _STATE),
    sa.Column("end_reason", _STATE),
    sa.Column("end_asked_ms", sa.BigInteger),  # When its trainer was asked to end
    sa.Column("code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("best_epoch", sa.Float),
    sa.Column("progress_json", sa.Text, nullable=False),
    sa.Column("advice_json", sa.Text, nullable=False),  # What the search remembers of it
    sa.Column("events_read", sa.BigInteger, nullable=False),  # Bytes
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("spent_ms", sa.BigInteger, nullable=False),  # Of attempts before this one
    sa.Column("attempt_ms", sa.BigInteger),  # When this one began
    sa.Column("retry_ms", sa.BigInteger, nullable=False),  # Not claimed before
    sa.Column("executor", _STATE, nullable=False),
    sa.Column("processes", sa.Integer, nullable=False),
    sa.Column("place_id", _NAME, nullable=False, index=True),
    sa.Column("holder", _NAME),
    sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
    sa.Index(None, "state", "created_ms"),
)
cloud_run_values = sa.Table(
    "cloud_run_values",
    METADATA,
    sa.Column("job_id", _NAME, sa.ForeignKey("cloud_jobs.job_id"), primary_key=True),
    sa.Column("run_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),  # Of training
    sa.Column("epoch", sa.Float, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
)
# No foreign key: what was used is counted longer than Jobs are kept.
cloud_usage = sa.Table(
    "cloud_usage",
    METADATA,
    sa.Column("job_id", _NAME, primary_key=True),
    sa.Column("run_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("month", sa.String(7), primary_key=True),  # "2026-11", UTC
    sa.Column("model", _NAME, nullable=False, index=True),
    sa.Column("owner", sa.String(80), nullable=False, index=True),
    sa.Column("device_seconds", sa.Float, nullable=False),
    sa.Column("memory_bytes_max", sa.BigInteger, nullable=False),
    sa.Column("items_per_s", sa.Float, nullable=False),
)
