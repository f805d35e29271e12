"""What is packed is what the slow twin packs, and comes back from the files."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.formats import activation_index as files
from backend.formats import bit_packing
from tests import postings as made
from tests import reference
from workers.compute import index_packing

CONTEXT_SIZE, N_CONTEXTS = 8, 11
N_TOKENS = CONTEXT_SIZE * N_CONTEXTS
LARGEST, SMALLEST = float(np.finfo(np.float32).max), 1.4e-45

values = st.one_of(
    st.floats(0, LARGEST, width=32),
    st.floats(0.5, 20, width=32),
    st.sampled_from([SMALLEST, 1e-40, 1.1754942e-38, 1.1754944e-38, 1.0, 1.00390625, 1.01171875, LARGEST]),
)
feature = st.dictionaries(st.integers(0, N_TOKENS - 1), values, max_size=N_TOKENS)
always_on = dict.fromkeys(range(N_TOKENS), 2.5)
firings = st.lists(st.one_of(feature, st.just(always_on)), min_size=1, max_size=9)


def pack(found: list[dict[int, float]]) -> files.PackedFeatures:
    return index_packing.pack_features(made.of(found, CONTEXT_SIZE), context_size=CONTEXT_SIZE, n_tokens=N_TOKENS)


@settings(deadline=None)
@given(firings)
@example([{}])
@example([{N_TOKENS - 1: 3.0}])
@example([{0: SMALLEST, 1: LARGEST}])
@example([always_on, {}, always_on])
def test_features_are_packed_as_the_slow_twin_packs_them(found):
    packed, at = pack(found), 0
    for i, of_one in enumerate(found):
        upper, lower, width = reference.packed_ascending(sorted(of_one), N_TOKENS)
        halves = [files.nearest(of_one[token]) for token in sorted(of_one)]
        assert [float(files.value_of(np.array([h], np.uint32))[0]) for h in halves] == [
            reference.bfloat16(of_one[token]) for token in sorted(of_one)
        ]
        least = min(halves, default=0)
        value_width = (max(halves, default=0) - least).bit_length()
        expected = upper + lower + reference.packed_fields([h - least for h in halves], value_width)
        assert (packed.low_width[i], packed.value_width[i], packed.lowest[i]) == (width, value_width, least)
        assert (int(packed.size[i]), int(packed.n[i])) == (len(expected), len(of_one))
        assert packed.payload[at : at + len(expected)].tobytes() == expected
        at += len(expected)
    assert at == packed.payload.size


@settings(deadline=None)
@given(firings, st.integers(0, 9))
def test_features_come_back_with_values_as_near_as_stated(tmp_path_factory, found, cut):
    path = tmp_path_factory.mktemp("index") / "a.features"
    cut = min(cut, len(found))
    blocks = [pack(block) for block in (found[:cut], found[cut:]) if block]
    n_bytes = made.write_features(path, blocks, first=100, n_tokens=N_TOKENS)
    assert [each.name for each in path.parent.iterdir()] == ["a.features"]
    assert n_bytes == path.stat().st_size
    file = files.read_features(path)
    assert (file.first, file.n_tokens, file.n.tolist()) == (100, N_TOKENS, [len(of_one) for of_one in found])
    for i, of_one in enumerate(found):
        read = file.firings(100 + i)
        assert read.token.tolist() == sorted(of_one)
        for value, exact in zip(read.value.tolist(), (of_one[t] for t in sorted(of_one)), strict=True):
            assert abs(value - exact) <= max(exact * files.MAX_VALUE_ERROR, 2.0**-134)


@settings(deadline=None)
@given(firings)
@example([{}])
@example([{N_TOKENS - 1: 3.0}])
def test_tokens_come_back_with_their_features(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("index")
    postings = made.of(found, CONTEXT_SIZE)
    shards = [0, 3, 4, N_CONTEXTS]
    names = made.write(
        folder, postings, n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE, ranges=[0, len(found)], shards=shards
    )
    for name, (low, high) in zip(names["tokens"], itertools.pairwise(shards), strict=True):
        file = files.read_tokens(folder / name, is_checked=True)
        assert (file.first_token, file.n_tokens) == (low * CONTEXT_SIZE, (high - low) * CONTEXT_SIZE)
        for token in (np.arange(low * CONTEXT_SIZE, high * CONTEXT_SIZE), np.array([high * CONTEXT_SIZE - 1])):
            features, n = file.features(token)
            expected = [[i for i, of_one in enumerate(found) if t in of_one] for t in token.tolist()]
            assert n.tolist() == [len(each) for each in expected]
            assert features.tolist() == [i for each in expected for i in each]


@pytest.mark.parametrize(("n_features", "context_size"), [(1, 8), (5_000, 32), (70_000, 4)])
def test_tokens_are_the_same_whatever_the_chunk(monkeypatch, n_features, context_size):
    found = made.random(n_features=max(n_features, 3), n_contexts=40, context_size=context_size, l0=6)[:n_features]
    postings = made.of(found, context_size)
    packed = []
    for chunk in (1, 100, 10**6):
        monkeypatch.setattr(index_packing, "CHUNK_TOKENS", chunk)
        tokens = index_packing.pack_tokens(postings, first_context=0, n_contexts=40, context_size=context_size)
        packed.append((tokens.upper.tobytes(), tokens.lower.tobytes()))
    assert packed[0] == packed[1] == packed[2]


def test_an_index_is_small(tmp_path: Path):
    found = made.random(n_features=2_000, n_contexts=64, context_size=32, l0=40)
    postings = made.of(found, 32)
    made.write(tmp_path, postings, n_contexts=64, context_size=32, ranges=[0, 2_000], shards=[0, 64])
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < 5 * postings.value.size


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_values_that_cannot_be_kept_are_refused(value):
    with pytest.raises(ValueError, match="negative or not finite"):
        pack([{1: 2.0, 3: value}])


def test_features_that_follow_each_other_are_packed_apart():
    """A block's bytes do not depend on where the block was cut."""
    found = made.random(n_features=60, n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE, l0=5)
    whole, parts = pack(found), [pack(found[:13]), pack(found[13:])]
    assert whole.payload.tobytes() == b"".join(part.payload.tobytes() for part in parts)


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path):
    def write() -> None:
        with files.FeaturesWriter(tmp_path / "a", first=0, n_tokens=N_TOKENS) as writer:
            writer.add(pack([always_on]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert not list(tmp_path.iterdir())


def test_a_part_is_packed_from_its_first_context_to_its_last():
    found = [{}, {3 * CONTEXT_SIZE + 1: 1.0, 5 * CONTEXT_SIZE: 2.0}]
    first_context, packed = index_packing.pack_part(made.of(found, CONTEXT_SIZE), context_size=CONTEXT_SIZE)
    assert (first_context, packed.offset.size) == (3, 3 * CONTEXT_SIZE + 1)
    assert index_packing.pack_part(made.of([{}, {}], CONTEXT_SIZE), context_size=CONTEXT_SIZE)[1].offset.tolist() == [0]


def damaged(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_is_noticed(tmp_path: Path):
    found = made.random(n_features=30, n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE, l0=5)
    postings = made.of(found, CONTEXT_SIZE)
    given = {"n_contexts": N_CONTEXTS, "context_size": CONTEXT_SIZE, "ranges": [0, 30], "shards": [0, N_CONTEXTS]}

    made.write(tmp_path, postings, **given)
    damaged(tmp_path / "0.features", len(files.MAGIC))  # feature 0 is dead: this is feature 1's
    file = files.read_features(tmp_path / "0.features")
    with pytest.raises(ValueError, match="feature 1 fail their checksum"):
        file.firings(1)
    assert file.firings(2).token.tolist() == list(found[2])

    made.write(tmp_path, postings, **given)
    damaged(tmp_path / "0.features", -60)
    with pytest.raises(ValueError, match=r"directory|cut short|not a features file"):
        files.read_features(tmp_path / "0.features")
    whole = (tmp_path / "0.features").read_bytes()
    for content, words in ((whole[:-3], "cut short"), (b"", "not a features"), (b"x" * 99, "not a features")):
        (tmp_path / "0.features").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            files.read_features(tmp_path / "0.features")

    token_file = tmp_path / "0.tokens"
    damaged(token_file, -bit_packing.PADDING - 2)
    with pytest.raises(ValueError, match="checksum at 'lower'"):
        files.read_tokens(token_file, is_checked=True)


def test_a_tokens_file_that_contradicts_itself_is_noticed(tmp_path: Path):
    found = made.random(n_features=30, n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE, l0=5)
    packed = index_packing.pack_tokens(
        made.of(found, CONTEXT_SIZE), first_context=0, n_contexts=N_CONTEXTS, context_size=CONTEXT_SIZE
    )
    every = np.arange(N_TOKENS)
    files.write_tokens(tmp_path / "few", packed, first_token=0, n_features=30)
    packed.upper[0] ^= 255
    files.write_tokens(tmp_path / "many", packed, first_token=0, n_features=30)
    files.write_tokens(tmp_path / "fewer", packed, first_token=0, n_features=2)
    assert files.read_tokens(tmp_path / "few").features(every)[1].sum() == sum(map(len, found))
    for name in ("many", "fewer"):
        with pytest.raises(ValueError, match="damaged"):
            files.read_tokens(tmp_path / name).features(every)
