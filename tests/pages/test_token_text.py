import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.web import token_text
from tests.pages import dom


@pytest.mark.parametrize(
    ("token", "html"),
    [
        (" brigade", "<i>·</i>brigade"),
        ("a b", "a<i>·</i>b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("\n\t", "<i>↵</i><i>⇥</i>"),
        ("\r\0\x7f", "<i>␍</i><i>␀</i><i>␡</i>"),
        ("", "<i>∅</i>"),
        ("�", "�"),
    ],
)
def test_a_token_on_its_own_has_nothing_invisible(token, html):
    assert str(token_text.isolated(token)) == html


def test_running_text_keeps_spaces_and_stays_on_one_line():
    assert str(token_text.inline("a b\n\tc<")) == "a b<i>↵</i><i>⇥</i>c&lt;"
    assert str(token_text.flowing("a\n\tb\r")) == "a<i>↵</i>\n<i>⇥</i>\tb<i>␍</i>"


def test_signs_without_markup():
    assert token_text.plain(" a\n") == "·a↵"
    assert token_text.plain("") == "∅"


@given(st.text())
def test_running_text_loses_nothing_but_control_characters(text):
    shown = dom.parse(str(token_text.inline(text)))
    kept = "".join(child for child in shown.children if isinstance(child, str))
    assert kept == "".join(c for c in text if c >= " " and c != "\x7f")
    assert len(shown.all("i")) == len(text) - len(kept)


@given(st.text())
def test_every_form_is_safe_to_put_into_a_page(text):
    for form in (token_text.isolated, token_text.inline, token_text.flowing):
        assert {e.tag for e in dom.parse(str(form(text))).walk()} <= {"i"}
