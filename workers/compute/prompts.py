"""A prompt as the model reads it: a text opened by BOS, or a chat in the words of the model's own template.

Also which of the model's tokens are special, and which of them end what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from backend import errors
from backend.formats.messages import Turn
from workers.compute.language_model import LanguageModel
from workers.compute.text_activations import tokenise

_MARK = "\u2042answer\u2042"
"""Stands for what the assistant says, to find what follows it."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a text or chat comes to."""

    ids: tuple[int, ...]
    text: str
    """Of a chat with the template's control tokens; of a text without the BOS put before it."""


def of_text(model: LanguageModel, text: str) -> Prompt:
    """The text, opened by BOS if the tokenizer has one; raises `InvalidInputError` where nothing is left to go on with."""
    ids = tokenise(text, model.tokenizer, prepend_bos=True)
    if not ids:
        raise errors.InvalidInputError("The prompt is empty.", hint="This model has no BOS token: give some text.")
    return Prompt(tuple(ids), text)


def of_chat(model: LanguageModel, turns: Sequence[Turn]) -> Prompt:
    """The turns in the model's template, the assistant's turn opened.

    Raises:
        UnsupportedError: The model has no chat template.
        InvalidInputError: The template refuses these turns, or there are none.
    """
    if not turns:
        raise errors.InvalidInputError("The chat is empty.", hint="Give at least one turn.")
    text = _rendered(model, turns, is_opened=True)
    return Prompt(tuple(tokenise(text, model.tokenizer, prepend_bos=False)), text)


def special_ids(model: LanguageModel) -> frozenset[int]:
    """BOS, EOS, padding, and every token the tokenizer calls special, such as a chat's control tokens."""
    tokenizer = model.tokenizer
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | {*model.special_tokens, *tokenizer.all_special_ids})


def stop_ids(model: LanguageModel, *, is_chat: bool) -> frozenset[int]:
    """EOS as tokenizer and configurations have it; of a chat also the special token that ends the assistant's turn."""
    found: set[int] = set()
    for owner in (model.tokenizer, model.model.config, model.model.generation_config):
        value = getattr(owner, "eos_token_id", None)
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if is_chat:
        rendered = _rendered(
            model, [Turn(role="user", content="."), Turn(role="assistant", content=_MARK)], is_opened=False
        )
        _, mark, after = rendered.rpartition(_MARK)
        ids = tokenise(after, model.tokenizer, prepend_bos=False) if mark else []
        found.update([token for token in ids if token in special_ids(model)][:1])
    return frozenset(found)


def _rendered(model: LanguageModel, turns: Sequence[Turn], *, is_opened: bool) -> str:
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise errors.UnsupportedError(
            "This model has no chat template.", hint="Give a prompt instead of a chat, or a model made for chats."
        )
    chat = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=is_opened)
    except Exception as error:
        if not type(error).__module__.startswith("jinja2."):  # not imported here: workers know no templates
            raise
        raise errors.InvalidInputError(
            f"The model's chat template refuses this chat: {error}", hint="Check the roles and their order."
        ) from error
    return text
