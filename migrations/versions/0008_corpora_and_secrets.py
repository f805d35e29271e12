"""Corpora remember what they were made from, contexts their documents; tokens of other services are kept sealed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = postgresql.JSONB()
    op.create_table(
        "corpus_recipe",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("corpus_id", sa.Integer(), nullable=False),
        sa.Column("longer", json, server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "key"),
    )
    op.create_index("ix_corpus_recipe_corpus_id", "corpus_recipe", ["corpus_id"])
    op.create_table(
        "secret",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["account.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner_id", "name", postgresql_nulls_not_distinct=True),
    )
    op.add_column("corpus", sa.Column("documents_key", sa.Text(), nullable=True))
    op.add_column("context", sa.Column("documents", json, nullable=True))


def downgrade() -> None:
    op.drop_column("context", "documents")
    op.drop_column("corpus", "documents_key")
    op.drop_table("secret")
    op.drop_table("corpus_recipe")
