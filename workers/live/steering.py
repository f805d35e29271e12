"""Texts being generated: each request is two rows of its model's running batch, the steered one and the model as it is.

`start` puts them in, `step` gives every row of every model one more token and tells the callers. A caller that wants to
watch is told at most every `STREAM_S`. What is generated with stays loaded meanwhile.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import redis

from backend import logs
from backend.formats import messages
from backend.formats.messages import Alternative, Generated, GeneratedToken, Reply, Request, SteerRequest
from workers import runtime
from workers.compute import edits, generation, prompts
from workers.compute.generation import Failure, Generation, Token
from workers.compute.language_model import LanguageModel
from workers.compute.prompts import Prompt
from workers.compute.running_rows import Row
from workers.compute.text_stream import TextStream
from workers.live.resident import LoadedModel, LoadedSource, Ready, Residents

_logger = logging.getLogger(__name__)
STREAM_S = 0.05
"""Between two replies to one caller."""
CACHE_SHARE = 0.25
"""Of the memory for models and SAEs, that keys and values may take; one request alone may take more."""


@dataclass(slots=True)
class _Text:
    """One of the two texts of a request."""

    row: Row
    prompt: str
    stream: TextStream
    vocabulary: list[str]
    tokens: list[GeneratedToken] = field(default_factory=list)
    """Since the last reply."""
    is_done: bool = False

    def add(self, token: Token) -> None:
        """The next one; the token a text stops at is not part of it."""
        if token.ended != "stop":
            alternatives = tuple(Alternative(self.vocabulary[i], logprob) for i, logprob in token.alternatives)
            self.tokens.append(GeneratedToken(self.vocabulary[token.id], token.logprob, alternatives))
            self.stream.add(token.id)
        if token.ended is not None:
            self.stream.end()
            self.is_done = True

    def told(self) -> Generated:
        """What the caller has not been told of, once."""
        tokens, self.tokens = tuple(self.tokens), []
        return Generated(self.prompt, self.stream.text, tokens, self.is_done)


@dataclass(slots=True)
class _Run:
    request: SteerRequest
    ready: Ready
    steered: _Text
    default: _Text
    told_at: float = 0.0

    @property
    def is_done(self) -> bool:
        return self.steered.is_done and self.default.is_done

    def reply(self) -> messages.SteerReply:
        """The texts so far."""
        return messages.SteerReply(
            id=self.request.id, steered=self.steered.told(), default=self.default.told(), is_done=self.is_done
        )


class Steering:
    """All that is being generated, of all models."""

    def __init__(
        self,
        residents: Residents,
        answer: Callable[[Request, Reply], None],
        refuse: Callable[[Request, Exception], None],
    ) -> None:
        self._residents, self._answer, self._refuse = residents, answer, refuse
        self._runs: dict[str, _Run] = {}

    @property
    def requests(self) -> list[Request]:
        """Those being answered."""
        return [run.request for run in self._runs.values()]

    def start(self, request: SteerRequest, ready: Ready) -> bool:
        """Begin; False where there is no room beside what runs. Raises `SiteError` for what cannot be generated."""
        model = ready.model.model
        given = _prompts(model, request)
        for prompt in given:
            generation.check_length(model, len(prompt.ids), request.sampling.n_tokens)
        changes = tuple(edits.of_push(model, push, _source(model, ready, push)) for push in request.pushes)
        stop_ids = prompts.stop_ids(model, is_chat=bool(request.steered_chat))
        texts = []
        for number, prompt in enumerate(given):
            row = Row(
                owner=request.id, prompt=prompt.ids, sampling=request.sampling, changes=changes if number == 0 else (),
                are_special_tokens_pushed=request.are_special_tokens_pushed, stop_ids=stop_ids,
            )  # fmt: skip
            stream = TextStream(model.tokenizer, prompt.ids)
            texts.append(_Text(row, prompt.text, stream, ready.model.vocabulary))
        running = _generation(ready.model)
        rows = [text.row for text in texts]
        if running.n_rows and running.n_bytes_with(rows) > CACHE_SHARE * self._residents.budget:
            return False
        running.add(rows)
        self._residents.hold(ready)
        self._runs[request.id] = _Run(request, ready, texts[0], texts[1])
        return True

    def step(self) -> None:
        """One more token of every text."""
        for model, runs in self._by_model():
            try:
                events = _generation(model).step()
            except Exception as error:
                if isinstance(error, redis.RedisError):
                    raise
                model.generation = None  # no row of it is in a state to go on from
                for run in runs:
                    self._fail(run, error)
                continue
            of_row = {text.row: (run, text) for run in runs for text in (run.steered, run.default)}
            for event in events:
                run, text = of_row[event.row]
                if isinstance(event, Failure):
                    if run.request.id in self._runs:
                        self._fail(run, event.error)
                else:
                    text.add(event)
            for run in runs:
                self._tell(run)

    def drop(self, request_ids: Sequence[str]) -> None:
        """Those whose callers have left."""
        for request_id in request_ids:
            run = self._runs.get(request_id)
            if run is not None:
                logs.event(_logger, "live.left", n_rows=2)
                self._end(run)

    def _by_model(self) -> Iterator[tuple[LoadedModel, list[_Run]]]:
        models: dict[int, tuple[LoadedModel, list[_Run]]] = {}
        for run in self._runs.values():
            models.setdefault(id(run.ready.model), (run.ready.model, []))[1].append(run)
        yield from models.values()

    def _tell(self, run: _Run) -> None:
        if run.request.id not in self._runs:
            return
        now = time.monotonic()
        if run.is_done:
            self._answer(run.request, run.reply())
            self._end(run)
        elif run.request.is_streamed and now - run.told_at >= STREAM_S:
            run.told_at = now
            self._answer(run.request, run.reply())

    def _fail(self, run: _Run, error: Exception) -> None:
        self._refuse(run.request, error)
        self._end(run)

    def _end(self, run: _Run) -> None:
        del self._runs[run.request.id]
        if run.ready.model.generation is not None:
            run.ready.model.generation.remove(run.request.id)
        self._residents.release(run.ready)


def _generation(model: LoadedModel) -> Generation:
    """What the model generates with, tried out when first needed."""
    if model.generation is None:
        model.generation = Generation(model.model)
    return model.generation


def _prompts(model: LanguageModel, request: SteerRequest) -> tuple[Prompt, Prompt]:
    """Of the steered text, and of the other."""
    if request.steered_chat or request.default_chat:
        return prompts.of_chat(model, request.steered_chat), prompts.of_chat(model, request.default_chat)
    prompt = prompts.of_text(model, request.prompt)
    return prompt, prompt


def _source(model: LanguageModel, ready: Ready, push: messages.Push) -> edits.Source | None:
    if not push.source:
        return None
    found: LoadedSource = ready.sources[push.source]
    return edits.Source(found.encoder, found.capture, runtime.written_at_hook(model, found.loaded))
