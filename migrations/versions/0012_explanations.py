"""Explanations of features, their scores and votes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

WORDS = "to_tsvector('english'::regconfig, description) || to_tsvector('simple'::regconfig, description)"


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    double = postgresql.DOUBLE_PRECISION()
    op.create_table(
        "explanation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("author_id", sa.Integer(), nullable=True),
        sa.Column("author", sa.Text(), server_default="", nullable=False),
        sa.Column("type_name", sa.Text(), nullable=True),
        sa.Column("model_name", sa.Text(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("score_v1", double, nullable=True),
        sa.Column("score_v2", double, nullable=True),
        sa.Column("umap_x", double, nullable=True),
        sa.Column("umap_y", double, nullable=True),
        sa.Column("umap_cluster", sa.Integer(), nullable=True),
        sa.Column("umap_log_feature_sparsity", double, nullable=True),
        sa.Column("embedding", postgresql.ARRAY(postgresql.REAL()), nullable=True),
        sa.Column("embedding_model", sa.Text(), nullable=True),
        sa.Column("words", postgresql.TSVECTOR(), sa.Computed(WORDS, persisted=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["author_id"], ["account.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("explanation_feature", "explanation", ["source_id", "index"])
    op.create_index("explanation_words", "explanation", ["words"], postgresql_using="gin")
    op.create_index("ix_explanation_author_id", "explanation", ["author_id"])
    op.create_table(
        "explanation_score",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("explanation_id", sa.Text(), nullable=False),
        sa.Column("value", double, nullable=False),
        sa.Column("type_name", sa.Text(), nullable=True),
        sa.Column("model_name", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["explanation_id"], ["explanation.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_explanation_score_explanation_id", "explanation_score", ["explanation_id"])
    op.create_table(
        "explanation_vote",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("explanation_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["explanation_id"], ["explanation.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("explanation_id", "account_id", postgresql_nulls_not_distinct=True),
    )
    op.create_index("ix_explanation_vote_account_id", "explanation_vote", ["account_id"])


def downgrade() -> None:
    op.drop_table("explanation_vote")
    op.drop_table("explanation_score")
    op.drop_table("explanation")
