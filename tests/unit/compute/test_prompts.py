"""Prompts, chats and special tokens, on tokenizers with templates and without."""

import dataclasses
from pathlib import Path

import pytest
import transformers

from backend import errors
from backend.formats.messages import Turn
from tests import tiny
from tests.unit.compute.test_language_model import load
from workers.compute import language_model, prompts

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no such role') }}{% endif %}"
    "<turn>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> language_model.LanguageModel:
    return load(tiny.save_model(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def chatty(
    plain: language_model.LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> language_model.LanguageModel:
    folder = tmp_path_factory.mktemp("chatty")
    tiny.save_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    tokenizer.chat_template = TEMPLATE
    return dataclasses.replace(plain, tokenizer=tokenizer)


def test_a_text_is_opened_by_bos_once(plain: language_model.LanguageModel) -> None:
    ids = prompts.of_text(plain, "the thin").ids
    assert ids[0] == 0
    assert ids[1:].count(0) == 0
    assert plain.tokenizer.decode(ids[1:]) == "the thin"
    assert prompts.of_text(plain, tiny.SEPARATOR + "the thin").ids == ids
    assert prompts.of_text(plain, "").ids == (0,)
    assert prompts.of_text(plain, "the thin").text == "the thin"


def test_an_empty_text_needs_a_bos(plain: language_model.LanguageModel, tmp_path: Path) -> None:
    tiny.save_tokenizer(tmp_path)
    bare = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bare.bos_token = None
    with pytest.raises(errors.InvalidInputError, match="prompt is empty"):
        prompts.of_text(dataclasses.replace(plain, tokenizer=bare), "")


def test_a_chat_is_in_the_templates_words_and_the_assistants_turn_is_open(
    chatty: language_model.LanguageModel,
) -> None:
    prompt = prompts.of_chat(chatty, [Turn(role="user", content="the a"), Turn(role="assistant", content="in")])
    expected = f"{tiny.SEPARATOR}<turn>user\nthe a<end>\n<turn>assistant\nin<end>\n<turn>assistant\n"
    assert prompt.text == expected
    assert chatty.tokenizer.decode(prompt.ids) == expected
    turn, end = chatty.tokenizer.convert_tokens_to_ids(["<turn>", "<end>"])
    assert [prompt.ids.count(token) for token in (0, turn, end)] == [1, 3, 2]


def test_control_tokens_are_special_and_the_end_of_the_turn_stops(chatty: language_model.LanguageModel) -> None:
    turn, end = chatty.tokenizer.convert_tokens_to_ids(["<turn>", "<end>"])
    assert prompts.special_ids(chatty) == {0, turn, end}
    assert prompts.stop_ids(chatty, is_chat=False) == {0}
    assert prompts.stop_ids(chatty, is_chat=True) == {0, end}


def test_a_model_without_a_template_has_no_chats(plain: language_model.LanguageModel) -> None:
    with pytest.raises(errors.UnsupportedError, match="no chat template"):
        prompts.of_chat(plain, [Turn(role="user", content="hello")])


def test_turns_the_template_does_not_take_are_refused_in_its_words(chatty: language_model.LanguageModel) -> None:
    with pytest.raises(errors.InvalidInputError, match="no such role"):
        prompts.of_chat(chatty, [Turn(role="oracle", content="hello")])
    with pytest.raises(errors.InvalidInputError, match="chat is empty"):
        prompts.of_chat(chatty, [])


def test_what_is_not_the_templates_fault_is_not_called_so(
    chatty: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatty.tokenizer, "apply_chat_template", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        prompts.of_chat(chatty, [Turn(role="user", content="hello")])


def test_eos_of_the_generation_configuration_stops_too(
    plain: language_model.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain.model.generation_config, "eos_token_id", [7, 8])
    assert prompts.stop_ids(plain, is_chat=False) == {0, 7, 8}
