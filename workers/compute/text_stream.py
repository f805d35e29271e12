"""The text of generated tokens while they come: whole characters only, and spaces as in the whole text.

A token's text depends on what stands before it: many tokenizers drop the space before a text's first word, and half of a
UTF-8 sequence decodes to a replacement character until the other half comes. So tokens are decoded together with some
before them, and what is new is given out up to the first character that is not complete. Special tokens have no text.
"""

from collections.abc import Sequence
from typing import Any

_CONTEXT = 8
"""Tokens of the prompt that the first ones are decoded with."""
_INCOMPLETE = "\ufffd"


class TextStream:
    """The text after one prompt."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.text = ""
        """All that has been given out."""
        self._context = list(prompt[-_CONTEXT:])
        """Tokens whose text is out."""
        self._n_before = len(self._decoded(self._context))
        """Characters of theirs."""
        self._tokens: list[int] = []
        """Tokens since, the text of some of which may be out."""
        self._n_out = 0
        """Characters of theirs that are out."""

    def add(self, token: int) -> str:
        """What the token adds to the text; empty while it ends inside a character."""
        self._tokens.append(token)
        whole = self._new()
        complete = whole.rstrip(_INCOMPLETE)
        added = self._out(complete)
        if complete == whole and whole:
            self._context, self._tokens, self._n_out = self._tokens, [], 0
            self._n_before = len(self._decoded(self._context))
        return added

    def end(self) -> str:
        """What is left, an incomplete character as U+FFFD. No token may follow."""
        whole = self._new()
        complete = whole.rstrip(_INCOMPLETE)
        return self._out(complete if complete == whole else complete + _INCOMPLETE)

    def _new(self) -> str:
        return self._decoded(self._context + self._tokens)[self._n_before :]

    def _out(self, text: str) -> str:
        added = text[self._n_out :]
        self._n_out = max(self._n_out, len(text))
        self.text += added
        return added

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
