"""Drafts of labels, before they become a dataset's next version."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "label_drafts",
        sa.Column("operator", sa.String(63), nullable=False),
        sa.Column("dataset", sa.String(63), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("change_json", sa.Text, nullable=False),
        sa.Column("was_json", sa.Text, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("operator", "dataset", "digest", name=op.f("pk_label_drafts")),
    )


def downgrade() -> None:
    op.drop_table("label_drafts")
