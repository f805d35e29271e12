"""Quality of sources: what a revision's evaluation found, and totals that need a feature's mean."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("revision", sa.Column("n_dense", sa.Integer(), nullable=True))
    op.add_column("revision", sa.Column("activation_sum", DOUBLE_PRECISION(), nullable=True))
    op.add_column("revision", sa.Column("quality", JSONB(), nullable=True))
    op.add_column("feature", sa.Column("mean_activation", DOUBLE_PRECISION(), nullable=True))


def downgrade() -> None:
    op.drop_column("feature", "mean_activation")
    for name in ("quality", "activation_sum", "n_dense"):
        op.drop_column("revision", name)
