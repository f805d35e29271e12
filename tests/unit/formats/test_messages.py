import numpy as np
import pytest

from backend import errors
from backend.formats import messages

REQUESTS = (
    messages.ActivationsRequest(
        id="a", deadline_at=1.5, model="m", source="1-x", index=7, texts=("naïve\0 “text”\n", ""),
        is_leading_special_dropped=True,
    ),
    messages.TokensRequest(id="b", deadline_at=2.0, model="m", text="🜁", is_bos_prepended=False),
)  # fmt: skip
REPLIES = (
    messages.ActivationsReply(texts=(messages.TextActivations((" a", "b"), (0.0, float(np.float32(0.1)))),)),
    messages.TokensReply(ids=(0, 250_000), texts=("<s>", " the")),
    messages.ErrorReply(code="invalid_input", error="Text too long: 9 tokens, max is 8"),
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
        (b'{"kind": "steer"}', "all of it"),
        (b'{"kind": "tokens", "id": "b", "deadline_at": 1, "model": "m", "text": "x"}', "tokens.is_bos_prepended"),
    ],
)
def test_what_cannot_be_read_is_refused_and_says_where(packed, where):
    with pytest.raises(errors.InvalidInputError, match=where):
        messages.read_request(packed)


def test_what_a_message_says_beyond_what_is_known_is_ignored():
    """A newer web server may ask an older worker."""
    packed = messages.write_request(REQUESTS[1]).replace(b"{", b'{"novel": 1, ', 1)
    assert messages.read_request(packed) == REQUESTS[1]
