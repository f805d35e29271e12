"""Every answer against loops over the firings the index was made of."""

import math
from itertools import product
from statistics import correlation

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from backend import errors, storage
from backend.db.tables import Revision
from backend.names import FeatureRef
from backend.services import activation_index, catalog, firings, kept_index
from backend.services.activation_index import ActivationQuery, CofiringQuery, PairQuery
from backend.settings import Settings
from tests import hosted, kept, postings, reference
from tests.database import statements
from tests.hosted import CONTEXT_SIZE, MODEL, SOURCE, TEXTS
from tests.kept import ALWAYS, D_SAE, DEAD, N_TOKENS, SINGLE, ref

FOUND = kept.random()
SEVERAL = sorted(range(3, D_SAE), key=lambda i: -len(FOUND[i]))[4]
FEW = min((i for i in range(3, D_SAE) if len(FOUND[i]) > 3), key=lambda i: len(FOUND[i]))
FEATURES = [DEAD, ALWAYS, SINGLE, SEVERAL, FEW]


@pytest.fixture
def mirror(tmp_path):
    return storage.mirror(Settings(data=tmp_path / "data"))


@pytest.fixture
def made(session, mirror, tmp_path):
    return kept.keep(session, mirror, tmp_path, FOUND)


def rounded(of_one):
    return {token: reference.bfloat16(value) for token, value in of_one.items()}


def ranked(of_one, low=-math.inf, high=math.inf):
    """(value, token), strongest first."""
    found = [(value, token) for token, value in rounded(of_one).items() if low <= value <= high]
    return sorted(found, key=lambda each: (-each[0], each[1]))


def place(row):
    """The token a row points at."""
    return row.context * CONTEXT_SIZE + row.position + 1


# All activations


@pytest.mark.parametrize("index", FEATURES)
def test_all_firings_come_strongest_first_page_by_page(session, mirror, made, index):
    seen, number = [], 1
    while True:
        query = ActivationQuery(page=number, per_page=7)
        page = activation_index.activations(session, mirror, ref(index), query)
        assert page.n_total == len(FOUND[index])
        if not page.rows:
            break
        seen += [(row.value, place(row)) for row in page.rows]
        number += 1
    assert seen == ranked(FOUND[index])
    assert number == 1 + math.ceil(len(seen) / 7)


@pytest.mark.parametrize(("low", "high"), [(None, 2.0), (1.0, 3.0), (2.5, None), (1e6, None), (3.0, 1.0), (None, -1.0)])
def test_a_range_holds_its_ends(session, mirror, made, low, high):
    query = ActivationQuery(low=low, high=high, per_page=200)
    page = activation_index.activations(session, mirror, ref(SEVERAL), query)
    expected = ranked(FOUND[SEVERAL], -math.inf if low is None else low, math.inf if high is None else high)
    assert [(row.value, place(row)) for row in page.rows] == expected
    assert page.n_total == len(expected)
    if expected:
        exactly = ActivationQuery(low=expected[-1][0], high=expected[0][0])
        assert activation_index.activations(session, mirror, ref(SEVERAL), exactly).n_total == page.n_total


def test_a_firing_is_shown_in_its_context_with_all_others(session, mirror, made):
    [row] = activation_index.activations(session, mirror, ref(SEVERAL), ActivationQuery(page=3, per_page=1)).rows
    start = row.context * CONTEXT_SIZE
    within = {t - start - 1: v for t, v in sorted(rounded(FOUND[SEVERAL]).items()) if 0 <= t - start < CONTEXT_SIZE}
    assert row.example.tokens == tuple(TEXTS[i] for i in hosted.tokens_of(row.context)[1:])
    assert dict(zip(row.example.positions, row.example.values, strict=True)) == within
    assert row.value == within[row.position]
    assert (row.example.max_value, within[row.example.max_position]) == (max(within.values()),) * 2


@pytest.mark.parametrize("index", [ALWAYS, SINGLE, SEVERAL])
def test_each_bar_of_the_histogram_leads_to_as_many_firings(session, mirror, made, index):
    page = activation_index.activations(session, mirror, ref(index), ActivationQuery())
    assert sum(page.histogram.counts) == len(FOUND[index])
    assert len(page.histogram.counts) == len(page.bin_ends) <= firings.N_BINS
    assert len(page.histogram.edges) == len(page.histogram.counts) + 1
    for (low, high), count in zip(page.bin_ends, page.histogram.counts, strict=True):
        query = ActivationQuery(low=low, high=high)
        assert activation_index.activations(session, mirror, ref(index), query).n_total == count


def test_a_dead_feature_has_nothing(session, mirror, made):
    page = activation_index.activations(session, mirror, ref(DEAD), ActivationQuery(low=1.0))
    assert (page.n_total, page.rows, page.histogram.counts, page.quantiles) == (0, (), (), ())
    assert activation_index.cofiring(session, mirror, ref(DEAD), CofiringQuery()).rows == ()
    found = activation_index.pair(session, mirror, ref(DEAD), SEVERAL, PairQuery(where="without"))
    assert (found.n_total, found.lift, found.correlation, found.value_correlation) == (0, None, None, None)


@pytest.mark.parametrize("index", [ALWAYS, SINGLE, SEVERAL])
def test_quantiles_are_numpys(session, mirror, made, index):
    shares = (0.0, 0.01, 0.3, 0.5, 0.99, 1.0)
    values = np.array([value for value, _ in ranked(FOUND[index])])
    expected = np.quantile(values, shares, method="inverted_cdf").tolist()
    assert activation_index.quantiles(session, mirror, ref(index), shares) == tuple(zip(shares, expected, strict=True))
    page = activation_index.activations(session, mirror, ref(index), ActivationQuery())
    assert page.quantiles == activation_index.quantiles(session, mirror, ref(index), activation_index.QUANTILES)


# Together


def test_features_that_fire_together_are_counted(session, mirror, made):
    query = CofiringQuery(min_count=1, per_page=200)
    page = activation_index.cofiring(session, mirror, ref(SEVERAL), query)
    a = FOUND[SEVERAL].keys()
    expected = {i: len(a & b.keys()) for i, b in enumerate(FOUND) if i != SEVERAL and a & b.keys()}
    assert {row.feature.index: row.count for row in page.rows} == expected
    assert (page.n_total, page.n_looked_at) == (len(expected), len(a))
    assert [row.count for row in page.rows] == sorted(expected.values(), reverse=True)
    for row in page.rows:
        i = row.feature.index
        b, both = FOUND[i].keys(), expected[i]
        assert (row.feature.n_firings, row.feature.density) == (len(b), pytest.approx(len(b) / N_TOKENS))
        assert row.share == pytest.approx(both / len(a))
        assert row.other_share == pytest.approx(both / len(b))
        assert row.lift == pytest.approx((both / N_TOKENS) / (len(a) / N_TOKENS * len(b) / N_TOKENS))
        if i == ALWAYS:
            assert row.correlation is None
        else:
            assert row.correlation == pytest.approx(correlation(indicator(a), indicator(b)))


def indicator(fires):
    return [float(token in fires) for token in counted()]


def counted():
    return [t for t in range(hosted.N_CONTEXTS * CONTEXT_SIZE) if t % CONTEXT_SIZE]


@pytest.mark.parametrize("sort", ["count", "lift", "correlation"])
def test_cofiring_is_sorted_filtered_and_paged(session, mirror, made, sort):
    rows = []
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        query = CofiringQuery(sort=sort, min_count=3, page=number, per_page=5)
        page = activation_index.cofiring(session, mirror, ref(SEVERAL), query)
        rows += page.rows
    assert page.n_total == len(rows) > 10
    assert min(row.count for row in rows) >= 3
    keys = [-2 if getattr(row, sort) is None else getattr(row, sort) for row in rows]
    assert keys == sorted(keys, reverse=True)
    assert len({row.feature.index for row in rows}) == len(rows)


def test_a_feature_that_fires_often_is_sampled_evenly(session, mirror, made, monkeypatch):
    monkeypatch.setattr(activation_index, "SAMPLED_TOKENS", 100)
    page = activation_index.cofiring(session, mirror, ref(ALWAYS), CofiringQuery(min_count=1, per_page=200))
    tokens = sorted(FOUND[ALWAYS])
    sample = {tokens[k * len(tokens) // 100] for k in range(100)}
    assert page.n_looked_at == 100 < len(tokens) == N_TOKENS
    for row in page.rows:
        seen = len(sample & FOUND[row.feature.index].keys())
        assert row.count == round(seen / 100 * N_TOKENS)
        assert row.lift == pytest.approx(seen / 100 / (row.feature.n_firings / N_TOKENS))
        assert row.correlation is None, "the feature fires on every token"
        assert row.other_share <= 1


@pytest.mark.parametrize(
    ("where", "scope", "other"),
    list(product(["together", "without"], ["token", "context"], [FEW, ALWAYS, DEAD, SEVERAL])),
)
def test_contexts_of_two_features(session, mirror, made, where, scope, other):
    a, b = rounded(FOUND[SEVERAL]), rounded(FOUND[other])
    contexts_b = {t // CONTEXT_SIZE for t in b}
    best = {}
    for t, value in sorted(a.items()):
        is_with = t in b if scope == "token" else t // CONTEXT_SIZE in contexts_b
        if is_with == (where == "together") and value > best.get(t // CONTEXT_SIZE, (-1, 0))[0]:
            best[t // CONTEXT_SIZE] = (value, t)
    expected = sorted(best.values(), key=lambda each: (-each[0], each[1]))
    rows = []
    for number in (1, 2, 3):
        page = activation_index.pair(session, mirror, ref(SEVERAL), other, PairQuery(where, scope, number, 25))
        rows += page.rows
    assert [(row.value, place(row)) for row in rows] == expected
    assert page.n_total == len(expected)
    for row in rows:
        beside = {t % CONTEXT_SIZE - 1: v for t, v in b.items() if t // CONTEXT_SIZE == row.context}
        assert dict(zip(row.other_positions, row.other_values, strict=True)) == beside


def test_numbers_of_two_features(session, mirror, made):
    page = activation_index.pair(session, mirror, ref(SEVERAL), FEW, PairQuery())
    a, b = rounded(FOUND[SEVERAL]), rounded(FOUND[FEW])
    both = a.keys() & b.keys()
    assert both
    contexts = [{t // CONTEXT_SIZE for t in each} for each in (a, b)]
    assert (page.n_tokens_both, page.n_contexts, page.n_contexts_other, page.n_contexts_both) == (
        len(both), len(contexts[0]), len(contexts[1]), len(contexts[0] & contexts[1]),
    )  # fmt: skip
    assert page.lift == pytest.approx(len(both) * N_TOKENS / (len(a) * len(b)))
    assert page.correlation == pytest.approx(correlation(indicator(a), indicator(b)))
    dense = [[each.get(token, 0.0) for token in counted()] for each in (a, b)]
    assert page.value_correlation == pytest.approx(correlation(*dense))
    assert (page.feature.index, page.other.index) == (SEVERAL, FEW)


def test_a_feature_with_itself(session, mirror, made):
    page = activation_index.pair(session, mirror, ref(SEVERAL), SEVERAL, PairQuery())
    assert page.correlation == pytest.approx(1)
    assert page.value_correlation == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_counting_features_of_any_tokens(tmp_path_factory, seed):
    """Tokens in several files, one of them empty; some named never."""
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("index")
    found = kept.random(seed)
    cuts = [0, 1, int(rng.integers(2, 59)), hosted.N_CONTEXTS]
    postings.write(
        folder, postings.of(found, CONTEXT_SIZE), n_contexts=hosted.N_CONTEXTS, context_size=CONTEXT_SIZE,
        ranges=[0, D_SAE], shards=cuts,
    )  # fmt: skip
    token = np.flatnonzero(rng.random(hosted.N_CONTEXTS * CONTEXT_SIZE) < rng.random())
    names = {"tokens": [{"key": f"{c}.tokens", "first": c * CONTEXT_SIZE} for c in cuts[:-1]]}
    mirror = storage.Mirror(storage.store(Settings(blob_url=str(folder))), folder, 0)

    class Shown:
        class view:  # noqa: N801 - stands for one
            d_sae = D_SAE

    index = kept_index.KeptIndex(None, mirror, Shown, names, "")
    counts = index.count_features(token)
    assert counts.tolist() == [sum(t in of_one for t in token.tolist()) for of_one in found]


# What is not there


def test_a_source_without_an_index_says_how_to_get_one(session, mirror):
    hosted.host(session)
    with pytest.raises(errors.NotFoundError, match="No activation index") as refusal:
        activation_index.activations(session, mirror, ref(1), ActivationQuery())
    assert "--keep-index" in refusal.value.hint


@pytest.mark.parametrize("index", [-1, D_SAE])
def test_features_that_are_not_there(session, mirror, made, index):
    for ask in (
        lambda: activation_index.activations(session, mirror, ref(index), ActivationQuery()),
        lambda: activation_index.quantiles(session, mirror, ref(index), [0.5]),
        lambda: activation_index.cofiring(session, mirror, ref(index), CofiringQuery()),
        lambda: activation_index.pair(session, mirror, ref(1), index, PairQuery()),
        lambda: activation_index.pair(session, mirror, ref(index), 1, PairQuery()),
    ):
        with pytest.raises(errors.NotFoundError, match=f"no feature {index}"):
            ask()
    with pytest.raises(errors.NotFoundError, match="No source"):
        activation_index.activations(session, mirror, FeatureRef(MODEL, "none", 0), ActivationQuery())


@pytest.mark.parametrize("query", [{"page": 0}, {"per_page": 0}, {"per_page": 201}, {"page": 10**7}])
def test_pages_that_are_not_there(session, mirror, made, query):
    with pytest.raises(errors.InvalidInputError, match="cannot be shown"):
        activation_index.activations(session, mirror, ref(1), ActivationQuery(**query))


def test_numbers_that_are_none(session, mirror, made):
    with pytest.raises(errors.InvalidInputError, match="are numbers"):
        activation_index.activations(session, mirror, ref(1), ActivationQuery(low=math.nan))
    with pytest.raises(errors.InvalidInputError, match="from 0 to 1"):
        activation_index.quantiles(session, mirror, ref(1), [0.5, 2])


def test_missing_and_damaged_files_are_said_to_be(session, mirror, made):
    found = session.get_one(Revision, made.revision_id).index_files
    path = mirror.path(found["tokens"][0]["key"])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    with pytest.raises(errors.UnavailableError, match="is damaged"):
        activation_index.cofiring(session, mirror, ref(SEVERAL), CofiringQuery())
    path = mirror.path(found["features"][1]["key"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.UnavailableError, match="is damaged"):
        activation_index.activations(session, mirror, ref(SEVERAL), ActivationQuery())
    path.unlink()
    with pytest.raises(errors.UnavailableError, match="is missing"):
        activation_index.activations(session, mirror, ref(SEVERAL), ActivationQuery())


def test_questions_cost_few_statements(session, connection, mirror, made):
    for ask in (
        lambda: activation_index.activations(session, mirror, ref(SEVERAL), ActivationQuery()),
        lambda: activation_index.cofiring(session, mirror, ref(SEVERAL), CofiringQuery()),
        lambda: activation_index.pair(session, mirror, ref(SEVERAL), FEW, PairQuery()),
    ):
        ask()
        with statements(connection) as seen:
            ask()
        assert len(seen) <= 4


def test_a_source_says_how_large_its_index_is(session, mirror, made):
    size = sum(path.stat().st_size for path in (mirror.folder.parent / "blobs" / "indexes").rglob("*.*"))
    assert catalog.source(session, MODEL, SOURCE).index_bytes == size
    session.execute(update(Revision).values(index_files=None, index_bytes=None))
    assert catalog.source(session, MODEL, SOURCE).index_bytes is None
