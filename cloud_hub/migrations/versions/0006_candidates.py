"""Checkpoints and evaluation sets."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("checkpoint_id", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("weights_digest", sa.String(64), nullable=False),
        sa.Column("parameters_count", sa.BigInteger, nullable=False),
        sa.Column("lineage_id", sa.String(63), nullable=False),
        sa.Column("origin", sa.String(63), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("checkpoint_id", name="pk_checkpoints"),
    )
    op.create_index("ix_checkpoints_model_created_ms", "checkpoints", ["model", "created_ms"])
    op.create_index("ix_checkpoints_weights_digest", "checkpoints", ["weights_digest"])
    op.create_table(
        "evaluation_sets",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("items_count", sa.Integer, nullable=False),
        sa.Column("item_shape", sa.String(120), nullable=False),
        sa.Column("slices", sa.Text, nullable=False),
        sa.Column("file_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "digest", name="pk_evaluation_sets"),
    )


def downgrade() -> None:
    op.drop_table("evaluation_sets")
    op.drop_table("checkpoints")
