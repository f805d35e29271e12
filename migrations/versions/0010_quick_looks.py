"""What the quick look at a source found."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("source", sa.Column("look", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("source", "look")
