"""The prepared corpus of a job: found where the same was made before, else made and stored.

A corpus is named in a job's spec by a path, or
- `corpus:ID`: one prepared before, as it is (also `corpus_id` with no corpus);
- `blob:KEY`: the uploaded files below a key of the blob store;
- `hf:NAME[@REVISION][:CONFIG][:SPLIT]`: a data set of the Hugging Face hub.

1. Its recipe is a sha256 over all that its rows depend on: the files' names and bytes (of the hub: the commit and file
   list, nothing is downloaded for it), tokenizer, special tokens, context size, options.
2. A recipe this model had before names the corpus: no text is read, nothing tokenised. The longer contexts the quality
   needs are kept beside it by what they are a sample for; where another sample is needed the text is read again.
3. Else the text is read and cut; rows and starts of documents become blobs. Their rows in the database are written with
   the end of the prepare stage, so a corpus is known once it is whole; blobs appear by rename.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, hub, storage, weights
from backend.db import tables
from backend.db.session import transaction
from backend.services import ingest
from workers import runtime
from workers.compute import corpus as corpora
from workers.compute import documents

PREPARED, HUB = "corpus:", "hf:"
_RULES = 1
"""Counted up when the same text would be cut into other rows."""
Scratch = Callable[[str], contextlib.AbstractContextManager[Path]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where prepared corpora are kept, and for which model."""

    sessions: sessionmaker[Session]
    blobs: storage.Store
    mirror: storage.Mirror
    scratch: Scratch
    """A path on this machine, gone afterwards."""
    model: str
    hub: hub.Hub


@dataclass(frozen=True, slots=True)
class Prepared:
    """A corpus whose blobs are stored; its row is not, unless `corpus_id` is known."""

    rows: corpora.Corpus
    """Mapped."""
    longer: NDArray[np.integer] | None
    longer_key: str
    """Empty: there are none."""
    facts: ingest.CorpusFacts
    recipe: str
    """Empty: it was chosen as it is."""
    sample: str
    """What `longer` is a sample for."""
    corpus_id: int | None
    """None: it is new."""

    def store(self, session: Session, model: str, vocabulary_id: int) -> int:
        """Write what is not yet known of it, and return the corpus's id."""
        corpus_id = self.corpus_id
        if corpus_id is None:
            corpus_id = ingest.store_corpus(session, model, vocabulary_id, self.facts)
        if self.recipe:
            ingest.store_recipe(session, model, self.recipe, corpus_id, {self.sample: self.longer_key})
        return corpus_id


@dataclass(frozen=True, slots=True)
class _Source:
    """The files of a corpus, before any is opened."""

    name: str
    fingerprint: str
    files: Iterable[documents.File]
    """In order; those of the hub are downloaded one by one."""


@contextlib.contextmanager
def prepare(
    place: Place,
    loaded: runtime.Loaded,
    spec: runtime.Spec,
    corpus_id: int | None = None,
    *,
    on_progress: Callable[[int], None] = lambda n_tokens: None,
) -> Iterator[Prepared]:
    """The job's corpus; `corpus_id` is what its spec says beside `spec.corpus`.

    Raises:
        InvalidInputError: The corpus is not there, is not one, or does not fit model and SAEs.
    """
    with contextlib.ExitStack() as stack:
        chosen = _chosen(spec, corpus_id)
        if chosen is not None:
            yield _open(place, stack, loaded, chosen, recipe="", sample="", longer_key="")
            return
        source = _source(place, spec.corpus)
        recipe, sample = _recipe(loaded, spec, source.fingerprint), _sample(loaded, spec)
        known = _known(place, recipe)
        if known is not None and sample in known.longer:
            yield _open(
                place, stack, loaded, known.corpus_id, recipe=recipe, sample=sample, longer_key=known.longer[sample]
            )
            return
        rows, longer = runtime.build_corpus(loaded, spec, source.files, on_progress=on_progress)
        yield _stored(place, rows, longer, source.name, recipe, sample)


def _chosen(spec: runtime.Spec, corpus_id: int | None) -> int | None:
    if spec.corpus.startswith(PREPARED):
        number = spec.corpus.removeprefix(PREPARED)
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise errors.InvalidInputError(f"'{spec.corpus[:50]}' names no corpus.", hint="Write corpus:ID.")
        return int(number)
    return corpus_id if not spec.corpus else None


def _source(place: Place, corpus: str) -> _Source:
    if corpus.startswith(HUB):
        dataset = hub.parse_dataset(corpus.removeprefix(HUB))
        listed = place.hub.dataset_files(dataset)
        named = orjson.dumps([listed.commit, [name for name, _ in listed.files]])
        files = (documents.File(*file) for file in place.hub.documents(listed))
        return _Source(str(dataset), hashlib.sha256(named).hexdigest(), files)
    key = weights.key_of(corpus)
    try:
        path = Path(corpus) if key is None else place.mirror.folder_of(key)
    except FileNotFoundError as error:
        raise errors.InvalidInputError("the uploaded corpus is gone.", hint="Upload it again.") from error
    found = documents.files_of(path if key is None else _single(path))
    return _Source(path.name if key is None else found[0].name, documents.fingerprint(found), found)


def _single(folder: Path) -> Path:
    """The file of a folder that has only one, of whatever suffix: an upload of a single file."""
    inside = list(folder.iterdir()) if folder.is_dir() else []
    return inside[0] if len(inside) == 1 and inside[0].is_file() else folder


def _recipe(loaded: runtime.Loaded, spec: runtime.Spec, fingerprint: str) -> str:
    model = loaded.model
    made_by: dict[str, Any] = {
        "rules": _RULES, "files": fingerprint, "vocabulary": loaded.vocabulary, "special": model.special_tokens,
        "max_tokens": spec.max_tokens, "is_tokens": spec.is_tokens,
    }  # fmt: skip
    if not spec.is_tokens:
        plan = runtime.plan_corpus(loaded, spec)
        made_by |= {
            "tokenizer": _tokenizer(model.tokenizer), "context_size": plan.context_size,
            "prepend_bos": plan.prepend_bos, "field": spec.corpus_field, "is_apart": spec.is_apart,
        }  # fmt: skip
    return hashlib.sha256(orjson.dumps(made_by)).hexdigest()


def _tokenizer(tokenizer: Any) -> str:
    """All of a tokenizer that decides what a text becomes."""
    rust = getattr(tokenizer, "backend_tokenizer", None)
    said = rust.to_str() if rust is not None else repr(sorted(tokenizer.get_vocab().items()))
    return f"{type(tokenizer).__name__} {tokenizer.bos_token_id} {said}"


def _sample(loaded: runtime.Loaded, spec: runtime.Spec) -> str:
    """What longer contexts depend on beside the recipe; the same for all jobs that have none."""
    if spec.is_tokens or not spec.quality_tokens:
        return "none"
    return f"{runtime.plan_corpus(loaded, spec).trained_size}-{spec.quality_tokens}-{spec.seed}"


@dataclass(frozen=True, slots=True)
class _Known:
    corpus_id: int
    longer: dict[str, str]


def _known(place: Place, recipe: str) -> _Known | None:
    of = tables.CorpusRecipe
    query = select(of.corpus_id, of.longer).where(of.model_id == place.model, of.key == recipe)
    with transaction(place.sessions) as session:
        row = session.execute(query).one_or_none()
    return None if row is None else _Known(row.corpus_id, row.longer)


def _open(
    place: Place,
    stack: contextlib.ExitStack,
    loaded: runtime.Loaded,
    corpus_id: int,
    *,
    recipe: str,
    sample: str,
    longer_key: str,
) -> Prepared:
    with transaction(place.sessions) as session:
        found = session.get(tables.Corpus, corpus_id)
        if found is None or found.model_id != place.model:
            raise errors.InvalidInputError(
                f"'{place.model}' has no corpus {corpus_id}.", hint=f"GET /api/corpora/{place.model} lists them."
            )
        special = session.get_one(tables.Vocabulary, found.vocabulary_id).special_tokens
    runtime.check_context(found.context_size, loaded)
    array = np.load(stack.enter_context(place.blobs.local(found.blob_key)), mmap_mode="r", allow_pickle=False)
    rows = corpora.Corpus(array, tuple(special), is_first_masked=found.is_first_masked)
    longer = np.load(stack.enter_context(place.blobs.local(longer_key))) if longer_key else None
    facts = ingest.CorpusFacts(
        found.name, found.fingerprint, found.context_size, found.n_contexts, found.n_tokens, found.is_first_masked,
        found.blob_key, found.documents_key,
    )  # fmt: skip
    return Prepared(rows, longer, longer_key, facts, recipe, sample, corpus_id)


def _stored(
    place: Place, rows: corpora.Corpus, longer: NDArray[np.integer] | None, name: str, recipe: str, sample: str
) -> Prepared:
    if rows.n_tokens == 0:
        raise errors.InvalidInputError("every token of the corpus is masked.", hint="Give ordinary text.")
    fingerprint = rows.fingerprint()
    blob_key, longer_key, documents_key = f"corpora/{fingerprint}.npy", "", None
    if not place.blobs.exists(blob_key):
        _put(place, blob_key, lambda path: np.save(path, rows.rows))
    if rows.starts is not None:
        documents_key = f"corpora/{recipe}.documents"
        _put(place, documents_key, rows.starts.write)
    if longer is not None:
        longer_key = f"corpora/{recipe}-{sample}.npy"
        _put(place, longer_key, lambda path: np.save(path, longer))
    facts = ingest.CorpusFacts(
        name, fingerprint, rows.rows.shape[1], rows.n_contexts, rows.n_tokens, rows.is_first_masked, blob_key,
        documents_key,
    )  # fmt: skip
    return Prepared(rows, longer, longer_key, facts, recipe, sample, None)


def _put(place: Place, key: str, write: Callable[[Path], object]) -> None:
    with place.scratch(Path(key).name) as path:
        write(path)
        place.blobs.put(key, path)
