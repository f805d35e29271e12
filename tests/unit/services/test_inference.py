"""The web process's side of live inference: what is kept, and for how much memory. What travels is tested with a worker."""

from dataclasses import replace

from backend.formats import messages
from backend.services.inference import Cache

ASKED = messages.TokensRequest(
    id="a", reply_to="r", deadline_at=1.0, model="m", versions={"": "1"}, text="x", is_bos_prepended=True
)


def test_the_same_question_has_the_same_key_whoever_asks_and_when():
    cache = Cache(1000)
    key = cache.key(ASKED)
    assert key is not None
    assert cache.key(replace(ASKED, id="b", reply_to="s", deadline_at=2.0)) == key
    for other in ({"text": "y"}, {"versions": {"": "2"}}, {"model": "n"}, {"is_bos_prepended": False}):
        assert cache.key(replace(ASKED, **other)) != key


def test_what_is_generated_is_not_kept_nor_anything_without_memory():
    steer = messages.SteerRequest(
        id="a", reply_to="r", deadline_at=1.0, model="m", prompt="x", pushes=(), sampling=messages.Sampling(n_tokens=1)
    )
    assert Cache(1000).key(steer) is None
    assert Cache(0).key(ASKED) is None


def test_what_was_used_longest_ago_goes_first():
    cache = Cache(100)
    for name in (b"a", b"b"):
        cache.put(name, name * 40)
    assert cache.get(b"a") == b"a" * 40
    cache.put(b"c", b"c" * 40)
    assert cache.get(b"b") is None
    cache.put(b"a", b"A" * 60)
    assert (cache.get(b"a"), cache.get(b"c")) == (b"A" * 60, b"c" * 40)
    cache.put(b"d", b"d" * 101)
    assert [cache.get(name) for name in (b"a", b"c", b"d")] == [None] * 3
    cache.put(b"e", b"e" * 100)
    assert cache.get(b"e") is not None, "what is too large leaves nothing behind"
