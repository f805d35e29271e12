"""The tables. Rows here are the truth about everything hosted; blobs hold only what is too big for a row.

Each context is stored once per corpus as token ids, an example as (context, positions, values) inside its feature's
packed dashboard; the API expands them on the way out. Readers follow `source.revision_id` and so see one complete
computation or the one before it, never half of one. Relationships are not mapped: services join what they need.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    false,
    func,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION, JSONB, REAL, TSVECTOR
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


class Account(Base):
    """A person who may sign in. In `open` mode there is none and everything belongs to nobody."""

    __tablename__ = "account"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    """argon2id, with its parameters; empty until a password is chosen."""
    is_admin: Mapped[bool] = mapped_column(server_default=false())
    is_active: Mapped[bool] = mapped_column(server_default=true())
    """False: may neither sign in nor use a key; what it owns stays."""
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What it may store; NULL: as the settings say, 0: no limit. So are the next two."""
    quota_jobs: Mapped[int | None]
    """Queued or running at a time."""
    requests_per_minute: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class SignIn(Base):
    """A browser in which somebody is signed in, until the row is gone."""

    __tablename__ = "sign_in"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    """sha256 of the cookie's token."""
    browser: Mapped[str]
    """What it says of itself, for its owner to know it by."""
    address: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    seen_at: Mapped[datetime] = mapped_column(server_default=_now)
    """To within some minutes."""
    expires_at: Mapped[datetime]


class ApiKey(Base):
    """What a program sends instead of signing in."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    prefix: Mapped[str]
    """Its first characters, for its owner to know it by."""
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    """sha256 of the key: 256 random bits, so nothing slower is needed."""
    scope: Mapped[str]
    """read, write or admin, each with those before it; admin only does what its account may."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    expires_at: Mapped[datetime | None]
    """NULL: never."""
    used_at: Mapped[datetime | None]
    """Last, to within some minutes."""
    revoked_at: Mapped[datetime | None]


class Invitation(Base):
    """A link that can be used once, to choose a password."""

    __tablename__ = "invitation"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    """sha256 of the link's token."""
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    """NULL: it makes the first account, an admin's."""
    expires_at: Mapped[datetime]


def _owner() -> Mapped[int | None]:
    return mapped_column(ForeignKey("account.id", ondelete="SET NULL"), index=True)


def _given() -> Mapped[dict[str, Any]]:
    """Keys of a Neuronpedia row as somebody gave them; they win over our own where the row is served."""
    return mapped_column(server_default="{}")


class Secret(Base):
    """A token of another service, sealed with the host's key (`backend/services/secrets.py`)."""

    __tablename__ = "secret"
    __table_args__ = (UniqueConstraint("owner_id", "name", postgresql_nulls_not_distinct=True),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
    """NULL: the host's own."""
    name: Mapped[str]
    """Of the service, such as `huggingface`."""
    sealed: Mapped[bytes]
    """Fernet's token: AES-CBC and HMAC-SHA256 with a key that is not in the database."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


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
    weights: Mapped[str | None]
    """A local Hugging Face folder, or a hub name; NULL: none are known, so it answers no live question."""
    architecture: Mapped[str | None]
    n_layers: Mapped[int | None]
    d_model: Mapped[int | None]
    n_context: Mapped[int | None]
    vocabulary_id: Mapped[int | None] = mapped_column(ForeignKey("vocabulary.id"))
    given: Mapped[dict[str, Any]] = _given()
    owner_id: Mapped[int | None] = _owner()
    """NULL: the host's own."""
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
    """sha256 over the token rows and the mask rule; of an imported corpus `given:` and its source's id."""
    context_size: Mapped[int]
    n_contexts: Mapped[int]
    n_tokens: Mapped[int] = mapped_column(BigInteger)
    """Tokens that count: special tokens and the leading position left out."""
    is_first_masked: Mapped[bool]
    blob_key: Mapped[str]
    """The rows as a .npy of uint16 or uint32; empty: there are none, the texts were imported."""
    documents_key: Mapped[str | None]
    """Which documents the rows are from (`DocumentStarts` in workers/compute/corpus.py); NULL: not known."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class CorpusRecipe(Base):
    """What a corpus was made from and how: who asks for the same again gets it without reading a word."""

    __tablename__ = "corpus_recipe"

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """sha256 over files, tokenizer and options, see `workers/prepared.py`."""
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id", ondelete="CASCADE"), index=True)
    longer: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """By what they are a sample for: blob keys of longer contexts to evaluate on; empty: it has too few."""


class Context(Base):
    """One context that some example shows."""

    __tablename__ = "context"

    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    tokens: Mapped[bytes]
    """Little-endian uint16 ids where the vocabulary has at most 65,536 tokens, else uint32; of an imported corpus as
    `formats.given.pack_tokens` has them."""
    documents: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    """[position, name] of each document that begins or goes on in it; NULL: not known."""


class Release(Base):
    """What somebody published together: source sets, perhaps of several models."""

    __tablename__ = "release"

    name: Mapped[str] = mapped_column(primary_key=True)
    given: Mapped[dict[str, Any]] = _given()
    owner_id: Mapped[int | None] = _owner()
    """NULL: the host's own."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class SourceSet(Base):
    """The same recipe over layers."""

    __tablename__ = "source_set"

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str] = mapped_column(server_default="")
    release_name: Mapped[str | None] = mapped_column(ForeignKey("release.name", ondelete="SET NULL"), index=True)
    """NULL: it belongs to none."""
    given: Mapped[dict[str, Any]] = _given()
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Source(Base):
    """One dictionary at one hook point."""

    __tablename__ = "source"
    __table_args__ = (UniqueConstraint("model_id", "name"), Index("source_set_index", "model_id", "set_name"))

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    """NULL: deleted. Nobody finds it any more, its name is free, and workers clear away what is left of it."""
    name: Mapped[str]
    """The id users see, such as `6-res-jb`."""
    set_name: Mapped[str]
    hook_point: Mapped[str]
    """Empty where weights are NULL and nobody has said it."""
    layer: Mapped[int]
    architecture: Mapped[str]
    """Empty where weights are NULL."""
    d_in: Mapped[int]
    """0: not known, where weights are NULL; so is d_sae."""
    d_sae: Mapped[int]
    weights: Mapped[str | None]
    """A local folder, or one of the blob store: `blob:saes/…`, see `backend/weights.py`; NULL: none are known."""
    config: Mapped[dict[str, Any]]
    """The SAE's own configuration, as found."""
    declared: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """What was said beside the files, such as a hook point; it wins over the configuration."""
    given: Mapped[dict[str, Any]] = _given()
    look: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What the newest job's quick look found, as `formats/look.py` has it; NULL before there was one."""
    owner_id: Mapped[int | None] = _owner()
    """NULL: the host's own."""
    visibility: Mapped[str] = mapped_column(server_default="public")
    """private: its owner and admins; unlisted: whoever has the address; public: in lists and searches too."""
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
    """One feature's page, packed (`backend/formats/dashboards.py`, or `given.py` where it was imported)."""

    __tablename__ = "dashboard"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    packed: Mapped[bytes]


class Job(Base):
    """One computation a user asked for: one or more sources of a model, on one corpus, in one forward pass."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"))
    owner_id: Mapped[int | None] = _owner()
    """Who asked for it; NULL: the host's operator, at the command line or in `open` mode."""
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
    firings: Mapped[bytes | None]
    """Of each feature in the encode shards done so far, zlib over little-endian int64; NULL before and once published."""
    n_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Unmasked, of the same shards."""


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


class Upload(Base):
    """Files somebody hands over, while they arrive and once they are complete and checked."""

    __tablename__ = "upload"

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits in hexadecimal; names the folder of what has arrived, and that of the blobs."""
    owner_id: Mapped[int | None] = _owner()
    """NULL: the host's own."""
    kind: Mapped[str]
    """sae or corpus."""
    name: Mapped[str]
    """Of the folder its files lie in."""
    files: Mapped[list[Any]]
    """[{name, size, sha256}]; sha256 is null while neither given nor computed."""
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    """Of all files when complete."""
    state: Mapped[str]
    """open, or complete: its files are blobs and never change."""
    declared: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """What was said beside the files when it was completed."""
    found: Mapped[list[Any]] = mapped_column(server_default="[]")
    """What the check found, one object an SAE: `uploads.Found`."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    touched_at: Mapped[datetime] = mapped_column(server_default=_now)
    """When bytes last arrived, or it was completed; left alone for long, it is deleted."""


class JobEvent(Base):
    """A line of a job's log, in its user's words."""

    __tablename__ = "job_event"
    __table_args__ = (Index("job_event_order", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    level: Mapped[str]
    """info, warning or error."""
    text: Mapped[str]


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


class Vector(Base):
    """A steering vector of somebody's own; never changed."""

    __tablename__ = "steering_vector"  # Postgres has a type `vector` where pgvector is installed

    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    """What stands in a source's place in its address, such as `6-neuronpedia-resid-post`."""
    index: Mapped[int] = mapped_column(primary_key=True)
    """Drawn at random."""
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    """NULL: the host's operator, in `open` mode."""
    label: Mapped[str]
    hook_point: Mapped[str]
    values: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION))
    default_strength: Mapped[float] = mapped_column(DOUBLE_PRECISION)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class SteerRun(Base):
    """A text that was generated with and without steering, as it can be read again and shared."""

    __tablename__ = "steer_run"
    __table_args__ = (
        UniqueConstraint("owner_id", "key", postgresql_nulls_not_distinct=True),
        Index("steer_run_age", "owner_id", "created_at"),
        Index("steer_run_sources", "source_ids", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits, URL-safe."""
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
    """NULL: the host's operator, or whoever was not signed in."""
    model_id: Mapped[str] = mapped_column(ForeignKey("model.id", ondelete="CASCADE"), index=True)
    source_ids: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    """Each once: who may not see one of them does not see the run."""
    kind: Mapped[str]
    """completion or chat."""
    key: Mapped[bytes]
    """Digest of the question and of the state of the rows it was answered from: who asks the same again gets this run."""
    request: Mapped[bytes]
    """zlib over JSON, `steering.Asked`: Postgres's own JSON cannot hold U+0000, which texts and tokens may."""
    outputs: Mapped[bytes]
    """Packed as the request: the last `messages.SteerReply`, with all of its tokens."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Explanation(Base):
    """What somebody or some model says a feature stands for. It hangs on the source, so computing that anew keeps it."""

    __tablename__ = "explanation"
    __table_args__ = (
        Index("explanation_feature", "source_id", "index"),
        Index("explanation_words", "words", postgresql_using="gin"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """An imported one's own; of ours 128 random bits, URL-safe."""
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"))
    index: Mapped[int]
    """Of the feature."""
    description: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="SET NULL"), index=True)
    """NULL: it was imported, its author is gone, or the host's operator wrote it."""
    author: Mapped[str] = mapped_column(server_default="")
    """The author's id where it was imported from."""
    type_name: Mapped[str | None]
    """The method, such as `oai_token-act-pair`; NULL: not known, or written by a person."""
    model_name: Mapped[str | None]
    """Of the model that explained it; NULL: a person."""
    notes: Mapped[str | None]
    score_v1: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    """Neuronpedia's two overall scores, as imported."""
    score_v2: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    umap_x: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    """Where an imported map shows it; NULL, as the next three: no map does."""
    umap_y: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    umap_cluster: Mapped[int | None]
    umap_log_feature_sparsity: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    embedding: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))
    """Imported: kept and exported, not searched."""
    embedding_model: Mapped[str | None]
    """What computed it, where that is known."""
    words: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed(
            "to_tsvector('english'::regconfig, description) || to_tsvector('simple'::regconfig, description)",
            persisted=True,
        ),
    )
    """Stems, then the words as written."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ExplanationScore(Base):
    """How well an explanation did in one kind of test."""

    __tablename__ = "explanation_score"

    id: Mapped[str] = mapped_column(primary_key=True)
    explanation_id: Mapped[str] = mapped_column(ForeignKey("explanation.id", ondelete="CASCADE"), index=True)
    value: Mapped[float] = mapped_column(DOUBLE_PRECISION)
    type_name: Mapped[str | None]
    """The test, such as `eleuther_fuzz`."""
    model_name: Mapped[str | None]
    """Of the model that judged."""
    details: Mapped[str] = mapped_column(server_default="")
    """JSON as text, as Neuronpedia's `jsonDetails`; empty: none."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ExplanationVote(Base):
    """A person finds an explanation good."""

    __tablename__ = "explanation_vote"
    __table_args__ = (UniqueConstraint("explanation_id", "account_id", postgresql_nulls_not_distinct=True),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    explanation_id: Mapped[str] = mapped_column(ForeignKey("explanation.id", ondelete="CASCADE"))
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    """NULL: the host's operator, in `open` mode."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class GraphUpload(Base):
    """One file of an attribution graph: announced, arrived, and then a graph's, or of no graph any more."""

    __tablename__ = "graph_upload"

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits in hexadecimal; names the folder it arrives in, and its blob `graphs/{id}.json.gz`."""
    token_hash: Mapped[bytes]
    """sha256 of the secret in the address its bytes are put to."""
    owner_id: Mapped[int | None] = _owner()
    """NULL: the host's own."""
    filename: Mapped[str]
    content_type: Mapped[str]
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    """That will come, as announced: compressed or not, as it is sent."""
    has_arrived: Mapped[bool] = mapped_column(server_default=false())
    expires_at: Mapped[datetime | None] = mapped_column(index=True)
    """NULL: a graph is of it. Past it, workers and later uploads delete blob and row."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)


class Graph(Base):
    """An attribution graph: what a list says of it. Its nodes and links are a blob, circuit-tracer's JSON, gzipped."""

    __tablename__ = "graph"
    __table_args__ = (UniqueConstraint("model_id", "slug"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_id: Mapped[str]
    """As the file names it; the model need not be hosted."""
    slug: Mapped[str]
    source_set_name: Mapped[str]
    """That its features are of; empty: the file does not say."""
    prompt: Mapped[str]
    prompt_tokens: Mapped[list[Any]]
    title_prefix: Mapped[str]
    n_nodes: Mapped[int]
    n_links: Mapped[int]
    """Of those between two of its nodes."""
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    """Of the blob."""
    upload_id: Mapped[str] = mapped_column(ForeignKey("graph_upload.id"), unique=True)
    owner_id: Mapped[int | None] = _owner()
    """NULL: the host's own."""
    visibility: Mapped[str] = mapped_column(server_default="public")
    """As a source's."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    updated_at: Mapped[datetime] = mapped_column(server_default=_now)


class Subgraph(Base):
    """What somebody made of a graph: pinned nodes, their groups and names, and how far it was pruned."""

    __tablename__ = "subgraph"

    id: Mapped[str] = mapped_column(primary_key=True)
    """64 random bits in hexadecimal."""
    graph_id: Mapped[int] = mapped_column(ForeignKey("graph.id", ondelete="CASCADE"), index=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    """NULL: the host's operator."""
    name: Mapped[str]
    state: Mapped[dict[str, Any]]
    """Keys of Neuronpedia's: pinnedIds, supernodes, clerps, pruningThreshold, densityThreshold."""
    created_at: Mapped[datetime] = mapped_column(server_default=_now)
    updated_at: Mapped[datetime] = mapped_column(server_default=_now)


class FeatureList(Base):
    """A list of features somebody keeps."""

    __tablename__ = "feature_list"

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits, URL-safe."""
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    """NULL: the host's operator, in `open` mode. So is an author below."""
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    default_test_text: Mapped[str] = mapped_column(server_default="")
    """Tried on each feature by who opens the list; empty: none."""
    visibility: Mapped[str] = mapped_column(server_default="unlisted")
    """As of a source."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """When it or one of its items was last changed; comments leave it alone."""


class FeatureListItem(Base):
    """A feature in a list."""

    __tablename__ = "feature_list_item"
    __table_args__ = (Index("feature_list_item_feature", "source_id", "index"),)

    list_id: Mapped[str] = mapped_column(ForeignKey("feature_list.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    description: Mapped[str] = mapped_column(server_default="")
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    """The order of adding, over all lists."""
    added_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class ListComment(Base):
    """What somebody said of a list."""

    __tablename__ = "list_comment"

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits, URL-safe."""
    list_id: Mapped[str] = mapped_column(ForeignKey("feature_list.id", ondelete="CASCADE"), index=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    text: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class FeatureComment(Base):
    """What somebody said of a feature."""

    __tablename__ = "feature_comment"
    __table_args__ = (Index("feature_comment_feature", "source_id", "index"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits, URL-safe."""
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"))
    index: Mapped[int]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"), index=True)
    text: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Bookmark(Base):
    """A feature somebody wants to find again; nobody else sees it."""

    __tablename__ = "bookmark"
    __table_args__ = (
        UniqueConstraint("owner_id", "source_id", "index", postgresql_nulls_not_distinct=True),
        Index("bookmark_source", "source_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """128 random bits, URL-safe."""
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("account.id", ondelete="CASCADE"))
    """NULL: the host's operator, in `open` mode."""
    source_id: Mapped[int] = mapped_column(ForeignKey("source.id", ondelete="CASCADE"))
    index: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
