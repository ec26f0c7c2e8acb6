"""Tables of rollouts, Targets, Reports and receipts. The queries are in the other sql_ files.

rollouts and their devices: sql_rollouts.py; timelines: sql_timeline.py; Targets: sql_targets.py;
Reports and receipts: sql_reports.py.
"""

import sqlalchemy as sa

from cloud_hub.rollouts.timeline import TEXT_CHARS_MAX
from cloud_hub.sql_database import METADATA
from shared.ids import NAME_CHARS_MAX
from shared.wire.fit import FINGERPRINT_CHARS

DIGEST_CHARS = 64
CODE_CHARS_MAX = 80

rollouts = sa.Table(
    "rollouts",
    METADATA,
    sa.Column("rollout_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("model", sa.String(NAME_CHARS_MAX), nullable=False, index=True),
    sa.Column("group_name", sa.String(NAME_CHARS_MAX)),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("manifest_digest", sa.String(DIGEST_CHARS), nullable=False),
    sa.Column("order_json", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("wave_limits", sa.Text, nullable=False),
    sa.Column("wave_good_ms", sa.BigInteger),
    sa.Column("hold_code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("answers_count", sa.Integer, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
)
# One row per model: who starts a rollout of it holds the row, so that two cannot start at once.
rollout_models = sa.Table(
    "rollout_models",
    METADATA,
    sa.Column("model", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("started_ms", sa.BigInteger, nullable=False),
)
rollout_devices = sa.Table(
    "rollout_devices",
    METADATA,
    sa.Column(
        "rollout_id",
        sa.String(NAME_CHARS_MAX),
        sa.ForeignKey("rollouts.rollout_id"),
        primary_key=True,
    ),
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("targeted_ms", sa.BigInteger),
    sa.Column("previous_version", sa.Integer),
    sa.Column("previous_digest", sa.String(DIGEST_CHARS)),
    sa.Column("failure_code", sa.String(CODE_CHARS_MAX)),
    sa.Column("failure_text", sa.Text),
    sa.Column("failure_undo_ms", sa.BigInteger),
    sa.Column("failures_count", sa.Integer, nullable=False),
    sa.Column("is_excused", sa.Boolean, nullable=False),
    sa.Column("is_silence_noted", sa.Boolean, nullable=False),
)
rollout_events = sa.Table(
    "rollout_events",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column(
        "rollout_id",
        sa.String(NAME_CHARS_MAX),
        sa.ForeignKey("rollouts.rollout_id"),
        nullable=False,
        index=True,
    ),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("code", sa.String(CODE_CHARS_MAX), nullable=False),
    sa.Column("text", sa.String(TEXT_CHARS_MAX), nullable=False),
    sa.Column("by_whom", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("device_id", sa.String(NAME_CHARS_MAX)),
    sa.Column("measured", sa.Float),
    sa.Column("limit_value", sa.Float),
)
device_targets = sa.Table(
    "device_targets",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("model", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("version", sa.Integer),  # None: the Target asks for no release of the model
    sa.Column("manifest_digest", sa.String(DIGEST_CHARS)),
    sa.Column("rollout_id", sa.String(NAME_CHARS_MAX), nullable=False, index=True),
    sa.Column("trial_json", sa.Text, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)
# What each device's Target asks it to learn; as composed by the TrainingService.
device_learning = sa.Table(
    "device_learning",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("orders_json", sa.Text, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)
# What the hub would have devices run beside their own pipelines.
device_pipelines = sa.Table(
    "device_pipelines",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("name", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("settings_json", sa.Text, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
    sa.Column("changed_by", sa.String(NAME_CHARS_MAX), nullable=False),
)
target_revisions = sa.Table(
    "target_revisions",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("published_revision", sa.BigInteger, nullable=False),
    sa.Column("published_ms", sa.BigInteger, nullable=False),
)
device_reports = sa.Table(
    "device_reports",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("session_id", sa.String(16), nullable=False),
    sa.Column("previous_session_id", sa.String(16), nullable=False),
    sa.Column("sent_ms", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("target_revision", sa.BigInteger, nullable=False),
    sa.Column("pipelines_json", sa.Text, nullable=False),
)
device_models = sa.Table(
    "device_models",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("model", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("manifest_digest", sa.String(DIGEST_CHARS)),
    sa.Column("precision", sa.String(120), nullable=False),
    sa.Column("target_version", sa.Integer, nullable=False),
    sa.Column("rollout_id", sa.String(120), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("trial_items", sa.BigInteger, nullable=False),
    sa.Column("failure_version", sa.Integer),
    sa.Column("failure_digest", sa.String(DIGEST_CHARS)),
    sa.Column("failure_rollout", sa.String(NAME_CHARS_MAX)),
    sa.Column("failure_code", sa.String(CODE_CHARS_MAX)),
    sa.Column("failure_text", sa.Text),
    sa.Column("failure_undo_ms", sa.BigInteger),
    sa.Column("proof", sa.String(16)),
    sa.Column("receipt_id", sa.Integer),
    sa.Column("receipt_problem", sa.Text, nullable=False),
    sa.Column("reported_ms", sa.BigInteger, nullable=False),
)
# Kept for ever: what ran where, and when.
receipts = sa.Table(
    "receipts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("model", sa.String(NAME_CHARS_MAX), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("manifest_digest", sa.String(DIGEST_CHARS), nullable=False),
    sa.Column("artifact_digest", sa.String(DIGEST_CHARS), nullable=False),
    sa.Column("precision", sa.String(120), nullable=False),
    sa.Column("runtime", sa.String(120), nullable=False),
    sa.Column("config_digest", sa.String(DIGEST_CHARS), nullable=False),
    sa.Column("boot_id", sa.String(120), nullable=False),
    sa.Column("golden_items", sa.BigInteger, nullable=False),
    sa.Column("golden_error_max", sa.Float, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("rollout_id", sa.String(120), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),  # By the device's clock, signed
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    # The earlier of the two: a device whose clock is ahead does not write into the future.
    sa.Column("effective_ms", sa.BigInteger, nullable=False),
    sa.Column("payload_digest", sa.String(DIGEST_CHARS), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("device_id", "payload_digest"),
    sa.Index("ix_receipts_device_id_effective_ms", "device_id", "effective_ms"),
    sa.Index("ix_receipts_manifest_digest", "manifest_digest"),
)
# What devices measured of releases' variants: the newest of each device and release.
release_fits = sa.Table(
    "release_fits",
    METADATA,
    sa.Column("device_id", sa.String(NAME_CHARS_MAX), primary_key=True),
    sa.Column("manifest_digest", sa.String(DIGEST_CHARS), primary_key=True),
    sa.Column("fingerprint", sa.String(FINGERPRINT_CHARS), nullable=False),
    sa.Column("report_json", sa.Text, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Index("ix_release_fits_manifest_digest_fingerprint", "manifest_digest", "fingerprint"),
)
