"""Rollouts, their devices and timelines; Targets; Reports; receipts.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NAME = sa.String(63)
DIGEST = sa.String(64)
CODE = sa.String(80)
SHORT = sa.String(120)


def upgrade() -> None:
    _create_rollouts()
    _create_targets()
    _create_reports()
    _create_receipts()


def _create_rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("group_name", NAME),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest_digest", DIGEST, nullable=False),
        sa.Column("order_json", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("wave_limits", sa.Text, nullable=False),
        sa.Column("wave_good_ms", sa.BigInteger),
        sa.Column("hold_code", CODE, nullable=False),
        sa.Column("answers_count", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_model"), "rollouts", ["model"])
    op.create_index(op.f("ix_rollouts_state"), "rollouts", ["state"])
    op.create_table(
        "rollout_models",
        sa.Column("model", NAME, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_rollout_models")),
    )
    op.create_table(
        "rollout_devices",
        sa.Column("rollout_id", NAME, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("targeted_ms", sa.BigInteger),
        sa.Column("previous_version", sa.Integer),
        sa.Column("previous_digest", DIGEST),
        sa.Column("failure_code", CODE),
        sa.Column("failure_text", sa.Text),
        sa.Column("failure_undo_ms", sa.BigInteger),
        sa.Column("failures_count", sa.Integer, nullable=False),
        sa.Column("is_excused", sa.Boolean, nullable=False),
        sa.Column("is_silence_noted", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", name=op.f("pk_rollout_devices")),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.rollout_id"], name=op.f("fk_rollout_devices_rollout_id")
        ),
    )
    op.create_index(op.f("ix_rollout_devices_device_id"), "rollout_devices", ["device_id"])
    op.create_index(op.f("ix_rollout_devices_state"), "rollout_devices", ["state"])
    op.create_table(
        "rollout_events",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("rollout_id", NAME, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("code", CODE, nullable=False),
        sa.Column("text", sa.String(2200), nullable=False),
        sa.Column("by_whom", NAME, nullable=False),
        sa.Column("device_id", NAME),
        sa.Column("measured", sa.Float),
        sa.Column("limit_value", sa.Float),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_events")),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.rollout_id"], name=op.f("fk_rollout_events_rollout_id")
        ),
    )
    op.create_index(op.f("ix_rollout_events_rollout_id"), "rollout_events", ["rollout_id"])


def _create_targets() -> None:
    op.create_table(
        "device_targets",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("manifest_digest", DIGEST),
        sa.Column("rollout_id", NAME, nullable=False),
        sa.Column("trial_json", sa.Text, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_device_targets")),
    )
    op.create_index(op.f("ix_device_targets_rollout_id"), "device_targets", ["rollout_id"])
    op.create_table(
        "target_revisions",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("published_revision", sa.BigInteger, nullable=False),
        sa.Column("published_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_target_revisions")),
    )


def _create_reports() -> None:
    op.create_table(
        "device_reports",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("session_id", sa.String(16), nullable=False),
        sa.Column("previous_session_id", sa.String(16), nullable=False),
        sa.Column("sent_ms", sa.BigInteger, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("target_revision", sa.BigInteger, nullable=False),
        sa.Column("pipelines_json", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_reports")),
    )
    op.create_table(
        "device_models",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest_digest", DIGEST),
        sa.Column("precision", SHORT, nullable=False),
        sa.Column("target_version", sa.Integer, nullable=False),
        sa.Column("rollout_id", SHORT, nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("trial_items", sa.BigInteger, nullable=False),
        sa.Column("failure_version", sa.Integer),
        sa.Column("failure_digest", DIGEST),
        sa.Column("failure_rollout", NAME),
        sa.Column("failure_code", CODE),
        sa.Column("failure_text", sa.Text),
        sa.Column("failure_undo_ms", sa.BigInteger),
        sa.Column("proof", sa.String(16)),
        sa.Column("receipt_id", sa.Integer),
        sa.Column("receipt_problem", sa.Text, nullable=False),
        sa.Column("reported_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "model", name=op.f("pk_device_models")),
    )


def _create_receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("model", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest_digest", DIGEST, nullable=False),
        sa.Column("artifact_digest", DIGEST, nullable=False),
        sa.Column("precision", SHORT, nullable=False),
        sa.Column("runtime", SHORT, nullable=False),
        sa.Column("config_digest", DIGEST, nullable=False),
        sa.Column("boot_id", SHORT, nullable=False),
        sa.Column("golden_items", sa.BigInteger, nullable=False),
        sa.Column("golden_error_max", sa.Float, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("rollout_id", SHORT, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("effective_ms", sa.BigInteger, nullable=False),
        sa.Column("payload_digest", DIGEST, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipts")),
        sa.UniqueConstraint(
            "device_id", "payload_digest", name=op.f("uq_receipts_device_id_payload_digest")
        ),
    )
    op.create_index("ix_receipts_device_id_effective_ms", "receipts", ["device_id", "effective_ms"])
    op.create_index("ix_receipts_manifest_digest", "receipts", ["manifest_digest"])


def downgrade() -> None:
    for table in (
        "receipts",
        "device_models",
        "device_reports",
        "target_revisions",
        "device_targets",
        "rollout_events",
        "rollout_devices",
        "rollout_models",
        "rollouts",
    ):
        op.drop_table(table)
