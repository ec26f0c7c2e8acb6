"""Tables of Jobs, their devices, Rounds and events. The queries are in the other sql_ files.

Jobs: sql_jobs.py; devices, Rounds and events: sql_progress.py.
"""

import sqlalchemy as sa

from cloud_hub.sql_database import METADATA
from shared.ids import NAME_CHARS_MAX

CODE_CHARS_MAX = 80
SHORT_CHARS_MAX = 120

jobs = sa.Table(
    "jobs",
    METADATA,
    sa.Column("job_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("model", sa.String(NAME_CHARS_MAX), nullable=False, index=True),
    sa.Column("order_json", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("outcome", sa.String(16)),
    sa.Column("code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("lineage_id", sa.String(NAME_CHARS_MAX), nullable=False, index=True),
    sa.Column("checkpoint_id", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("result_checkpoint_id", sa.String(NAME_CHARS_MAX)),
    sa.Column("candidate_id", sa.String(NAME_CHARS_MAX)),
    sa.Column("release_version", sa.Integer),
    sa.Column("rounds_done", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("hub_id", sa.String(NAME_CHARS_MAX), nullable=False, index=True),
    sa.Column("result_state", sa.String(16), nullable=False),
    sa.Column("fleet_host", sa.String(253), nullable=False),
    sa.Column("fleet_port", sa.Integer),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("retry_ms", sa.BigInteger, nullable=False),
    sa.Column("events_read", sa.BigInteger, nullable=False),
    sa.Column("events_count", sa.BigInteger, nullable=False),
    sa.Column("is_cleaned", sa.Boolean, nullable=False),
)
# One row per model: who dispatches a Job of it holds the row, so that two hubs cannot at once.
job_models = sa.Table(
    "job_models",
    METADATA,
    sa.Column("model", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("dispatched_ms", sa.BigInteger, nullable=False),
)
job_devices = sa.Table(
    "job_devices",
    METADATA,
    sa.Column("job_id", sa.String(NAME_CHARS_MAX), sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True, index=True),
    # As the device reports
    sa.Column("state", sa.String(16)),
    sa.Column("code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("epsilon_spent", sa.Float),
    sa.Column("epsilon_max", sa.Float),
    # As the SuperLink says
    sa.Column("node_status", sa.String(SHORT_CHARS_MAX), nullable=False),
    # As the ServerApp's events add up
    sa.Column("rounds_answered", sa.Integer, nullable=False),
    sa.Column("last_round", sa.Integer, nullable=False),
    sa.Column("updates_refused", sa.Integer, nullable=False),
    sa.Column("bytes_up", sa.BigInteger, nullable=False),
    sa.Column("samples_count", sa.BigInteger),
    sa.Column("accuracy_before", sa.Float),
    sa.Column("accuracy_after", sa.Float),
    sa.Column("accuracy_after_round", sa.Integer, nullable=False),
)
job_rounds = sa.Table(
    "job_rounds",
    METADATA,
    sa.Column("job_id", sa.String(NAME_CHARS_MAX), sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
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
)
job_events = sa.Table(
    "job_events",
    METADATA,
    sa.Column("job_id", sa.String(NAME_CHARS_MAX), sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("device_id", sa.String(NAME_CHARS_MAX)),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("numbers_json", sa.Text, nullable=False),
)
