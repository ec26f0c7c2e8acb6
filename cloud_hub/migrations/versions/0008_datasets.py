"""Datasets, their versions, and which packs of items each version's manifest names."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAME = sa.String(63)
DIGEST = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "datasets",
        sa.Column("name", NAME, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("classes_json", sa.Text, nullable=False),
        sa.Column("owner", NAME, nullable=False),
        sa.Column("last_version", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_datasets")),
    )
    op.create_table(
        "dataset_versions",
        sa.Column("dataset", NAME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("items_count", sa.Integer, nullable=False),
        sa.Column("labelled_count", sa.Integer, nullable=False),
        sa.Column("parts_json", sa.Text, nullable=False),
        sa.Column("classes_json", sa.Text, nullable=False),
        sa.Column("bytes_count", sa.BigInteger, nullable=False),
        sa.Column("lineage_id", NAME, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.PrimaryKeyConstraint("dataset", "version", name=op.f("pk_dataset_versions")),
        sa.ForeignKeyConstraint(
            ["dataset"], ["datasets.name"], name=op.f("fk_dataset_versions_dataset")
        ),
    )
    for column in ("digest", "lineage_id"):
        op.create_index(op.f(f"ix_dataset_versions_{column}"), "dataset_versions", [column])
    op.create_table(
        "dataset_packs",
        sa.Column("manifest", DIGEST, nullable=False),
        sa.Column("pack", DIGEST, nullable=False),
        sa.Column("bytes_count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("manifest", "pack", name=op.f("pk_dataset_packs")),
    )
    op.create_index(op.f("ix_dataset_packs_pack"), "dataset_packs", ["pack"])


def downgrade() -> None:
    for table in ("dataset_packs", "dataset_versions", "datasets"):
        op.drop_table(table)
