"""A revision may keep its activation index."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("revision", sa.Column("index_files", JSONB(), nullable=True))
    op.add_column("revision", sa.Column("index_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("revision", "index_bytes")
    op.drop_column("revision", "index_files")
