"""Jobs of several sources: `job_source`, a lease for each worker that holds a shard, ranges in place of contexts.

A job of one source becomes a job with one `job_source`. What was not done of unfinished jobs was cut in another way, so
they start again from the beginning and say so. Unlike other migrations this one takes columns away: workers of before
would write half of what workers of now read, so stop them first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
now = sa.text("now()")


def upgrade() -> None:
    _make_tables()
    op.add_column("job", sa.Column("model_id", sa.Text(), nullable=True))
    op.add_column("job", sa.Column("has_blobs", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.alter_column("shard", "first_context", new_column_name="first")
    op.alter_column("shard", "n_contexts", new_column_name="n")
    op.add_column("shard", sa.Column("source_id", sa.Integer(), nullable=True))
    op.add_column("shard", sa.Column("result", JSONB, nullable=True))
    _move_jobs()
    op.alter_column("job", "model_id", nullable=False)
    op.create_foreign_key("job_model_id_fkey", "job", "model", ["model_id"], ["id"], ondelete="CASCADE")
    op.create_foreign_key("shard_source_id_fkey", "shard", "source", ["source_id"], ["id"], ondelete="CASCADE")
    op.drop_index("ix_job_source_id", "job")
    op.drop_column("job", "source_id")
    for column in ("n_done", "worker", "lease_until", "sent_at", "blob_key"):
        op.drop_column("shard", column)


def _make_tables() -> None:
    op.create_table(
        "job_source",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=True),
        sa.Column("published_at", Time, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["revision_id"], ["revision.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("job_id", "number"),
    )
    op.create_index("ix_job_source_source_id", "job_source", ["source_id"])
    op.create_table(
        "lease",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("shard_id", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("until", Time, nullable=False),
        sa.Column("n_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", Time, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["shard_id"], ["shard.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_lease_shard_id", "lease", ["shard_id"])


def _move_jobs() -> None:
    op.execute(
        """
        INSERT INTO job_source (job_id, number, source_id, revision_id, published_at)
        SELECT id, 0, source_id, (SELECT max(revision.id) FROM revision WHERE revision.job_id = job.id),
               CASE WHEN state = 'done' THEN finished_at END
        FROM job
        """
    )
    op.execute("UPDATE job SET model_id = source.model_id FROM source WHERE source.id = job.source_id")
    op.execute(
        "UPDATE shard SET source_id = job.source_id, n = shard.n_units FROM job "
        "WHERE job.id = shard.job_id AND shard.stage = 'finish'"
    )
    op.execute("DELETE FROM shard USING job WHERE job.id = shard.job_id AND job.state <> 'done'")
    op.execute(
        """
        INSERT INTO shard (job_id, stage, number, state)
        SELECT id, 'prepare', 0, CASE WHEN state = 'running' THEN 'queued' ELSE state END FROM job WHERE state <> 'done'
        """
    )
    op.execute(
        """
        UPDATE job SET state = 'queued', started_at = NULL, spec = spec - 'corpus_id' - 'written_at',
               error = 'Eyepiece was updated while this job ran; it starts again from the beginning.'
        WHERE state = 'running'
        """
    )


def downgrade() -> None:
    op.add_column("job", sa.Column("source_id", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE job SET source_id = job_source.source_id FROM job_source "
        "WHERE job_source.job_id = job.id AND job_source.number = 0"
    )
    op.execute("DELETE FROM job WHERE source_id IS NULL")
    op.alter_column("job", "source_id", nullable=False)
    op.create_foreign_key("job_source_id_fkey", "job", "source", ["source_id"], ["id"], ondelete="CASCADE")
    op.create_index("ix_job_source_id", "job", ["source_id"])
    op.drop_column("job", "model_id")
    op.drop_column("job", "has_blobs")
    op.drop_table("lease")
    op.drop_table("job_source")
    op.alter_column("shard", "first", new_column_name="first_context")
    op.alter_column("shard", "n", new_column_name="n_contexts")
    op.drop_column("shard", "source_id")
    op.drop_column("shard", "result")
    op.add_column("shard", sa.Column("n_done", sa.BigInteger(), server_default="0", nullable=False))
    for name, kind in (("worker", sa.Text()), ("lease_until", Time), ("sent_at", Time), ("blob_key", sa.Text())):
        op.add_column("shard", sa.Column(name, kind, nullable=True))
