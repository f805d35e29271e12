"""Every setting of Eyepiece: one frozen object, read once from `EYEPIECE_*` variables and passed in.

Owns names, types, units, defaults and help lines (`docs/settings.md` is checked against them).
Does not own what a command line overrides: commands build a `Settings` with keyword arguments.
"""

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent


class Access(StrEnum):
    """Who may do what."""

    OPEN = "open"
    """Whoever reaches this machine is its operator; nobody else can reach the site."""
    ACCOUNTS = "accounts"
    """People sign in; what nobody owns is everybody's to read."""


class Settings(BaseSettings):
    """Values come from arguments, then the environment, then these defaults."""

    model_config = SettingsConfigDict(env_prefix="EYEPIECE_", frozen=True, extra="ignore")

    host: str = Field(
        "127.0.0.1", description="Address the web server binds to. Only loopback is allowed in `open` mode."
    )
    port: int = Field(3000, ge=1, le=65535, description="Port of the web server.")
    access: Access = Field(
        Access.OPEN,
        description="`open`: no login, this machine only. `accounts`: people sign in, and own what they add.",
    )
    public_url: str = Field(
        "",
        description="With `accounts`: where people find the site, such as `https://eyepiece.example.org`; several by commas.",
    )
    proxies: int = Field(
        0, ge=0, description="Reverse proxies in front that add to X-Forwarded-For; 0 believes no such header."
    )
    session_days: float = Field(30.0, gt=0, description="Days after which people sign in again.")
    requests_per_minute: int = Field(
        0,
        ge=0,
        description="Of an account, or an address nobody signed in from; 0: 600 with `accounts`, no limit without.",
    )
    quota_gb: float = Field(20.0, ge=0, description="Gigabytes an account may store; 0: no limit.")
    quota_jobs: int = Field(2, ge=0, description="Jobs an account may have queued or running at a time; 0: no limit.")
    data: Path = Field(
        REPOSITORY / "data", description="Folder of everything that is kept: database, queue, blobs, logs."
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL of Postgres (`postgresql+psycopg2://…`). Empty: the embedded one below `data`."
    )
    redis_url: str = Field(
        "", description="URL of Redis or Valkey (`redis://…`). Empty: the embedded one below `data`."
    )
    blob_url: str = Field(
        "", description="fsspec URL of the store for big files, such as `s3://bucket/prefix`. Empty: `data`/blobs."
    )
    cache_gb: float = Field(
        10.0, ge=0, description="Gigabytes of copies below `data`/cache where the store is not a local folder."
    )
    keep_index_gb: float = Field(
        1.0,
        ge=0,
        description="Activation indexes of up to so many gigabytes are kept with their dashboards; 0 keeps none unasked.",
    )
    upload_gb: float = Field(50.0, gt=0, description="Gigabytes one upload may have, archives unpacked.")
    upload_keep_s: float = Field(
        86_400.0, gt=0, description="Seconds after which an upload is deleted that nobody went on with or hosted."
    )
    graph_mb: float = Field(
        105.0,
        gt=0,
        description="Megabytes one attribution graph may have, unpacked; Neuronpedia's client sends up to 104.9.",
    )
    model_folders: str = Field(
        "", description="Folders of the host, by commas: models below them may be named by whoever may add sources."
    )
    secret_key: SecretStr = Field(
        SecretStr(""),
        description="What tokens of other services are sealed with, any long text. Empty: a key in `data`/secret.key.",
    )
    assets: Path = Field(
        REPOSITORY / "frontend" / "dist", description="Folder of the built browser assets (`make setup` builds them)."
    )
    threads: int = Field(0, ge=0, description="Torch threads per worker; 0 uses the physical cores.")
    memory_gb: float = Field(
        0.0,
        ge=0,
        description="Gigabytes a worker may take beyond its libraries; less takes longer. 0: half of what is free.",
    )
    nice: int = Field(
        10, ge=0, le=19, description="How far workers that compute dashboards stand back for pages and live answers."
    )
    device: str = Field("auto", description="Where workers compute: `auto`, `cpu`, `cuda` or `cuda:N`.")
    lease_s: float = Field(60.0, gt=0, description="Seconds a claimed shard stays with a worker that stops reporting.")
    heartbeat_s: float = Field(2.0, gt=0, description="Seconds between a worker's reports of progress.")
    sweep_s: float = Field(5.0, gt=0, description="Seconds between checks for lost shards and lost messages.")
    max_attempts: int = Field(5, ge=1, description="Times a shard is tried before its job fails.")
    shard_tokens: int = Field(
        0, ge=0, description="Tokens a shard of a job holds, in whole batches; 0: half a minute's, by a measurement."
    )
    finish_s: float = Field(15.0, gt=0, description="Seconds of work, about, in a shard that finishes features.")
    straggler_s: float = Field(
        60.0,
        gt=0,
        description="Seconds after which an idle worker may do a shard too that takes far longer than others.",
    )
    live_deadline_s: float = Field(30.0, gt=0, description="Seconds a caller waits for the live worker's answer.")
    live_waiting: int = Field(
        64, ge=1, description="Requests that may wait for the live worker; more are refused with status 429."
    )
    live_generation_s: float = Field(120.0, gt=0, description="Seconds a caller waits for a whole generated text.")
    live_memory_gb: float = Field(
        0.0, ge=0, description="Gigabytes of models and SAEs the live worker keeps loaded. 0: half of what is free."
    )
    live_cache_mb: float = Field(
        64.0, ge=0, description="Megabytes of live answers a web process keeps for the same question; 0 keeps none."
    )
    steer_runs: int = Field(
        10_000, ge=1, description="Steered texts kept of each account, and of those without one; the oldest go first."
    )
    log_level: str = Field("INFO", description="Least severe log event that is written.")
