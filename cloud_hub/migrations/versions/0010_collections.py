"""Datasets that are open to devices, what has arrived for them, and what each device sent."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NAME = sa.String(63)
DIGEST = sa.String(64)
TEXT = sa.String(120)


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("dataset", NAME, nullable=False),
        sa.Column("group_name", NAME, nullable=False),
        sa.Column("items_max", sa.Integer, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("kind", sa.String(16)),
        sa.Column("window_json", sa.Text, nullable=False),
        sa.Column("arrived_count", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.PrimaryKeyConstraint("dataset", name=op.f("pk_collections")),
    )
    op.create_table(
        "arrivals",
        sa.Column("dataset", NAME, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("device", NAME, nullable=False),
        sa.Column("bytes_count", sa.BigInteger, nullable=False),
        sa.Column("label", TEXT),
        sa.Column("captured_ms", sa.BigInteger),
        sa.Column("site", TEXT, nullable=False),
        sa.Column("group_name", TEXT, nullable=False),
        sa.Column("arrived_ms", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer),
        sa.PrimaryKeyConstraint("dataset", "digest", name=op.f("pk_arrivals")),
        sa.ForeignKeyConstraint(
            ["dataset"], ["collections.dataset"], name=op.f("fk_arrivals_dataset")
        ),
    )
    op.create_index(op.f("ix_arrivals_version"), "arrivals", ["version"])
    op.create_table(
        "arrival_days",
        sa.Column("device", NAME, nullable=False),
        sa.Column("day", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("items_count", sa.Integer, nullable=False),
        sa.Column("bytes_count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device", "day", name=op.f("pk_arrival_days")),
    )


def downgrade() -> None:
    for table in ("arrival_days", "arrivals", "collections"):
        op.drop_table(table)
