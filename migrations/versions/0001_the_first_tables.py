"""The first tables.

`source` points at the revision readers see and `revision` at its source, so that one constraint is added last.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
now = sa.text("now()")


def upgrade() -> None:
    _languages()
    _sources()
    _jobs()
    _dashboards()
    op.create_foreign_key("source_revision_id_fkey", "source", "revision", ["revision_id"], ["id"], ondelete="SET NULL")


def _languages() -> None:
    op.create_table(
        "vocabulary",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("n_tokens", sa.Integer(), nullable=False),
        sa.Column("strings", sa.LargeBinary(), nullable=False),
        sa.Column("special_tokens", JSONB, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=True),
        sa.Column("n_layers", sa.Integer(), nullable=True),
        sa.Column("d_model", sa.Integer(), nullable=True),
        sa.Column("n_context", sa.Integer(), nullable=True),
        sa.Column("vocabulary_id", sa.Integer(), nullable=True),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["vocabulary_id"], ["vocabulary.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "corpus",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("vocabulary_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("context_size", sa.Integer(), nullable=False),
        sa.Column("n_contexts", sa.Integer(), nullable=False),
        sa.Column("n_tokens", sa.BigInteger(), nullable=False),
        sa.Column("is_first_masked", sa.Boolean(), nullable=False),
        sa.Column("blob_key", sa.Text(), nullable=False),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["vocabulary_id"], ["vocabulary.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model_id", "fingerprint"),
    )
    op.create_table(
        "context",
        sa.Column("corpus_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("corpus_id", "index"),
    )


def _sources() -> None:
    op.create_table(
        "source_set",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "name"),
    )
    op.create_table(
        "source",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("set_name", sa.Text(), nullable=False),
        sa.Column("hook_point", sa.Text(), nullable=False),
        sa.Column("layer", sa.Integer(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("d_in", sa.Integer(), nullable=False),
        sa.Column("d_sae", sa.Integer(), nullable=False),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("config", JSONB, nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=True),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("model_id", "name"),
    )
    op.create_index("source_set_index", "source", ["model_id", "set_name"])


def _jobs() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.Column("started_at", Time, nullable=True),
        sa.Column("finished_at", Time, nullable=True),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_job_source_id", "job", ["source_id"])
    op.create_table(
        "shard",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("first_context", sa.Integer(), server_default="0", nullable=False),
        sa.Column("n_contexts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("n_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("n_units", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", Time, nullable=True),
        sa.Column("sent_at", Time, nullable=True),
        sa.Column("started_at", Time, nullable=True),
        sa.Column("finished_at", Time, nullable=True),
        sa.Column("blob_key", sa.Text(), nullable=True),
        sa.Column("seconds", JSONB, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "stage", "number"),
    )
    op.create_table(
        "worker_report",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("doing", sa.Text(), nullable=True),
        sa.Column("seen_at", Time, server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _dashboards() -> None:
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("corpus_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("n_features", sa.Integer(), nullable=False),
        sa.Column("n_alive", sa.Integer(), nullable=False),
        sa.Column("n_firings", sa.BigInteger(), nullable=False),
        sa.Column("density_histogram", JSONB, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("created_at", Time, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_revision_source_id", "revision", ["source_id"])
    op.create_table(
        "feature",
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("n_firings", sa.BigInteger(), nullable=False),
        sa.Column("density", sa.REAL(), nullable=False),
        sa.Column("max_activation", sa.REAL(), nullable=False),
        sa.Column("logit_kurtosis", sa.REAL(), nullable=True),
        sa.Column("fires_on", JSONB, nullable=False),
        sa.Column("promotes", JSONB, nullable=False),
        sa.Column("token_texts", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["revision_id"], ["revision.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("revision_id", "index"),
    )
    op.create_table(
        "dashboard",
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["revision_id"], ["revision.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("revision_id", "index"),
    )


def downgrade() -> None:
    op.drop_constraint("source_revision_id_fkey", "source")
    for table in ("dashboard", "feature", "revision", "worker_report", "shard", "job"):
        op.drop_table(table)
    for table in ("source", "source_set", "context", "corpus", "model", "vocabulary"):
        op.drop_table(table)
