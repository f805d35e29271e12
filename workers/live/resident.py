"""Models and sources kept loaded within a memory budget; the ones used longest ago go first.

Loading takes seconds, so a thread does it while the worker answers others: `ready` says None until everything a request
needs is here. One model's things are loaded at a time, those of the request that has waited longest first, so two that do
not fit together cannot keep throwing each other out. What text is being generated with is held (`hold`).
"""

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from backend import logs, weights
from backend.db.session import transaction
from backend.db.tables import Feature
from backend.formats import messages
from backend.formats.sae_files import Declared
from backend.services import inference
from backend.services.inference import Place, Places
from backend.settings import Settings
from backend.storage import Mirror
from workers import runtime
from workers.compute import encoders, language_model
from workers.compute.dense import DenseEncoder
from workers.compute.generation import Generation

_logger = logging.getLogger(__name__)
N_PLACES = 1024
"""States of rows remembered."""
_DEFAULT_DTYPE = "float32"


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model and the texts of its tokens."""

    key: Hashable
    model: language_model.LanguageModel
    vocabulary: list[str]
    generation: Generation | None = None
    """What it generates with; made when first needed."""

    @property
    def n_bytes(self) -> int:
        """Of its weights."""
        return sum(each.numel() * each.element_size() for each in self.model.model.state_dict().values())


@dataclass(slots=True)
class LoadedSource:
    """A source at its place in a model."""

    key: Hashable
    place: Place
    loaded: runtime.LoadedSource
    densities: NDArray[np.float32] | None = None
    """By feature; read when first asked for."""

    @property
    def encoder(self) -> encoders.AnySource:
        """Gives its activations."""
        return self.loaded.encoder

    @property
    def capture(self) -> language_model.Capture:
        """Where it reads."""
        return self.loaded.capture

    @property
    def n_bytes(self) -> int:
        """Of its weights, and what was derived from them."""
        return _bytes_of(self.loaded.sae, set()) + _bytes_of(vars(self.loaded.encoder), set())


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything one request needs."""

    model: LoadedModel
    sources: dict[str, LoadedSource]

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Of all of it, to hold it by."""
        return (self.model.key, *(source.key for source in self.sources.values()))


@dataclass(slots=True)
class _Kept:
    value: LoadedModel | LoadedSource
    n_bytes: int
    used_at: float


@dataclass(slots=True)
class _Needs:
    """What one request needs, by key."""

    model: Hashable
    model_weights: str
    dtype: str
    sources: dict[str, tuple[Hashable, Place]] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[Hashable, ...]:
        return (self.model, *(key for key, _ in self.sources.values()))


class Residents:
    """What is loaded. Called by one thread; loads in another."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], files: Mirror) -> None:
        """`settings.live_memory_gb` is the budget; 0: half of what is free now."""
        self.device = runtime.pick_device(settings.device)
        self._sessions, self._files, self._cache = sessions, files, weights.cache_of(settings)
        self.budget = int(settings.live_memory_gb * 1e9) or psutil.virtual_memory().available // 2
        self._kept: dict[Hashable, _Kept] = {}
        self._held: Counter[Hashable] = Counter()
        self._places: dict[Hashable, Places] = {}
        self._written: dict[str, int] = {}
        """When files were, as looked at in this turn."""
        self._loading: dict[Hashable, Future[LoadedModel | LoadedSource]] = {}
        self._failed: dict[Hashable, Exception] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._lock = threading.Lock()
        self.loading: str | None = None
        """What is being loaded, in words."""

    @property
    def n_bytes(self) -> int:
        """Of everything kept."""
        return sum(each.n_bytes for each in self._kept.values())

    def close(self) -> None:
        """Wait for what is being loaded."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    def turn(self) -> None:
        """Take in what has been loaded since the last call; failures are told to those who ask in this turn."""
        self._failed, self._written = {}, {}
        for key in [key for key, future in self._loading.items() if future.done()]:
            future = self._loading.pop(key)
            failure = future.exception()
            if failure is None:
                value = future.result()
                self._kept[key] = _Kept(value, value.n_bytes, time.monotonic())
                self._make_room(0, keep={key, *self._loading})
            elif isinstance(failure, Exception):
                self._failed[key] = failure
            else:
                raise failure
        if not self._loading:
            self.loading = None

    @property
    def is_loading(self) -> bool:
        """Something is on its way."""
        return bool(self._loading)

    def ready(self, request: messages.Request) -> Ready | None:
        """Everything the request needs; None while it is loading. Raises what loading it raised, or `NotFoundError`."""
        needs = self._needs(request)
        for key in needs.keys:
            if key in self._failed:
                raise self._failed[key]
        missing = [key for key in needs.keys if key not in self._kept]
        if missing:
            if not self._loading:
                self._load(needs)
            return None
        now = time.monotonic()
        for key in needs.keys:
            self._kept[key].used_at = now
        model = self._kept[needs.model].value
        assert isinstance(model, LoadedModel)
        sources = {}
        for name, (key, place) in needs.sources.items():
            source = self._kept[key].value
            assert isinstance(source, LoadedSource)
            if source.place != place:  # the dashboards were computed anew, from the same weights
                source.place, source.densities = place, None
            sources[name] = source
        return Ready(model, sources)

    def hold(self, ready: Ready) -> None:
        """Keep these loaded until `release`."""
        self._held.update(ready.keys)

    def release(self, ready: Ready) -> None:
        """The end of a `hold`."""
        self._held.subtract(ready.keys)
        self._held = +self._held

    def densities(self, source: LoadedSource) -> NDArray[np.float32] | None:
        """Of each feature, 0–1; None where the source has no dashboards."""
        revision = source.place.revision_id
        if revision is None:
            return None
        if source.densities is None:
            found = np.zeros(source.place.d_sae, np.float32)
            with transaction(self._sessions) as session:
                query = select(Feature.index, Feature.density).where(Feature.revision_id == revision)
                for index, density in session.execute(query):
                    found[index] = density
            source.densities = found
        return source.densities

    def _needs(self, request: messages.Request) -> _Needs:
        names = messages.sources_of(request)
        places = self._places_of(request, names)
        dtype = next((place.dtype for place in places.sources.values()), _DEFAULT_DTYPE)
        model = ("model", places.model_weights, dtype, self._written_at(places.model_weights))
        needs = _Needs(model, places.model_weights, dtype)
        for name, place in places.sources.items():
            folder = str(weights.folder_of(place.weights, self._files))
            declared = repr(sorted(place.declared.items()))
            key = ("source", model, folder, self._written_at(folder), declared, place.hook_point)
            needs.sources[name] = (key, place)
        return needs

    def _places_of(self, request: messages.Request, names: Sequence[str]) -> Places:
        """As the rows are; read again when the caller saw them in another state."""
        key = (request.model, tuple(names), tuple(sorted(request.versions.items())))
        found = self._places.get(key) if request.versions else None
        if found is None:
            with transaction(self._sessions) as session:
                found = inference.places(session, request.model, names)
            while len(self._places) >= N_PLACES:
                self._places.pop(next(iter(self._places)))
            self._places[key] = found
        return found

    def _written_at(self, path: str) -> int:
        if path not in self._written:
            self._written[path] = weights.written_at(path)
        return self._written[path]

    def _load(self, needs: _Needs) -> None:
        """Begin to load what is missing of it."""
        missing = [each for each in needs.sources.values() if each[0] not in self._kept]
        estimate = sum(12 * place.d_in * place.d_sae for _, place in missing)
        kept = self._kept.get(needs.model)
        if kept is None:
            estimate += _file_bytes(needs.model_weights)
        self._make_room(estimate, keep=set(needs.keys))
        self.loading = Path(needs.model_weights).name
        model: Future[LoadedModel | LoadedSource]
        if kept is None:
            model = self._loader.submit(self._load_model, needs)
            self._loading[needs.model] = model
        else:
            model = Future()
            model.set_result(kept.value)
        for key, place in missing:
            self._loading[key] = self._loader.submit(self._load_source, model, key, place)

    def _load_model(self, needs: _Needs) -> LoadedModel | LoadedSource:
        started_s = time.monotonic()
        model = language_model.load(needs.model_weights, device=self.device, dtype=runtime.DTYPES[needs.dtype])
        found = LoadedModel(needs.model, model, language_model.vocabulary(model))
        logs.event(_logger, "live.model_loaded", n_bytes=found.n_bytes, duration_s=_since(started_s))
        return found

    def _load_source(self, of: "Future[LoadedModel | LoadedSource]", key: Hashable, place: Place) -> LoadedSource:
        started_s = time.monotonic()
        model = of.result()
        assert isinstance(model, LoadedModel)
        files = runtime.SaeFiles(str(weights.folder_of(place.weights, self._files)), Declared(**place.declared))
        # a few tokens at a time: the fp32 screen needs no second copy of the weights
        loaded = runtime.source_at(model.model, files, place.hook_point, screen="fp32", cache=self._cache)
        _warm(loaded)
        found = LoadedSource(key, place, loaded)
        logs.event(_logger, "live.source_loaded", n_bytes=found.n_bytes, duration_s=_since(started_s))
        return found

    def _make_room(self, n_bytes: int, *, keep: set[Hashable]) -> None:
        """Let go of what was used longest ago until so much more fits, or nothing else can go."""
        while self.n_bytes + n_bytes > self.budget:
            free = [key for key in self._kept if key not in keep and not self._held[key] and not self._is_built_on(key)]
            if not free:
                return
            oldest = min(free, key=lambda key: self._kept[key].used_at)
            logs.event(_logger, "live.let_go", n_bytes=self._kept[oldest].n_bytes)
            del self._kept[oldest]

    def _is_built_on(self, key: Hashable) -> bool:
        """It is a model, and a source of it is kept: that goes first."""
        return any(isinstance(other, tuple) and other[0] == "source" and other[1] == key for other in self._kept)


def _warm(loaded: runtime.LoadedSource) -> None:
    """Compile, and prepare what is prepared at the first call."""
    x = torch.randn(8, loaded.sae.description.d_in, generator=torch.Generator().manual_seed(0))
    if isinstance(loaded.encoder, DenseEncoder):
        loaded.encoder.values(x)
    else:
        loaded.encoder.encode(x.to(loaded.sae.W_enc.device))  # type: ignore[union-attr]


def _bytes_of(value: Any, seen: set[int]) -> int:
    """Of all tensors and arrays in an object, each memory once."""
    if isinstance(value, torch.Tensor):
        place = value.untyped_storage().data_ptr()
        n_bytes = value.untyped_storage().nbytes()
    elif isinstance(value, np.ndarray):
        place, n_bytes = value.__array_interface__["data"][0], value.nbytes
    else:
        parts: Sequence[Any] = ()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = [getattr(value, each.name) for each in dataclasses.fields(value)]
        elif isinstance(value, dict):
            parts = list(value.values())
        elif isinstance(value, list | tuple):
            parts = value
        elif type(value).__module__.startswith("workers."):
            parts = list(vars(value).values())
        return sum(_bytes_of(part, seen) for part in parts)
    if place in seen:
        return 0
    seen.add(place)
    return int(n_bytes)


def _file_bytes(name: str) -> int:
    """Of the weights in a folder; 0 for a hub name, whose size is known once it is here."""
    folder = Path(name)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _since(started_s: float) -> float:
    return round(time.monotonic() - started_s, 3)
