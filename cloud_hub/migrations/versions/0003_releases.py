"""Candidates, releases and channels."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "candidates",
        sa.Column("candidate_id", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("lineage_id", sa.String(63), nullable=False),
        sa.Column("precision", sa.String(120), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("is_passed", sa.Boolean, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("candidate_id", name="pk_candidates"),
    )
    op.create_index("ix_candidates_model_created_ms", "candidates", ["model", "created_ms"])
    op.create_table(
        "releases",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("candidate_id", sa.String(63), nullable=False),
        sa.Column("precisions", sa.Text, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("lineage_id", sa.String(63), nullable=False),
        sa.Column("artifact_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_releases"),
        sa.UniqueConstraint("manifest_digest", name="uq_releases_manifest_digest"),
    )
    op.create_index("ix_releases_model_content_digest", "releases", ["model", "content_digest"])
    op.create_table(
        "channels",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("name", sa.String(20), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", "name", name="pk_channels"),
    )


def downgrade() -> None:
    op.drop_table("channels")
    op.drop_table("releases")
    op.drop_table("candidates")
