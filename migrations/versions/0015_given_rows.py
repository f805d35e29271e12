"""Models and sources whose weights are not known, releases, and the keys of Neuronpedia rows as they were given."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

GIVEN = ("model", "source_set", "source")


def upgrade() -> None:
    op.create_table(
        "release",
        sa.Column("name", sa.Text(), nullable=False),
        _given(),
        sa.Column("owner_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["account.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_release_owner_id", "release", ["owner_id"])
    for table in GIVEN:
        op.add_column(table, _given())
    for table in ("model", "source"):
        op.alter_column(table, "weights", nullable=True)
    op.add_column("source_set", sa.Column("release_name", sa.Text(), nullable=True))
    op.create_foreign_key(
        "source_set_release_name_fkey", "source_set", "release", ["release_name"], ["name"], ondelete="SET NULL"
    )
    op.create_index("ix_source_set_release_name", "source_set", ["release_name"])


def downgrade() -> None:
    op.drop_column("source_set", "release_name")
    # What has no weights cannot be before this version.
    op.execute("DELETE FROM source WHERE weights IS NULL")
    op.execute("DELETE FROM model WHERE weights IS NULL")
    for table in ("source", "model"):
        op.alter_column(table, "weights", nullable=False)
    for table in GIVEN:
        op.drop_column(table, "given")
    op.drop_table("release")


def _given() -> sa.Column[dict[str, object]]:
    return sa.Column("given", postgresql.JSONB(), server_default="{}", nullable=False)
