"""Signing in, API keys, links to choose a password, and limits of an account."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LIMITS = {"quota_bytes": sa.BigInteger(), "quota_jobs": sa.Integer(), "requests_per_minute": sa.Integer()}


def upgrade() -> None:
    for name, kind in LIMITS.items():
        op.add_column("account", sa.Column(name, kind, nullable=True))
    op.create_table(
        "sign_in",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("browser", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        _moment("created_at", server_default=sa.text("now()"), nullable=False),
        _moment("seen_at", server_default=sa.text("now()"), nullable=False),
        _moment("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("token_hash"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        _moment("created_at", server_default=sa.text("now()"), nullable=False),
        _moment("expires_at", nullable=True),
        _moment("used_at", nullable=True),
        _moment("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("key_hash"),
    )
    op.create_table(
        "invitation",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        _moment("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("token_hash"),
    )
    for table in ("sign_in", "api_key", "invitation"):
        op.create_index(f"ix_{table}_account_id", table, ["account_id"])


def downgrade() -> None:
    for table in ("invitation", "api_key", "sign_in"):
        op.drop_table(table)
    for name in LIMITS:
        op.drop_column("account", name)


def _moment(name: str, **given: object) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), **given)
