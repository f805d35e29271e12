import numpy as np
import pytest

from backend import errors
from backend.formats import messages

REQUESTS = (
    messages.ActivationsRequest(
        id="a", reply_to="r", deadline_at=1.5, model="m", versions={"": "v", "1-x": "w"},
        source="1-x", index=7, texts=("naïve\0 “text”\n", ""),
        is_leading_special_dropped=True,
    ),
    messages.TokensRequest(id="b", reply_to="r", deadline_at=2.0, model="m", text="🜁", is_bos_prepended=False),
    messages.SearchRequest(id="c", reply_to="r", deadline_at=2.0, model="m", sources=("a", "b"), texts=("x",), densest=0.5),
    messages.SteerRequest(
        id="d", reply_to="r", deadline_at=2.0, model="m", steered_chat=(messages.Turn(role="user", content="hi"),),
        pushes=(messages.Push(source="b", index=3, strength=-1.5), messages.Push(hook_point="h", vector=(0.1, 2.0))),
        sampling=messages.Sampling(n_tokens=5, seed=3),
    ),
    messages.ScanRequest(
        id="e", reply_to="r", deadline_at=2.0, model="m", text="x", push=messages.Push(source="b"), token=" a"
    ),
)  # fmt: skip
REPLIES = (
    messages.ActivationsReply(id="a", texts=(messages.TextActivations((" a", "b"), (0.0, float(np.float32(0.1)))),)),
    messages.TokensReply(id="b", ids=(0, 250_000), texts=("<s>", " the")),
    messages.SteerReply(
        id="d",
        is_done=False,
        default=messages.Generated("p", "q", (), False),
        steered=messages.Generated(
            "p", "q", (messages.GeneratedToken("q", -0.5, (messages.Alternative("r", -1.0),)),), True
        ),
    ),
    messages.ErrorReply(id="c", code="invalid_input", error="Text too long: 9 tokens, max is 8"),
)


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_reads_as_it_was_written(request_):
    assert messages.read_request(messages.write_request(request_)) == request_


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_reads_as_it_was_written_to_the_last_bit(reply):
    assert messages.read_reply(messages.write_reply(reply)) == reply


@pytest.mark.parametrize(
    ("packed", "where"),
    [
        (b"", "all of it"),
        (b"{}", "all of it"),
        (b"\xff", "all of it"),
        (b'{"kind": "sing"}', "all of it"),
        (
            b'{"kind": "tokens", "id": "b", "reply_to": "r", "deadline_at": 1, "model": "m", "text": "x"}',
            "tokens.is_bos_prepended",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_and_says_where(packed, where):
    with pytest.raises(errors.InvalidInputError, match=where):
        messages.read_request(packed)


def test_what_a_message_says_beyond_what_is_known_is_ignored():
    """A newer web server may ask an older worker."""
    packed = messages.write_request(REQUESTS[1]).replace(b"{", b'{"novel": 1, ', 1)
    assert messages.read_request(packed) == REQUESTS[1]


def test_arrays_are_written_as_their_numbers_with_no_more_digits_than_needed():
    values = np.array([0.1, 1 / 3], np.float32)
    reply = messages.ActivationsReply(id="a", texts=(messages.TextActivations(("x", "y"), messages.numbers(values)),))
    assert b"[0.1,0.33333334]" in messages.write_reply(reply)
    read = messages.read_reply(messages.write_reply(reply))
    assert np.array_equal(np.array(read.texts[0].values, np.float32), values)


@pytest.mark.parametrize("reply", REPLIES)
def test_who_routes_a_reply_need_not_read_it(reply):
    packed = messages.write_reply(reply)
    assert messages.id_of(packed) == reply.id
    assert messages.is_last(packed) is getattr(reply, "is_done", True)
    assert messages.id_of(b"{}") == messages.id_of(b"") == ""


def test_the_sources_of_a_request_are_each_named_once():
    assert [messages.sources_of(request) for request in REQUESTS] == [("1-x",), (), ("a", "b"), ("b",), ("b",)]
