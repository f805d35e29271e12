"""Logs of jobs, what is known of a source while it is computed, and sources that are being deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("job_event_order", "job_event", ["job_id", "id"])
    op.add_column("job_source", sa.Column("firings", sa.LargeBinary(), nullable=True))
    op.add_column("job_source", sa.Column("n_tokens", sa.BigInteger(), server_default="0", nullable=False))
    op.alter_column("source", "model_id", nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM source WHERE model_id IS NULL")
    op.alter_column("source", "model_id", nullable=False)
    op.drop_column("job_source", "n_tokens")
    op.drop_column("job_source", "firings")
    op.drop_table("job_event")
