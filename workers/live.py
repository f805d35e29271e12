"""The live worker's process: `python -m workers.live`. Answers what readers ask of a feature or a model, at once.

1. Take all requests that have queued; drop those whose callers have gone.
2. Group them by source; load its model and SAE unless they are resident (the last few used are).
3. Run a group's texts together, shortest first, in batches of bounded size; answer each request under its own key.
A thread reports that the worker lives, also while it loads. Redis and Postgres may restart: it waits and goes on.
On SIGTERM it answers what it has taken and ends. It never does dashboard shards, so nobody waits behind one.
"""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import redis
import torch
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from backend import errors, logs, storage, weights
from backend.db.session import create_engine, session_factory, transaction
from backend.formats import messages
from backend.formats.messages import ActivationsRequest, Reply, Request, TokensRequest
from backend.formats.sae_files import Declared
from backend.services import inference, jobs
from backend.settings import Settings
from workers import runtime
from workers.compute import encoders, language_model, text_activations

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
N_RESIDENT = 4
"""Models, and SAEs, kept loaded: those used last."""
N_TAKEN = 256
"""Requests taken at a time."""
BATCH_TOKENS = 8192
"""Padded tokens of one forward pass; a text longer than that goes alone."""
WAIT_S = 1.0
LONGEST_PAUSE_S = 5.0
"""Between attempts while Redis does not answer."""


class Lru(Generic[_T]):
    """The things used last, by key; the one used longest ago goes first, before the next is made."""

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._kept: OrderedDict[Hashable, _T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """What is kept under `key`, or made now."""
        if key not in self._kept:
            while len(self._kept) >= self._n_most:
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and the texts of its tokens."""

    model: language_model.LanguageModel
    vocabulary: list[str]


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A source at its place in a model."""

    model: LoadedModel
    encoder: encoders.AnySource
    capture: language_model.Capture


@dataclass(frozen=True, slots=True)
class Text:
    """One text of one request."""

    request: ActivationsRequest
    number: int
    ids: list[int]


class LiveWorker:
    """What the process keeps, and how it answers."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], queue: inference.Queue) -> None:
        self.sessions, self.queue, self.files = sessions, queue, storage.mirror(settings)
        self.cache = weights.cache_of(settings)
        self.device = runtime.pick_device(settings.device)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.doing: str | None = None
        self._models: Lru[LoadedModel] = Lru(N_RESIDENT)
        self._sources: Lru[runtime.LoadedSource] = Lru(N_RESIDENT)

    def run(self, stop: threading.Event) -> None:
        """Answer until told to stop."""
        pause_s = 0.1
        while not stop.is_set():
            try:
                self.answer(inference.take(self.queue, wait_s=WAIT_S, n_most=N_TAKEN))
                pause_s = 0.1
            except (OSError, redis.RedisError) as error:
                logs.event(_logger, "queue.unreachable", error=type(error).__name__)
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def answer(self, packed: list[bytes]) -> None:
        """Answer the requests, those for one source together."""
        groups: dict[tuple[str, str], list[Request]] = {}
        for request in _readable(packed):
            source = request.source if isinstance(request, ActivationsRequest) else ""
            groups.setdefault((request.model, source), []).append(request)
        for (model, source), requests in groups.items():
            started_s = time.monotonic()
            self.doing = f"{model}/{source}".rstrip("/")
            try:
                self._answer_group(requests)
            except Exception as error:
                if isinstance(error, redis.RedisError):
                    raise
                for request in requests:
                    self._refuse(request, error)
            finally:
                self.doing = None
            taken_s = round(time.monotonic() - started_s, 4)
            logs.event(_logger, "live.answered", n_requests=len(requests), duration_s=taken_s)

    def _answer_group(self, requests: list[Request]) -> None:
        """Every request of one source (or, for tokens, of one model); a deadline may have passed while loading."""
        activations = [r for r in requests if isinstance(r, ActivationsRequest) and _is_wanted(r)]
        if activations:
            self._activations(self._source(activations[0].model, activations[0].source), activations)
        for request in requests:
            if isinstance(request, TokensRequest) and _is_wanted(request):
                self._tokens(request)

    def _activations(self, source: LoadedSource, requests: list[ActivationsRequest]) -> None:
        found: dict[str, list[messages.TextActivations | None]] = {}
        texts: list[Text] = []
        for request in requests:
            try:
                tokenised = [_tokenise(source, request, number) for number in range(len(request.texts))]
            except errors.SiteError as error:
                self._refuse(request, error)
            else:
                texts += tokenised
                found[request.id] = [None] * len(tokenised)
        for batch in batches(texts):
            wanted = [text for text in batch if _is_wanted(text.request)]
            for text, values in zip(wanted, _values(source, wanted), strict=True):
                answers = found[text.request.id]
                answers[text.number] = _shown(source, text, values)
                if None not in answers:
                    whole = tuple(answer for answer in answers if answer is not None)
                    self._reply(text.request, messages.ActivationsReply(texts=whole))

    def _tokens(self, request: TokensRequest) -> None:
        with transaction(self.sessions) as session:
            weights = inference.model_weights(session, request.model)
        loaded = self._model(weights, "float32")
        ids = text_activations.tokenise(
            request.text, loaded.model.tokenizer, prepend_bos=request.is_bos_prepended
        )  # fmt: skip
        texts = tuple(loaded.vocabulary[i] for i in ids)
        self._reply(request, messages.TokensReply(ids=tuple(ids), texts=texts))

    def _source(self, model: str, source: str) -> LoadedSource:
        with transaction(self.sessions) as session:
            files = inference.source_files(session, model, source)
        loaded = self._model(files.model_weights, files.dtype)
        folder = str(weights.folder_of(files.sae_weights, self.files))
        sae = runtime.SaeFiles(folder, Declared(**files.declared))
        key = (files.sae_weights, runtime.written_at(folder), sae, files.model_weights, files.hook_point)
        # a few tokens at a time: the fp32 screen needs no second copy of the weights
        found = self._sources.get(
            key, lambda: runtime.source_at(loaded.model, sae, files.hook_point, screen="fp32", cache=self.cache)
        )
        return LoadedSource(loaded, found.encoder, found.capture)

    def _model(self, weights: str, dtype: str) -> LoadedModel:
        def load() -> LoadedModel:
            model = language_model.load(weights, device=self.device, dtype=runtime.DTYPES[dtype])
            return LoadedModel(model, language_model.vocabulary(model))

        return self._models.get((weights, dtype, runtime.written_at(weights)), load)

    def _refuse(self, request: Request, error: Exception) -> None:
        match error:
            case errors.SiteError():
                answer = messages.ErrorReply(code=error.code, error=error.message, hint=error.hint)
            case DBAPIError():
                answer = messages.ErrorReply(code="unavailable", error="The database does not answer.")
            case _:
                _logger.error("live.failed", exc_info=error)
                answer = messages.ErrorReply(code="internal", error="The live worker could not compute this.")
        self._reply(request, answer)

    def _reply(self, request: Request, answer: Reply) -> None:
        inference.reply(self.queue, request.id, answer)


def batches(texts: list[Text]) -> Iterator[list[Text]]:
    """The texts by length, cut where padding to the longest would make a batch too large."""
    batch: list[Text] = []
    for text in sorted(texts, key=lambda text: len(text.ids)):
        if batch and (len(batch) + 1) * len(text.ids) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _readable(packed: list[bytes]) -> Iterator[Request]:
    """The requests whose callers still wait; what cannot be read has no caller to answer to."""
    for each in packed:
        try:
            request = messages.read_request(each)
        except errors.InvalidInputError as error:
            _logger.warning("live.unreadable", extra={"fields": {"error": error.message}})
            continue
        if _is_wanted(request):
            yield request
        else:
            logs.event(_logger, "live.dropped", late_s=round(time.time() - request.deadline_at, 3))


def _is_wanted(request: Request) -> bool:
    return time.time() < request.deadline_at


def _tokenise(source: LoadedSource, request: ActivationsRequest, number: int) -> Text:
    model, description = source.model.model, source.encoder.sae.description
    if request.index >= description.d_sae:
        raise errors.NotFoundError(f"There is no feature {request.index}.", hint=f"It has {description.d_sae}.")
    ids = text_activations.tokenise(request.texts[number], model.tokenizer, prepend_bos=description.prepend_bos)
    if not ids:
        raise errors.InvalidInputError("The text has no tokens.", hint="Give ordinary text.")
    if len(ids) > model.n_context:
        raise errors.InvalidInputError(f"Text too long: {len(ids)} tokens, max is {model.n_context}")
    return Text(request, number, ids)


def _values(source: LoadedSource, texts: list[Text]) -> list[list[float]]:
    if not texts:
        return []
    return text_activations.activations(
        source.model.model, source.capture, source.encoder,
        [text.ids for text in texts], [text.request.index for text in texts],
    )  # fmt: skip


def _shown(source: LoadedSource, text: Text, values: list[float]) -> messages.TextActivations:
    """What the caller sees: without the BOS we put there, and on request without the text's own."""
    model = source.model.model
    special = model.special_tokens
    if not all(map(math.isfinite, values)):
        raise errors.UnsupportedError("The activations are not finite.", hint="Compute the source in float32.")
    start = 0
    if source.encoder.sae.description.prepend_bos and text.ids[:1] == [model.tokenizer.bos_token_id]:
        start = 1
    if text.request.is_leading_special_dropped and start < len(text.ids) and text.ids[start] in special:
        start += 1
    tokens = tuple(source.model.vocabulary[i] for i in text.ids[start:])
    return messages.TextActivations(tokens, tuple(values[start:]))


def _report(worker: LiveWorker, settings: Settings, stop: threading.Event) -> None:
    """Say we live, every few seconds."""
    while True:
        try:
            with transaction(worker.sessions) as session:
                jobs.report_worker(
                    session, worker.name, kind=inference.WORKER_KIND, device=str(worker.device), doing=worker.doing
                )
        except Exception:
            _logger.warning("report.failed", exc_info=True)
        if stop.wait(settings.heartbeat_s):
            return


def main() -> None:
    """Answer until told to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    settings = Settings()
    logs.configure(settings.log_level)
    torch.set_num_threads(settings.threads or 1)
    engine = create_engine(settings.database_url)
    worker = LiveWorker(settings, session_factory(engine), inference.connect(settings))
    reporter = threading.Thread(target=_report, args=(worker, settings, stop), daemon=True)
    reporter.start()
    try:
        worker.run(stop)
    finally:
        stop.set()
        reporter.join(settings.heartbeat_s)
        with transaction(worker.sessions) as session:
            jobs.forget_worker(session, worker.name)
        engine.dispose()


if __name__ == "__main__":
    main()
