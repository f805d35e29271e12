"""What one computation keeps resident, and its steps in order: load, corpus, encode, finish.

Both the tasks and `eyepiece compute` call these, so there is one way to compute. Owns devices, threads, dtypes and the
reuse of loaded weights from one shard to the next; the arithmetic is in `workers/compute`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from backend import errors, names
from backend.formats import sae_files
from backend.formats.dashboards import Dashboard
from backend.formats.quality import Quality
from backend.services import ingest
from workers.compute import (
    activation_index,
    activation_index_cuda,
    dashboards,
    encoders,
    evaluation,
    language_model,
    memory,
    quality,
    sae,
)
from workers.compute import corpus as corpora
from workers.compute.encoder import SCREENS, Encoder, ScreenName
from workers.compute.encoder_cuda import CudaEncoder
from workers.compute.long_contexts import LongContexts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_CONTEXT = 128
MAX_CONTEXT = 65_536
"""Positions are stored in two bytes."""
LIBRARIES = memory.taken()
"""Bytes of this process with everything imported and nothing loaded."""
MEASURE_S = 2.0
MEASURE_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What was asked for; stored with the job and the revision."""

    corpus: str
    """A text file, a folder of .txt files, or a .npy of token rows."""
    is_tokens: bool = False
    hook_point: str = ""
    """Of every source; empty: the one in each SAE's configuration."""
    context_size: int = 0
    """0: the SAE's own, or 128."""
    max_tokens: int = 0
    """0: all."""
    device: str = "auto"
    dtype: str = "float32"
    """Of the model's forward pass; everything after it is fp32."""
    threads: int = 0
    """On a CPU, batches at work side by side; 0: the physical cores."""
    memory_gb: float = 0.0
    """What the computation may take beyond the libraries; 0: half of what is free. It changes the time, never the result."""
    screen: ScreenName = "auto"
    """How the encoder finds what may fire; it changes the time, never the result."""
    seed: int = 0
    quality_tokens: int = 65_536
    """Tokens each source's quality is measured on; 0: it is not."""
    keep_index: bool | None = None
    """Keep the activation index; None: if it is small enough."""
    batch_contexts: int = 0
    """Contexts in a forward pass; 0: by the kind of device. A job fixes it when it is planned."""


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """An SAE at its place in the model."""

    sae: sae.Sae
    encoder: encoders.AnyEncoder
    capture: language_model.Capture


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and SAEs of it on one device."""

    model: language_model.LanguageModel
    vocabulary: list[str]
    sources: tuple[LoadedSource, ...]
    """As asked for; empty where none was."""


@dataclass(slots=True)
class Stopwatch:
    """Wall and CPU seconds by stage."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; a stage entered twice adds up."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - wall, time.process_time() - cpu)

    def add(self, name: str, wall_s: float, cpu_s: float) -> None:
        """Add seconds to a stage."""
        self.wall[name] = self.wall.get(name, 0.0) + wall_s
        self.cpu[name] = self.cpu.get(name, 0.0) + cpu_s

    def report(self) -> dict[str, Any]:
        """Seconds by stage, and `compute_cpu_s`: CPU of all but imports, evaluation and export."""
        counted = [seconds for name, seconds in self.cpu.items() if name not in ("import", "evaluate", "export")]
        rounded = {name: round(seconds, 3) for name, seconds in self.wall.items()}
        cpu = {name: round(seconds, 3) for name, seconds in self.cpu.items()}
        return {"wall_s": rounded, "cpu_s": cpu, "compute_cpu_s": round(sum(counted), 3)}


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU; raises `InvalidInputError` for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise errors.InvalidInputError(f"'{name}' is not a device.", hint="Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise errors.InvalidInputError(
            f"device '{name}' is not there: {torch.cuda.device_count()} CUDA devices.", hint="Use --device cpu."
        )
    return device


def set_threads(n: int) -> int:
    """Torch's threads, returned; 0 means the physical cores this process may use."""
    usable = (
        len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    )
    physical = psutil.cpu_count(logical=False) or usable
    n = n or min(usable, physical)
    torch.set_num_threads(n)
    return n


class Resident:
    """What a worker keeps loaded from one shard to the next: the last model, and the SAEs asked of it."""

    def __init__(self) -> None:
        self._model_key: object = None
        self._model: tuple[language_model.LanguageModel, list[str]] | None = None
        self._sources: dict[object, LoadedSource] = {}

    def get(self, model: str, folders: Sequence[str], spec: Spec, *, keep: Sequence[str] = ()) -> Loaded:
        """Model and SAEs, loaded if they are not the ones at hand; what is in neither `folders` nor `keep` is dropped.

        Raises:
            InvalidInputError: Files are not what they should be, or an option is unknown.
            UnsupportedError: The model cannot run with one of the SAEs.
        """
        key = (model, written_at(model), spec.device, spec.dtype, spec.threads)
        if self._model is None or self._model_key != key:
            self._model, self._sources = None, {}  # before loading, so that two models are never resident
            self._model, self._model_key = load_model(model, spec), key
        keys = {folder: (folder, written_at(folder), spec.hook_point, spec.screen) for folder in (*folders, *keep)}
        self._sources = {key: source for key, source in self._sources.items() if key in keys.values()}
        for folder in folders:
            if keys[folder] not in self._sources:
                self._sources[keys[folder]] = load_source(self._model[0], Path(folder), spec)
        return Loaded(*self._model, tuple(self._sources[keys[folder]] for folder in folders))


def load(model: str, folders: Sequence[Path], spec: Spec) -> Loaded:
    """Load a model and SAEs and check one against the other; raises as `Resident.get`."""
    return Resident().get(model, [str(folder) for folder in folders], spec)


def load_model(model: str, spec: Spec) -> tuple[language_model.LanguageModel, list[str]]:
    """A model and its vocabulary; raises `InvalidInputError` or `UnsupportedError`."""
    if spec.dtype not in DTYPES:
        raise errors.InvalidInputError(f"dtype '{spec.dtype}' is unknown.", hint=f"Use one of {', '.join(DTYPES)}.")
    if spec.screen not in SCREENS:
        raise errors.InvalidInputError(f"screen '{spec.screen}' is unknown.", hint=f"Use one of {', '.join(SCREENS)}.")
    set_threads(spec.threads)
    loaded = language_model.load(model, device=pick_device(spec.device), dtype=DTYPES[spec.dtype])
    return loaded, language_model.vocabulary(loaded)


def load_source(model: language_model.LanguageModel, folder: Path, spec: Spec) -> LoadedSource:
    """An SAE, checked against its place in the model; raises `InvalidInputError` or `UnsupportedError`."""
    dictionary = sae.load(folder, device=model.device)
    description = dictionary.description
    hook_point = names.parse_hook_point(spec.hook_point) if spec.hook_point else description.hook_point
    capture = language_model.resolve(model, hook_point, is_centred=description.is_centred)
    width = language_model.width(model, capture)
    if width != description.d_in:
        raise errors.UnsupportedError(
            f"{hook_point} of this model has width {width}; the SAE reads {description.d_in}.",
            hint="Check the model, and the hook point (--hook).",
        )
    return LoadedSource(dictionary, encoders.of(dictionary, screen=spec.screen), capture)


def build_corpus(
    loaded: Loaded, spec: Spec, *, on_progress: Callable[[int], None] = lambda n_tokens: None
) -> tuple[corpora.Corpus, NDArray[np.int64] | None]:
    """Token rows for a spec, and longer ones to evaluate on where the corpus is text that has them.

    Raises:
        InvalidInputError: The corpus does not fit model and SAEs.
    """
    special = loaded.model.special_tokens
    max_tokens = spec.max_tokens or None
    if spec.is_tokens:
        rows = corpora.from_rows(
            Path(spec.corpus),
            special_tokens=special,
            n_vocabulary=len(loaded.vocabulary),
            n_ids=language_model.n_embeddings(loaded.model),
            max_tokens=max_tokens,
        )
        _check_context(rows.rows.shape[1], loaded)
        return rows, None
    wanted = sae_files.common_contexts([source.sae.description for source in loaded.sources], spec.context_size)
    size = spec.context_size or min(wanted.context_size or DEFAULT_CONTEXT, loaded.model.n_context)
    _check_context(size, loaded)
    samples = _longer_samples(loaded, spec, size, prepend_bos=wanted.prepend_bos)

    def hear(document: NDArray[np.integer]) -> None:
        for each in samples:
            each.add(document)

    rows = corpora.from_documents(
        corpora.read_documents(Path(spec.corpus)), loaded.model.tokenizer, special_tokens=special,
        n_vocabulary=len(loaded.vocabulary), context_size=size, prepend_bos=wanted.prepend_bos,
        max_tokens=max_tokens, on_progress=on_progress, on_document=hear,
    )  # fmt: skip
    return rows, evaluation.longest_of(samples)


def _longer_samples(loaded: Loaded, spec: Spec, context_size: int, *, prepend_bos: bool) -> tuple[LongContexts, ...]:
    """For the source that was trained on the longest contexts, so that they are longer for all."""
    if not spec.quality_tokens:
        return ()
    trained = max((source.sae.description.context_size or 0 for source in loaded.sources), default=0)
    return evaluation.longer_samples(
        trained or None, context_size, min(loaded.model.n_context, MAX_CONTEXT), n_tokens=spec.quality_tokens,
        begin=loaded.model.tokenizer.bos_token_id if prepend_bos else None, seed=spec.seed,
    )  # fmt: skip


def batch_contexts(loaded: Loaded, spec: Spec, rows: corpora.Corpus) -> int:
    """Contexts in a forward pass, those the job was planned with or what suits this device."""
    return spec.batch_contexts or activation_index.batch_contexts(loaded.model.device, rows.rows.shape[1])


def encode(
    loaded: Loaded,
    rows: corpora.Corpus,
    *,
    first_context: int,
    n_contexts: int,
    batch_contexts: int,
    memory_gb: float = 0.0,
    on_batch: Callable[[int], None],
) -> Iterator[tuple[int, activation_index.Postings]]:
    """(number of the source, postings) of one shard, in parts that memory allows; one forward pass for all sources."""
    budget = budget_of(memory_gb)
    on_gpu = [(each.capture, each.encoder) for each in loaded.sources if isinstance(each.encoder, CudaEncoder)]
    if on_gpu:
        return activation_index_cuda.index_shard(
            loaded.model, on_gpu, rows,
            first_context=first_context, n_contexts=n_contexts, batch_contexts=batch_contexts, on_batch=on_batch,
        )  # fmt: skip
    places = [(each.capture, each.encoder) for each in loaded.sources if isinstance(each.encoder, Encoder)]
    return activation_index.index_shard(
        loaded.model, places, rows, first_context=first_context, n_contexts=n_contexts,
        batch_contexts=batch_contexts, n_threads=torch.get_num_threads(),
        max_firings=lambda: budget.firings(activation_index.FIRING_BYTES), on_batch=on_batch,
    )  # fmt: skip


def budget_of(memory_gb: float) -> memory.Budget:
    """So much memory beyond the libraries; 0: half of what is free now beside what this process has."""
    held = max(0, memory.taken() - LIBRARIES)
    return memory.Budget(round(memory_gb * 2**30) or held + psutil.virtual_memory().available // 2, floor=LIBRARIES)


def evaluate(
    loaded: Loaded,
    source: LoadedSource,
    rows: corpora.Corpus,
    longer: NDArray[np.integer] | None,
    spec: Spec,
    *,
    on_batch: Callable[[int], None] = lambda n_tokens: None,
) -> Quality:
    """The source's quality on a sample of the corpus and on the longer contexts."""
    subject = quality.Subject(loaded.model, source.capture, source.encoder)
    return evaluation.evaluate(subject, rows, longer, n_tokens=spec.quality_tokens, seed=spec.seed, on_batch=on_batch)


def n_evaluated(rows: corpora.Corpus, longer: NDArray[np.integer] | None, spec: Spec) -> int:
    """Tokens that `evaluate` will report."""
    return evaluation.n_units(rows, longer, n_tokens=spec.quality_tokens)


def measure(loaded: Loaded, rows: corpora.Corpus, *, batch_contexts: int) -> float:
    """Tokens this machine encodes in a second, all sources together, from some batches of the corpus."""
    n_contexts = min(rows.n_contexts, batch_contexts * torch.get_num_threads())

    def seconds() -> float:
        start = time.perf_counter()
        for _ in encode(
            loaded, rows, first_context=0, n_contexts=n_contexts, batch_contexts=batch_contexts, on_batch=lambda _: None
        ):
            pass
        return time.perf_counter() - start

    n_tokens: int = n_contexts * rows.rows.shape[1]
    seconds()  # the first run may compile loops, which takes longer than many a shard
    n_runs, total = 0, 0.0
    while n_runs == 0 or (total < MEASURE_S and n_runs < MEASURE_RUNS):
        n_runs, total = n_runs + 1, total + seconds()
    return n_runs * n_tokens / total


def finish(
    loaded: Loaded,
    source: LoadedSource,
    parts: list[activation_index.Postings],
    rows: corpora.Corpus,
    *,
    seed: int,
    memory_gb: float = 0.0,
    first: int = 0,
    stop: int | None = None,
    on_postings: Callable[[activation_index.Postings], None] = lambda block: None,
) -> Iterator[list[Dashboard]]:
    """Dashboards of features first:stop, block by block, from the postings of all shards; `on_postings` hears each."""
    directions = source.sae.directions()
    lens = _lens(loaded.model, source.capture)
    inputs = dashboards.FinishInputs(directions, source.sae.decoder_norm, lens, seed=seed)
    room = min(dashboards.MAX_FIRINGS, budget_of(memory_gb).firings(dashboards.FIRING_BYTES))
    return dashboards.finish(inputs, parts, rows, first=first, stop=stop, max_firings=room, on_postings=on_postings)


def _lens(model: language_model.LanguageModel, capture: language_model.Capture) -> torch.Tensor | None:
    """The unembedding as seen from the hook point; None where no linear path leads there, and pages say so."""
    try:
        residual_map = language_model.residual_map(model, capture)
        W_U = language_model.unembedding(model)
    except errors.UnsupportedError:
        return None
    return W_U if residual_map is None else residual_map @ W_U


def _check_context(size: int, loaded: Loaded) -> None:
    longest = min(loaded.model.n_context, MAX_CONTEXT)
    if not 2 <= size <= longest:
        raise errors.InvalidInputError(
            f"contexts of {size} tokens do not fit the model, which takes 2 to {longest}.",
            hint="Set --context-size.",
        )


def written_at(weights: str) -> int:
    """When a file of the folder was last replaced, in ns; 0 for a hub name. Weights trained anew are loaded anew."""
    folder = Path(weights)
    return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else 0


def model_facts(loaded: Loaded) -> ingest.ModelFacts:
    """What the catalog says of a model once it has been loaded."""
    config = loaded.model.model.config
    architecture = (config.architectures or [type(loaded.model.model).__name__])[0]
    return ingest.ModelFacts(architecture, loaded.model.n_layers, loaded.model.d_model, loaded.model.n_context)
