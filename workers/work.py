"""What a stage has to do its shard with: the claim, its options, the model and the corpus it names, and places for files."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, hub, storage, weights
from backend.db import tables
from backend.db.session import transaction
from backend.formats.sae_files import Declared
from backend.services import secrets
from backend.services.shards import Claim, ClaimedSource
from backend.settings import Settings
from workers import prepared, runtime
from workers.compute import corpus as corpora
from workers.compute import parts
from workers.leases import Heartbeat


class OpenPostings:
    """The postings, or extremes, finished last, kept mapped from one range of a source to the next."""

    def __init__(self, blobs: storage.Store) -> None:
        self._blobs = blobs
        self._keys: Sequence[str] = ()
        self._parts: list[parts.Part] = []
        self._files = contextlib.ExitStack()

    def of(self, keys: Sequence[str]) -> list[parts.Part]:
        """Parts by blob key; checked against their checksums when first opened."""
        if self._keys != keys:
            self.close()
            self._parts = [parts.read(self._files.enter_context(self._blobs.local(key))) for key in keys]
            self._keys = keys
        return self._parts

    def close(self) -> None:
        """Let go of the files."""
        self._keys, self._parts = (), []
        self._files.close()


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed shard, and what the worker has to do it with."""

    claimed: Claim
    heartbeat: Heartbeat
    settings: Settings
    sessions: sessionmaker[Session]
    blobs: storage.Store
    resident: runtime.Resident
    postings: OpenPostings

    @property
    def spec(self) -> runtime.Spec:
        """The job's options; what they leave open is the worker's to choose."""
        stored, settings = self.claimed.spec, self.settings
        known = {name: stored[name] for name in runtime.Spec.__slots__ if name in stored}
        spec: dict[str, Any] = {"device": settings.device, "threads": settings.threads} | known
        if spec["device"] == "auto":
            spec["device"] = settings.device
        for name, value in (("threads", settings.threads), ("memory_gb", settings.memory_gb)):
            spec[name] = spec.get(name) or value
        return runtime.Spec(**spec)

    @property
    def written_at(self) -> list[int]:
        """When the files of the model and of each source were last replaced."""
        sources = (source.weights for source in self.claimed.sources)
        return [weights.written_at(folder) for folder in (self.claimed.model_weights, *sources)]

    def load(self, *sources: ClaimedSource) -> runtime.Loaded:
        """The model with these sources; raises `InvalidInputError` where the job began with other files."""
        written_at = self.written_at
        if self.claimed.spec.get("written_at", written_at) != written_at:
            raise errors.InvalidInputError(
                "the model's or an SAE's files were replaced while the job ran.",
                hint="Add them again to compute from the new ones.",
            )
        mirror = storage.mirror(self.settings)
        files = {
            source.id: runtime.SaeFiles(str(weights.folder_of(source.weights, mirror)), Declared(**source.declared))
            for source in self.claimed.sources
        }
        wanted = [files[source.id] for source in sources]
        return self.resident.get(str(self.model), wanted, self.spec, keep=list(files.values()))

    @property
    def model(self) -> Path:
        """The model's folder; of a hub name, that of the commit the job began with."""
        name = self.claimed.model_weights
        if hub.is_folder(name):
            return Path(name)
        return self.hub.model(name, self.claimed.spec.get("model_commit", ""))

    @contextlib.contextmanager
    def corpus(self) -> Iterator[tuple[corpora.Corpus, tables.Corpus]]:
        """The prepared corpus, mapped, and its row."""
        with transaction(self.sessions) as session:
            corpus = session.get_one(tables.Corpus, self.claimed.spec["corpus_id"])
            special = session.get_one(tables.Vocabulary, corpus.vocabulary_id).special_tokens
        with self.blobs.local(corpus.blob_key) as path:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            yield corpora.Corpus(rows, tuple(special), is_first_masked=corpus.is_first_masked), corpus

    @contextlib.contextmanager
    def documents_of(self, corpus: tables.Corpus) -> Iterator[Callable[[int], list[tuple[int, str]]] | None]:
        """What tells the documents of a context; None where they are not known."""
        if corpus.documents_key is None:
            yield None
            return
        with self.blobs.local(corpus.documents_key) as path:
            yield corpora.read_starts(path).of

    @property
    def corpora(self) -> prepared.Place:
        """Where the corpora of the job's model are kept."""
        mirror = storage.mirror(self.settings)
        return prepared.Place(self.sessions, self.blobs, mirror, self.scratch, self.claimed.model, self.hub)

    @property
    def hub(self) -> hub.Hub:
        """The Hugging Face hub, as the job's owner sees it."""
        with transaction(self.sessions) as session:
            owner_id = session.get_one(tables.Job, self.claimed.job_id).owner_id
            token = secrets.get(session, self.settings, secrets.HUGGING_FACE, owner_id)
        return hub.Hub(self.settings.data / "cache" / "hub", token or (None if owner_id is None else False))

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A path on this machine, gone afterwards."""
        folder = self.settings.data / "run"
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
            yield Path(scratch) / name
