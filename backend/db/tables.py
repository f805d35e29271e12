"""The tables. Rows here are the truth about everything hosted; blobs hold only what is too big for a row.

Each context is stored once per corpus as token ids, an example as (context, positions, values) inside its feature's
packed dashboard; the API expands them on the way out. Readers follow `source.revision_id` and so see one complete
computation or the one before it, never half of one. Relationships are not mapped: services join what they need.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    func,
    true,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, REAL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Declarative base; column types follow from annotations."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads the plain class attribute
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        bytes: LargeBinary,
    }


_now = func.now()


class Vocabulary(Base):
    """The text of every token of a tokenizer, stored once however many models share it."""

    __tablename__ = "vocabulary"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    n_tokens: Mapped[int]
    strings: Mapped[bytes]
    """zlib over a JSON array of token texts, by id."""
    special_tokens: Mapped[list[Any]]
    """Ids of pad, bos and eos tokens."""


class Model(Base):
    """A language model. Facts are NULL until a worker has loaded it."""

    __tablename__ = "model"

    id: Mapped[str] = mapped_column(primary_key=True)
    display_name: Mapped[str]
    weights: Mapped[str]
    """A local Hugging Face folder, or a hub name."""
    architecture: Mapped[str | None]
    n_layers: Mapped[int | None]
    d_model: Mapped[int | None]
    n_context: Mapped[int | None]
    vocabulary_id: Mapped[int | None] = mapped_column(ForeignKey("vocabulary.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Corpus(Base):
    """Tokenised text cut into contexts of fixed length, shared by all sources of a model."""

    __tablename__ = "corpus"
    __table_args__ = (UniqueConstraint("model_id", "fingerprint"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    vocabulary_id: Mapped[int] = mapped_column(ForeignKey("vocabulary.id"))
    name: Mapped[str]
    fingerprint: Mapped[str]
    """sha256 over the token rows and the mask rule."""
    context_size: Mapped[int]
    n_contexts: Mapped[int]
    n_tokens: Mapped[int] = mapped_column(BigInteger)
    """Tokens that count: special tokens and the leading position left out."""
    is_first_masked: Mapped[bool]
    blob_key: Mapped[str]
    """The rows as a .npy of uint16 or uint32."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Context(Base):
    """One context that some example shows."""

    __tablename__ = "context"

    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    tokens: Mapped[bytes]
    """Little-endian uint16 ids where the vocabulary has at most 65,536 tokens, else uint32."""


class SourceSet(Base):
    """The same recipe over layers."""

    __tablename__ = "source_set"

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Source(Base):
    """One dictionary at one hook point."""

    __tablename__ = "source"
    __table_args__ = (UniqueConstraint("model_id", "name"), Index("source_set_index", "model_id", "set_name"))

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    name: Mapped[str]
    """The id users see, such as `6-res-jb`."""
    set_name: Mapped[str]
    hook_point: Mapped[str]
    layer: Mapped[int]
    architecture: Mapped[str]
    d_in: Mapped[int]
    d_sae: Mapped[int]
    weights: Mapped[str]
    """A local folder."""
    config: Mapped[dict[str, Any]]
    """The SAE's own configuration, as found."""
    revision_id: Mapped[int | None] = mapped_column(ForeignKey("revision.id", use_alter=True, ondelete="SET NULL"))
    """What readers see; NULL until the first computation is complete."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Revision(Base):
    """One complete computation of a source's dashboards."""

    __tablename__ = "revision"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"), index=True)
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id", ondelete="CASCADE"))
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id", ondelete="SET NULL"))
    n_features: Mapped[int]
    n_alive: Mapped[int]
    n_firings: Mapped[int] = mapped_column(BigInteger)
    density_histogram: Mapped[dict[str, Any]]
    """{low, high, counts}: features by log10 density, equal bins; dead features are not in it."""
    n_dense: Mapped[int | None]
    """Features of density above `quality.DENSE`; NULL in revisions older than the column, as in the next two."""
    activation_sum: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    """Of all firings of all features."""
    quality: Mapped[dict[str, Any] | None]
    """`backend/formats/quality.py` as JSON; NULL if it was not asked for, or not measured yet."""
    spec: Mapped[dict[str, Any]]
    """Options the numbers depend on: dtype, context size, seed, …"""
    index_files: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Blobs of the activation index: {features: [{key, first}], tokens: [{key, first}]}, ascending; NULL: none is kept."""
    index_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Of all of them."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Feature(Base):
    """What tables of features sort and filter by: narrow, so that a scan over a source is fast."""

    __tablename__ = "feature"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    n_firings: Mapped[int] = mapped_column(BigInteger)
    density: Mapped[float] = mapped_column(REAL)
    """Firings per unmasked token, 0–1."""
    max_activation: Mapped[float] = mapped_column(REAL)
    mean_activation: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    """Of the firings; NULL for a dead feature, and in revisions older than the column."""
    logit_kurtosis: Mapped[float | None] = mapped_column(REAL)
    """NULL where there is no logit lens."""
    fires_on: Mapped[list[Any]]
    """Up to ten token texts, see `Dashboard.top_tokens`."""
    promotes: Mapped[list[Any]]
    """Ten token texts by logit lens."""
    token_texts: Mapped[str]
    """All of them in lower case, each between U+001F: what the token filter searches."""


class Dashboard(Base):
    """One feature's page, packed (`backend/formats/dashboards.py`)."""

    __tablename__ = "dashboard"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    packed: Mapped[bytes]


class Job(Base):
    """One computation a user asked for: one or more sources of a model, on one corpus, in one forward pass."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    state: Mapped[str]
    """queued, running, done, failed or cancelled."""
    spec: Mapped[dict[str, Any]]
    """What was asked: corpus, context size, token limit, dtype, device, seed."""
    error: Mapped[str | None]
    has_blobs: Mapped[bool] = mapped_column(server_default=true())
    """Its postings may still be there: an ended job's are deleted once no worker writes any, see `jobs.next_to_clear`."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobSource(Base):
    """One of a job's sources, in the order they are finished."""

    __tablename__ = "job_source"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 0."""
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"), index=True)
    revision_id: Mapped[int | None] = mapped_column(ForeignKey("revision.id", ondelete="SET NULL"))
    """What the job writes; NULL before the corpus is prepared, and once something newer has replaced it."""
    published_at: Mapped[datetime | None]
    """When readers began to see it."""


class Shard(Base):
    """A piece of a job that one worker does; its stage is one of `backend.services.shards.STAGES`."""

    __tablename__ = "shard"
    __table_args__ = (UniqueConstraint("job_id", "stage", "number"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    stage: Mapped[str]
    number: Mapped[int]
    """From 0 in each stage."""
    source_id: Mapped[int | None] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"))
    """NULL: of all the job's sources."""
    state: Mapped[str]
    """queued, running, done, failed or cancelled. A running shard without a lease that holds belongs to nobody."""
    first: Mapped[int] = mapped_column(server_default="0")
    """Of the range the shard is about: contexts while encoding, features while finishing."""
    n: Mapped[int] = mapped_column(server_default="0")
    n_units: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Its work in its stage's unit; 0 while not known."""
    attempts: Mapped[int] = mapped_column(server_default="0")
    """Times it was claimed."""
    started_at: Mapped[datetime | None]
    """When the attempt that ended it began, once it is done."""
    finished_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What later stages need of it, such as the keys of its postings."""
    seconds: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Wall and CPU seconds by step."""


class Lease(Base):
    """A worker's hold on a shard. A straggler's shard may have two; whoever ends it first takes both away."""

    __tablename__ = "lease"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    shard_id: Mapped[int] = mapped_column(ForeignKey("shard.id", ondelete="CASCADE"), index=True)
    worker: Mapped[str]
    until: Mapped[datetime]
    """Renewed while the worker computes; past it, anybody may take the shard."""
    n_done: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Units of the shard done so far."""
    started_at: Mapped[datetime] = mapped_column(server_default=_now)


class WorkerReport(Base):
    """A worker that has been alive; the health page shows those heard from lately."""

    __tablename__ = "worker_report"

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """dashboards or live."""
    device: Mapped[str]
    doing: Mapped[str | None]
    seen_at: Mapped[datetime] = mapped_column(server_default=_now)
