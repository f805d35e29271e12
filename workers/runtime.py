"""What one computation keeps resident, and its steps in order: load, corpus, encode, finish.

Both the tasks and `eyepiece compute` call these, so there is one way to compute. Owns devices, threads, dtypes and the
reuse of loaded weights from one shard to the next; the arithmetic is in `workers/compute`.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from backend import errors, names, weights
from backend.formats import dense_sources, sae_files
from backend.formats.dashboards import Dashboard
from backend.formats.look import Look
from backend.formats.quality import Quality
from backend.services import ingest
from workers.compute import (
    activation_index,
    activation_index_cuda,
    dashboards,
    dense,
    dense_dashboards,
    diagnosis,
    documents,
    encoders,
    evaluation,
    extremes,
    language_model,
    memory,
    quality,
    sae,
)
from workers.compute import corpus as corpora
from workers.compute.encoder import SCREENS, ScreenName
from workers.compute.encoder_cuda import CudaEncoder
from workers.compute.long_contexts import LongContexts
from workers.compute.parts import Part

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
    """A file or folder of documents or a .npy of token rows; or as `workers/prepared.py` says."""
    is_tokens: bool = False
    corpus_field: str = ""
    """Of JSON lines and Parquet: where a document's text is; empty: `text`."""
    is_apart: bool = False
    """No context has tokens of two documents."""
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
    is_forced: bool = False
    """Compute even where the quick look says that dashboards would say nothing."""
    batch_contexts: int = 0
    """Contexts in a forward pass; 0: by the kind of device. A job fixes it when it is planned."""


@dataclass(frozen=True, slots=True)
class SaeFiles:
    """An SAE's files, and what was said beside them."""

    folder: str
    declared: sae_files.Declared = sae_files.NOTHING_DECLARED


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """An SAE at its place in the model; or neurons, or vectors."""

    sae: sae.Sae | dense.DenseSource
    encoder: encoders.AnySource
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

    def __init__(self, *, cache: Path | None = None) -> None:
        """`cache` is where pickled weights are kept as safetensors."""
        self._cache = cache
        self._model_key: object = None
        self._model: tuple[language_model.LanguageModel, list[str]] | None = None
        self._sources: dict[object, LoadedSource] = {}

    def get(self, model: str, saes: Sequence[SaeFiles], spec: Spec, *, keep: Sequence[SaeFiles] = ()) -> Loaded:
        """Model and SAEs, loaded if they are not the ones at hand; what is in neither `saes` nor `keep` is dropped.

        Raises:
            InvalidInputError: Files are not what they should be, or an option is unknown.
            UnsupportedError: The model cannot run with one of the SAEs.
        """
        key = (model, weights.written_at(model), spec.device, spec.dtype, spec.threads)
        if self._model is None or self._model_key != key:
            self._model, self._sources = None, {}  # before loading, so that two models are never resident
            self._model, self._model_key = load_model(model, spec), key
        keys = {
            files: (files, weights.written_at(files.folder), spec.hook_point, spec.screen) for files in (*saes, *keep)
        }
        self._sources = {key: source for key, source in self._sources.items() if key in keys.values()}
        for files in saes:
            if keys[files] not in self._sources:
                self._sources[keys[files]] = load_source(self._model[0], files, spec, cache=self._cache)
        return Loaded(*self._model, tuple(self._sources[keys[files]] for files in saes))


def load(
    model: str, folders: Sequence[Path], spec: Spec, declared: sae_files.Declared = sae_files.NOTHING_DECLARED
) -> Loaded:
    """Load a model and SAEs, of each of which `declared` is said, and check one against the other; raises as `Resident.get`."""
    return Resident().get(model, [SaeFiles(str(folder), declared) for folder in folders], spec)


def load_model(model: str, spec: Spec) -> tuple[language_model.LanguageModel, list[str]]:
    """A model and its vocabulary; raises `InvalidInputError` or `UnsupportedError`."""
    if spec.dtype not in DTYPES:
        raise errors.InvalidInputError(f"dtype '{spec.dtype}' is unknown.", hint=f"Use one of {', '.join(DTYPES)}.")
    if spec.screen not in SCREENS:
        raise errors.InvalidInputError(f"screen '{spec.screen}' is unknown.", hint=f"Use one of {', '.join(SCREENS)}.")
    set_threads(spec.threads)
    loaded = language_model.load(model, device=pick_device(spec.device), dtype=DTYPES[spec.dtype])
    return loaded, language_model.vocabulary(loaded)


def load_source(
    model: language_model.LanguageModel, files: SaeFiles, spec: Spec, *, cache: Path | None = None
) -> LoadedSource:
    """A source, checked against its place in the model; raises `InvalidInputError` or `UnsupportedError`."""
    found = source_at(model, files, spec.hook_point, screen=spec.screen, cache=cache)
    description = found.sae.description
    width = language_model.width(model, written_at_hook(model, found))
    if width != description.d_out:
        raise errors.UnsupportedError(
            f"{description.hook_point_out} of this model has width {width}; the transcoder writes {description.d_out}.",
            hint="Check the model, and where the transcoder writes.",
        )
    return found


def source_at(
    model: language_model.LanguageModel,
    files: SaeFiles,
    hook: str = "",
    *,
    screen: ScreenName = "auto",
    cache: Path | None = None,
) -> LoadedSource:
    """As `load_source`; `hook`, if given, wins over what the weights say."""
    if dense_sources.is_neurons(files.folder):
        hook_point = names.parse_hook_point(files.folder.removeprefix(dense_sources.NEURONS))
        capture = language_model.resolve(model, hook_point)
        described = dense_sources.neurons(hook_point, language_model.width(model, capture))
        found = dense.neurons(model, capture, described)
        return LoadedSource(found, dense.DenseEncoder(found), capture)
    dictionary: sae.Sae | dense.DenseSource
    if dense_sources.is_vectors(files.folder):
        dictionary = dense.vectors(dense_sources.vectors(Path(files.folder), hook))
    else:
        dictionary = sae.load(Path(files.folder), device=model.device, declared=files.declared, cache=cache)
    description = dictionary.description
    hook_point = names.parse_hook_point(hook) if hook else description.hook_point
    capture = language_model.resolve(model, hook_point, is_centred=description.is_centred)
    width = language_model.width(model, capture)
    if width != description.d_in:
        raise errors.UnsupportedError(
            f"{hook_point} of this model has width {width}; the {_word(description)} reads {description.d_in}.",
            hint="Check the model, and the hook point (--hook).",
        )
    if isinstance(dictionary, dense.DenseSource):
        return LoadedSource(dictionary, dense.DenseEncoder(dictionary), capture)
    return LoadedSource(dictionary, encoders.of(dictionary, screen=screen), capture)


def _word(description: sae_files.SaeDescription) -> str:
    return "SAE" if description.kind == "sae" else description.kind


def written_at_hook(model: language_model.LanguageModel, source: LoadedSource) -> language_model.Capture:
    """Where the decoder writes: where the SAE reads, but for transcoders."""
    description = source.sae.description
    if description.kind != "transcoder":
        return source.capture
    return language_model.resolve(model, description.hook_point_out, is_centred=description.is_centred)


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """How a corpus is cut for the sources that are loaded: with the files, all its rows depend on."""

    context_size: int
    prepend_bos: bool
    trained_size: int
    """The longest contexts a source was trained on; 0: not known."""


def plan_corpus(loaded: Loaded, spec: Spec) -> CorpusPlan:
    """What the sources' configurations and the options come to; raises `InvalidInputError` where they do not agree."""
    descriptions = [source.sae.description for source in loaded.sources]
    wanted = sae_files.common_contexts(descriptions, spec.context_size)
    size = spec.context_size or min(wanted.context_size or DEFAULT_CONTEXT, loaded.model.n_context)
    check_context(size, loaded)
    trained = max((description.context_size or 0 for description in descriptions), default=0)
    return CorpusPlan(size, wanted.prepend_bos, trained)


def build_corpus(
    loaded: Loaded,
    spec: Spec,
    files: Iterable[documents.File] | None = None,
    *,
    on_progress: Callable[[int], None] = lambda n_tokens: None,
) -> tuple[corpora.Corpus, NDArray[np.int64] | None]:
    """Token rows for a spec, and longer ones to evaluate on where the corpus is text that has them.

    `files` are the corpus's, in order; those at the path `spec.corpus`, if not given.

    Raises:
        InvalidInputError: The corpus does not fit model and SAEs.
    """
    special = loaded.model.special_tokens
    max_tokens = spec.max_tokens or None
    if spec.is_tokens:
        rows = corpora.from_rows(
            Path(spec.corpus) if files is None else next(iter(files)).path,
            special_tokens=special,
            n_vocabulary=len(loaded.vocabulary),
            n_ids=language_model.n_embeddings(loaded.model),
            max_tokens=max_tokens,
        )
        check_context(rows.rows.shape[1], loaded)
        return rows, None
    plan = plan_corpus(loaded, spec)
    samples = _longer_samples(loaded, spec, plan)

    def hear(document: NDArray[np.integer]) -> None:
        for each in samples:
            each.add(document)

    found = documents.files_of(Path(spec.corpus)) if files is None else files
    rows = corpora.from_documents(
        documents.read(found, spec.corpus_field), loaded.model.tokenizer, special_tokens=special,
        n_vocabulary=len(loaded.vocabulary), context_size=plan.context_size, prepend_bos=plan.prepend_bos,
        is_apart=spec.is_apart, max_tokens=max_tokens, on_progress=on_progress, on_document=hear,
    )  # fmt: skip
    return rows, evaluation.longest_of(samples)


def _longer_samples(loaded: Loaded, spec: Spec, plan: CorpusPlan) -> tuple[LongContexts, ...]:
    """For the source that was trained on the longest contexts, so that they are longer for all."""
    if not spec.quality_tokens:
        return ()
    return evaluation.longer_samples(
        plan.trained_size or None, plan.context_size, min(loaded.model.n_context, MAX_CONTEXT),
        n_tokens=spec.quality_tokens, begin=loaded.model.tokenizer.bos_token_id if plan.prepend_bos else None,
        seed=spec.seed,
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
) -> Iterator[tuple[int, Part]]:
    """(number of the source, what it leaves) of one shard, in parts that memory allows.

    One forward pass serves all sources, but on a GPU dense ones have one of their own, with values summed up by the CPU.
    """
    budget = budget_of(memory_gb)
    of_gpu = [i for i, each in enumerate(loaded.sources) if isinstance(each.encoder, CudaEncoder)]
    of_cpu = [i for i, each in enumerate(loaded.sources) if not isinstance(each.encoder, CudaEncoder)]
    if of_gpu:
        on_gpu = [(each.capture, each.encoder) for each in loaded.sources if isinstance(each.encoder, CudaEncoder)]
        for i, postings in activation_index_cuda.index_shard(
            loaded.model, on_gpu, rows,
            first_context=first_context, n_contexts=n_contexts, batch_contexts=batch_contexts, on_batch=on_batch,
        ):  # fmt: skip
            yield of_gpu[i], postings
    if of_cpu:
        on_cpu = [(e.capture, e.encoder) for e in loaded.sources if not isinstance(e.encoder, CudaEncoder)]
        for i, part in activation_index.index_shard(
            loaded.model, on_cpu, rows, first_context=first_context, n_contexts=n_contexts,
            batch_contexts=batch_contexts, n_threads=_n_threads(loaded),
            max_firings=lambda: budget.firings(activation_index.FIRING_BYTES),
            on_batch=(lambda _: None) if of_gpu else on_batch,
        ):  # fmt: skip
            yield of_cpu[i], part


def _n_threads(loaded: Loaded) -> int:
    """Batches at work side by side: on a GPU one, which fills it."""
    return torch.get_num_threads() if loaded.model.device.type == "cpu" else 1


def budget_of(memory_gb: float) -> memory.Budget:
    """So much memory beyond the libraries; 0: half of what is free now beside what this process has."""
    held = max(0, memory.taken() - LIBRARIES)
    return memory.Budget(round(memory_gb * 2**30) or held + psutil.virtual_memory().available // 2, floor=LIBRARIES)


def look(loaded: Loaded, source: LoadedSource, rows: corpora.Corpus) -> Look | None:
    """A quick look at an SAE or transcoder; None for neurons and vectors, which rebuild nothing."""
    if isinstance(source.sae, dense.DenseSource):
        return None
    is_transcoder = source.sae.description.kind == "transcoder"
    output = written_at_hook(loaded.model, source) if is_transcoder else None
    subject = diagnosis.Subject(loaded.model, source.sae, source.capture, output)
    return diagnosis.look(subject, rows, bos=loaded.model.tokenizer.bos_token_id)


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
    if isinstance(source.encoder, dense.DenseEncoder):
        raise errors.UnsupportedError("neurons and vectors reconstruct nothing, so they have no quality.")
    is_transcoder = source.sae.description.kind == "transcoder"
    written = written_at_hook(loaded.model, source) if is_transcoder else None
    subject = quality.Subject(loaded.model, source.capture, source.encoder, written)
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
    parts: Sequence[Part],
    rows: corpora.Corpus,
    *,
    seed: int,
    batch_contexts: int = 0,
    memory_gb: float = 0.0,
    first: int = 0,
    stop: int | None = None,
    on_postings: Callable[[activation_index.Postings], None] = lambda block: None,
) -> Iterator[list[Dashboard]]:
    """Dashboards of features first:stop, block by block, from the parts of all shards; `on_postings` hears each block's.

    `batch_contexts` is what the parts were made with (0: what suits the device): dense sources run the model again on the
    contexts they show.
    """
    size = batch_contexts or activation_index.batch_contexts(loaded.model.device, rows.rows.shape[1])
    directions = source.sae.directions().to(loaded.model.device)
    lens = _lens(loaded.model, written_at_hook(loaded.model, source), source.sae.description.kind)
    is_signed = source.sae.description.is_signed
    inputs = dashboards.FinishInputs(directions, source.sae.decoder_norm, lens, seed=seed, is_signed=is_signed)
    budget = budget_of(memory_gb)
    if isinstance(source.encoder, dense.DenseEncoder):
        summaries = [part for part in parts if isinstance(part, extremes.Extremes)]
        return dense_dashboards.finish(
            inputs, summaries, rows, _values_of(loaded, source.capture, source.encoder, rows, size),
            batch_contexts=size, max_values=budget.firings(dense_dashboards.VALUE_BYTES), first=first, stop=stop,
        )  # fmt: skip
    postings = [part for part in parts if isinstance(part, activation_index.Postings)]
    room = min(dashboards.MAX_FIRINGS, budget.firings(dashboards.FIRING_BYTES))
    return dashboards.finish(inputs, postings, rows, first=first, stop=stop, max_firings=room, on_postings=on_postings)


def _values_of(
    loaded: Loaded,
    capture: language_model.Capture,
    encoder: dense.DenseEncoder,
    rows: corpora.Corpus,
    batch_contexts: int,
) -> dense_dashboards.ValuesOf:
    """A forward pass over one batch, with the arithmetic it had when its extremes were taken."""

    def values_of(start: int, stop: int, first: int, last: int) -> NDArray[np.float32]:
        x = activation_index.batch_residuals(loaded.model, [capture], rows, start, stop, batch_contexts)[0]
        values = encoder.values(x[: stop - start].flatten(0, 1), first, last)
        return values.reshape(stop - start, rows.rows.shape[1], last - first)

    return values_of


def _lens(model: language_model.LanguageModel, capture: language_model.Capture, kind: str) -> torch.Tensor | None:
    """The unembedding as seen from the directions; None where no linear path leads there, and pages say so."""
    try:
        # neurons' directions are rows of W_out or W_O already
        is_within = kind == "neurons"
        residual_map = None if is_within else language_model.residual_map(model, capture)
        W_U = language_model.unembedding(model)
    except errors.UnsupportedError:
        return None
    return W_U if residual_map is None else residual_map @ W_U


def check_context(size: int, loaded: Loaded) -> None:
    """Return if the model takes contexts of so many tokens; raises `InvalidInputError`."""
    longest = min(loaded.model.n_context, MAX_CONTEXT)
    if not 2 <= size <= longest:
        raise errors.InvalidInputError(
            f"contexts of {size} tokens do not fit the model, which takes 2 to {longest}.",
            hint="Set --context-size.",
        )


def model_facts(loaded: Loaded) -> ingest.ModelFacts:
    """What the catalog says of a model once it has been loaded."""
    config = loaded.model.model.config
    architecture = (config.architectures or [type(loaded.model.model).__name__])[0]
    return ingest.ModelFacts(architecture, loaded.model.n_layers, loaded.model.d_model, loaded.model.n_context)
