"""What devices measured of releases' variants, and chose."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "release_fits",
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("report_json", sa.Text, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "manifest_digest", name=op.f("pk_release_fits")),
    )
    op.create_index(
        "ix_release_fits_manifest_digest_fingerprint",
        "release_fits",
        ["manifest_digest", "fingerprint"],
    )


def downgrade() -> None:
    op.drop_table("release_fits")
