"""Accounts, and who owns models, sources and jobs. What is hosted already stays the host's own, and public."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OWNED = ("model", "source", "job")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    for table in OWNED:
        op.add_column(table, sa.Column("owner_id", sa.Integer(), nullable=True))
        op.create_foreign_key(f"{table}_owner_id_fkey", table, "account", ["owner_id"], ["id"], ondelete="SET NULL")
        op.create_index(f"ix_{table}_owner_id", table, ["owner_id"])
    op.add_column("source", sa.Column("visibility", sa.Text(), server_default="public", nullable=False))


def downgrade() -> None:
    op.drop_column("source", "visibility")
    for table in OWNED:
        op.drop_index(f"ix_{table}_owner_id", table)
        op.drop_constraint(f"{table}_owner_id_fkey", table, type_="foreignkey")
        op.drop_column(table, "owner_id")
    op.drop_table("account")
