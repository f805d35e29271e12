"""Steering vectors of one's own, and saved runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "steering_vector",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("hook_point", sa.Text(), nullable=False),
        sa.Column("values", postgresql.ARRAY(postgresql.DOUBLE_PRECISION()), nullable=False),
        sa.Column("default_strength", postgresql.DOUBLE_PRECISION(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["owner_id"], ["account.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "source", "index"),
    )
    op.create_index("ix_steering_vector_owner_id", "steering_vector", ["owner_id"])
    op.create_table(
        "steer_run",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source_ids", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("outputs", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["account.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner_id", "key", postgresql_nulls_not_distinct=True),
    )
    op.create_index("ix_steer_run_model_id", "steer_run", ["model_id"])
    op.create_index("steer_run_age", "steer_run", ["owner_id", "created_at"])
    op.create_index("steer_run_sources", "steer_run", ["source_ids"], postgresql_using="gin")


def downgrade() -> None:
    op.drop_table("steer_run")
    op.drop_table("steering_vector")
