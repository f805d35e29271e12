"""Lists of features, comments on features and lists, and bookmarks."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feature_list",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("default_test_text", sa.Text(), server_default="", nullable=False),
        sa.Column("visibility", sa.Text(), server_default="unlisted", nullable=False),
        _moment("created_at"),
        _moment("updated_at"),
        _to_account("owner_id"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_feature_list_owner_id", "feature_list", ["owner_id"])
    op.create_table(
        "feature_list_item",
        sa.Column("list_id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        _moment("added_at"),
        _to_list(),
        _to_source(),
        sa.PrimaryKeyConstraint("list_id", "source_id", "index"),
    )
    op.create_index("feature_list_item_feature", "feature_list_item", ["source_id", "index"])
    op.create_table(
        "list_comment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("list_id", sa.Text(), nullable=False),
        sa.Column("author_id", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        _moment("created_at"),
        _to_list(),
        _to_account("author_id"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_list_comment_list_id", "list_comment", ["list_id"])
    op.create_index("ix_list_comment_author_id", "list_comment", ["author_id"])
    op.create_table(
        "feature_comment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("author_id", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        _moment("created_at"),
        _to_source(),
        _to_account("author_id"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("feature_comment_feature", "feature_comment", ["source_id", "index"])
    op.create_index("ix_feature_comment_author_id", "feature_comment", ["author_id"])
    op.create_table(
        "bookmark",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        _moment("created_at"),
        _to_source(),
        _to_account("owner_id"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("owner_id", "source_id", "index", postgresql_nulls_not_distinct=True),
    )
    op.create_index("bookmark_source", "bookmark", ["source_id"])


def downgrade() -> None:
    for table in ("bookmark", "feature_comment", "list_comment", "feature_list_item", "feature_list"):
        op.drop_table(table)


def _moment(name: str) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False)


def _to_account(column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], ["account.id"], ondelete="CASCADE")


def _to_source() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["source_id"], ["source.id"], ondelete="CASCADE")


def _to_list() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["list_id"], ["feature_list.id"], ondelete="CASCADE")
