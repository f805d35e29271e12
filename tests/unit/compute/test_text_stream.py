"""Text as tokens come: what was given out is never taken back, and in the end is the tokenizer's own."""

from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers

from tests import tiny
from workers.compute.text_stream import TextStream

SENTENCE = "The naïve café — Zoë’s 🦊 said “hi”.\n\n  Two  spaces."


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("bytes")
    tiny.save_tokenizer(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def sentencepiece() -> object:
    """As Llama's: ▁ for spaces, bytes for what is not in the vocabulary."""
    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), *"▁abcdefghijklmnopqrstuvwxyzTS.,"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> object:
    return request.getfixturevalue(request.param)


def ids_of(tokenizer: object, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]


@pytest.mark.parametrize("n_prompt", [0, 1, 4, 12])
def test_texts_come_whole_character_by_whole_character(tokenizer: object, n_prompt: int) -> None:
    ids = ids_of(tokenizer, SENTENCE)
    assert len(ids) > len(SENTENCE)  # characters of several tokens
    prompt, generated = ids[:n_prompt], ids[n_prompt:]
    stream = TextStream(tokenizer, prompt)
    parts = [stream.add(token) for token in generated]
    assert not any("\ufffd" in part for part in parts)
    assert "" in parts
    assert stream.end() == ""
    assert "".join(parts) == stream.text == SENTENCE[len(SENTENCE) - len(stream.text) :]
    before = tokenizer.decode(prompt)  # type: ignore[attr-defined]
    assert before + stream.text == SENTENCE


def test_a_first_word_after_bos_has_no_space_and_one_after_a_word_has(sentencepiece: object) -> None:
    ids = ids_of(sentencepiece, "so")
    after_bos = TextStream(sentencepiece, [0])
    assert "".join(map(after_bos.add, ids)) == "so"
    after_word = TextStream(sentencepiece, [0, *ids_of(sentencepiece, "and")])
    assert "".join(map(after_word.add, ids)) == " so"


def test_special_tokens_have_no_text_and_take_no_space(sentencepiece: object) -> None:
    stream = TextStream(sentencepiece, [0, *ids_of(sentencepiece, "and")])
    parts = [stream.add(token) for token in [*ids_of(sentencepiece, "so"), 1, *ids_of(sentencepiece, "on")]]
    assert "".join(parts) == " so on"


def test_half_a_character_at_the_end_is_one_replacement(tokenizer: object) -> None:
    ids = ids_of(tokenizer, "ab🦊")[:-1]
    stream = TextStream(tokenizer, [])
    parts = [stream.add(token) for token in ids]
    assert "".join(parts) == "ab"
    assert stream.end() == "\ufffd"
    assert stream.text == "ab\ufffd"


def test_bytes_that_never_make_a_character_do_not_hold_up_what_follows(tokenizer: object) -> None:
    broken = ids_of(tokenizer, "🦊")[-4:-2]
    stream = TextStream(tokenizer, ids_of(tokenizer, "a"))
    parts = [stream.add(token) for token in [*broken, *ids_of(tokenizer, "b")[-1:], *ids_of(tokenizer, "c")[-1:]]]
    assert parts[0] == parts[1] == ""
    assert parts[2].endswith("b")
    assert parts[3] == "c"


def test_a_real_sentencepiece_tokenizer() -> None:
    folder = tiny.SHARED / "models" / "tinystories-260k"
    if not Path(folder).is_dir():
        pytest.skip(f"the shared data is not at {folder}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Once upon a time, Zoë said “hello” to a 🦊.\nThen she ran  home."
    ids = ids_of(tokenizer, text)
    stream = TextStream(tokenizer, [1, *ids[:3]])
    parts = [stream.add(token) for token in ids[3:]]
    assert not any("\ufffd" in part for part in parts)
    assert tokenizer.decode(ids[:3]) + stream.text == text
