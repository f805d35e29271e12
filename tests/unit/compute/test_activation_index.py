"""A pass over contexts: the same postings however it is cut, threaded, screened or spilled."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import errors
from tests import tiny
from workers.compute import activation_index, encoder, merge, sae
from workers.compute.corpus import Corpus

N_CONTEXTS, SIZE, D_IN = 230, 9, 16
BATCH = activation_index.BATCH_CONTEXTS


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rows = np.random.default_rng(0).integers(1, 50, (N_CONTEXTS, SIZE)).astype(np.uint16)
    rows[5], rows[7, 3:5] = rows[4], 0  # a context twice, and special tokens inside one
    return Corpus(rows, (0,), is_first_masked=True)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[sae.Sae]:
    folder = tmp_path_factory.mktemp("saes")
    cpu = torch.device("cpu")
    return [
        sae.load(tiny.save_sae(folder / kind, architecture=kind, d_sae=d_sae), device=cpu)
        for kind, d_sae in (("jumprelu", 40), ("topk", 24), ("gated", 33))
    ]


def residuals_of(start: int, stop: int) -> list[torch.Tensor]:
    """Fixed residuals by context: three hook points."""
    x = torch.zeros(BATCH, SIZE, D_IN)
    for i, context in enumerate(range(start, stop)):
        x[i] = torch.randn(SIZE, D_IN, generator=torch.Generator().manual_seed(context - (context == 5))) * 2
    return [x, x.flip(-1), 3 * x]


def postings(
    places: list[sae.Sae],
    corpus: Corpus,
    cuts: list[int],
    *,
    n_threads: int = 1,
    max_firings: int = 1 << 20,
    screen: encoder.ScreenName = "fp32",
) -> list[activation_index.Postings]:
    """Each place's postings of the whole corpus, from shards that start at `cuts`."""
    encoders = [encoder.Encoder(place, screen=screen) for place in places]
    parts: list[list[activation_index.Postings]] = [[] for _ in places]
    for first, stop in zip(cuts, [*cuts[1:], N_CONTEXTS], strict=True):
        for i, part in activation_index.index_residuals(
            residuals_of, encoders, corpus, first_context=first, n_contexts=stop - first,
            n_threads=n_threads, max_firings=lambda: max_firings,
        ):  # fmt: skip
            parts[i].append(part)
    return [merge.join(part) for part in parts]


def same(a: activation_index.Postings, b: activation_index.Postings) -> bool:
    columns = ("offset", "context", "position", "value")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)


def test_postings_are_the_encoder_s_firings_that_count(places: list[sae.Sae], corpus: Corpus) -> None:
    mask = corpus.mask(0, N_CONTEXTS)
    for i, found in enumerate(postings(places, corpus, [0])):
        expected = []
        made = encoder.Encoder(places[i], screen="fp32")
        for start, stop in activation_index.batches(0, N_CONTEXTS):
            firings = made.encode(residuals_of(start, stop)[i].flatten(0, 1))
            for row, feature, value in zip(firings.row, firings.feature, firings.value, strict=True):
                context, position = start + int(row) // SIZE, int(row) % SIZE
                if context < stop and mask[context, position]:
                    expected.append((int(feature), context, position, float(value)))
        expected.sort()
        features = np.repeat(np.arange(found.n_features), np.diff(found.offset)).tolist()
        columns = (features, found.context.tolist(), found.position.tolist(), found.value.tolist())
        assert list(zip(*columns, strict=True)) == expected
        assert len(expected) > 1000


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.sets(st.integers(1, (N_CONTEXTS - 1) // BATCH), max_size=6),
    n_threads=st.integers(1, 4),
    max_firings=st.sampled_from([1, 700, 5000, 1 << 20]),
    screen=st.sampled_from(["fp32", "int8"]),
)
def test_cuts_threads_spills_and_screens_change_nothing(
    places: list[sae.Sae],
    corpus: Corpus,
    cuts: set[int],
    n_threads: int,
    max_firings: int,
    screen: encoder.ScreenName,
) -> None:
    whole = postings(places, corpus, [0])
    starts = [0, *(BATCH * cut for cut in sorted(cuts))]
    cut = postings(places, corpus, starts, n_threads=n_threads, max_firings=max_firings, screen=screen)
    for a, b in zip(whole, cut, strict=True):
        assert same(a, b)


def test_firings_beyond_the_limit_come_in_parts(places: list[sae.Sae], corpus: Corpus) -> None:
    encoders = [encoder.Encoder(place, screen="fp32") for place in places]

    def sizes(limit: int) -> list[int]:
        parts = activation_index.index_residuals(
            residuals_of, encoders, corpus, first_context=0, n_contexts=N_CONTEXTS, max_firings=lambda: limit
        )
        return [len(part.value) for i, part in parts if i == 0]

    assert len(sizes(1 << 30)) == 1
    assert len(sizes(1)) == len(activation_index.batches(0, N_CONTEXTS))
    assert sum(sizes(1)) == sum(sizes(1 << 30))


def test_large_residuals_are_finite_though_their_sum_is_not() -> None:
    activation_index.check_finite(torch.full((4, 8), 3e38), 0, 4)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_residuals_that_are_not_finite_stop_the_pass_and_say_where(
    places: list[sae.Sae], corpus: Corpus, n_threads: int
) -> None:
    def broken(start: int, stop: int) -> list[torch.Tensor]:
        x = residuals_of(start, stop)
        if start == 2 * BATCH:
            x[1][3, 4, 5] = float("inf")
        return x

    with pytest.raises(errors.InvalidInputError, match="not finite in contexts 64 to 95"):
        run(broken, places, corpus, n_threads)


def run(residuals: Callable[[int, int], list[torch.Tensor]], places: list[sae.Sae], corpus: Corpus, n: int) -> None:
    encoders = [encoder.Encoder(place, screen="fp32") for place in places]
    for _ in activation_index.index_residuals(
        residuals, encoders, corpus, first_context=0, n_contexts=N_CONTEXTS, n_threads=n
    ):
        pass


def test_a_shard_s_file_reads_back_and_damage_is_noticed(places: list[sae.Sae], corpus: Corpus, tmp_path: Path) -> None:
    found = postings(places, corpus, [0])[0]
    path = tmp_path / "part"
    found.write(path, {"first_context": 0})
    assert same(found, activation_index.read(path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"."):
        activation_index.read(path)
