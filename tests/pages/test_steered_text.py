import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.formats.messages import GeneratedToken
from backend.web import steered_text

WORDS = st.lists(st.sampled_from("abc"), max_size=12)


def cut(text: str, *tokens: str) -> list[tuple[str, str]]:
    """Each piece and the token it stands for."""
    told = [GeneratedToken(token, -1.0) for token in tokens]
    found = steered_text.pieces(text, told, [False] * len(told))
    return [(piece.text, piece.token.token if piece.token else "") for piece in found]


@pytest.mark.parametrize(
    ("text", "tokens", "pieces"),
    [
        (" a b", (" a", " b"), [(" a", " a"), (" b", " b")]),
        ("aé b", ("a", "\ufffd", "\ufffd", " b"), [("a", "a"), ("é", "\ufffd"), (" b", " b")]),
        ("é", ("\ufffd", "\ufffd"), [("é", "\ufffd")]),
        ("Once a", (" Once", " a"), [("Once", " Once"), (" a", " a")]),
        ("a", ("a", "<|endoftext|>"), [("a", "a")]),
        ("ab", (), [("ab", "")]),
        ("a", ("a", ""), [("a", "a")]),
        ("é far off", ("\ufffd", " far", " off"), [("é", "\ufffd"), (" far", " far"), (" off", " off")]),
        ("one two, one", (" one", " two"), [("one", " one"), (" two", " two"), (", one", "")]),
    ],
)  # fmt: skip
def test_a_text_is_cut_at_its_tokens(text, tokens, pieces):
    assert cut(text, *tokens) == pieces


def test_a_token_that_stands_only_far_away_is_not_taken_from_there():
    far = "x" * 100
    assert cut(f"é{far} the", "\ufffd", " the")[0] == (f"é{far} the", " the")


@given(st.text(), st.lists(st.text(max_size=3)))
def test_nothing_of_a_text_is_lost_whatever_the_tokens_are(text, tokens):
    assert "".join(piece for piece, _ in cut(text, *tokens)) == text


@given(st.lists(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), min_size=1)))
def test_tokens_that_make_up_the_text_are_its_pieces(tokens):
    assert cut("".join(tokens), *tokens) == [(token, token) for token in tokens]


@pytest.mark.parametrize(
    ("a", "b", "own_a", "own_b", "n_same"),
    [
        ("", "", "", "", 0),
        ("abc", "abc", "...", "...", 3),
        ("abc", "abcd", "...", "...x", 3),
        ("axc", "ayc", ".x.", ".x.", 1),
        ("abc", "xyz", "xxx", "xxx", 0),
        ("abcd", "acbd", "..x.", "..x.", 1),
        ("the cat", "the dog", "....xxx", "....xxx", 4),
    ],
)
def test_tokens_are_marked_that_the_other_text_does_not_have(a, b, own_a, own_b, n_same):
    marks_a, marks_b, same = steered_text.differing(a, b)
    assert same == n_same
    left = "".join("x" if own else "." for own in marks_a)
    right = "".join("x" if own else "." for own in marks_b)
    assert (len(left), len(right)) == (len(own_a), len(own_b))
    assert (left.count("x"), right.count("x")) == (own_a.count("x"), own_b.count("x"))


@given(WORDS, WORDS)
def test_what_is_not_marked_is_the_same_in_both_and_as_long_as_can_be(a, b):
    marks_a, marks_b, same = steered_text.differing(a, b)
    kept = [x for x, own in zip(a, marks_a, strict=True) if not own]
    assert kept == [x for x, own in zip(b, marks_b, strict=True) if not own]
    assert kept[:same] == a[:same] == b[:same]
    assert len(kept) == longest(tuple(a), tuple(b))


def longest(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Length of the longest common subsequence, the slow way: of every prefix of each."""
    known: dict[tuple[int, int], int] = {}
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            if i == 0 or j == 0:
                known[i, j] = 0
            elif a[i - 1] == b[j - 1]:
                known[i, j] = known[i - 1, j - 1] + 1
            else:
                known[i, j] = max(known[i - 1, j], known[i, j - 1])
    return known[len(a), len(b)]
