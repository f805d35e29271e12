"""Drawing tokens: against plain loops, against the distribution, and the GPU's twin against the compiled loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import errors
from backend.formats.messages import Sampling
from workers.compute import sampling, sampling_device, sampling_kernels
from workers.compute.sampling import Choices, Drawn

N, VOCAB = 6, 300
WORD = (1 << 64) - 1


def logits_of(n: int = N, vocab: int = VOCAB, *, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def draw(logits: torch.Tensor, *samplings: Sampling, step: int = 0, generated: np.ndarray | None = None) -> Drawn:
    n = len(logits)
    chosen = Choices.of(list(samplings) * (n // len(samplings)))
    before = np.full((n, 0), -1, np.int64) if generated is None else generated
    return sampling.draw(logits, chosen, np.full(n, step), before)


def split_mix(state: int) -> int:
    """SplitMix64's output for a state that has been advanced."""
    z = state & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def uniform(seed: int, step: int, token: int) -> float:
    gamma = 0x9E3779B97F4A7C15
    key = split_mix(split_mix(seed + gamma) + (step + 1) * gamma)
    return ((split_mix(key + (token + 1) * gamma) >> 12) + 0.5) * 2.0**-52


def may_be_drawn(logits: list[float], setting: Sampling, step: int, generated: list[int]) -> set[int]:
    """The definition, one token after the other; several tokens where fp32 cannot tell which."""
    x = [value - setting.frequency_penalty * generated.count(i) for i, value in enumerate(logits)]
    if setting.temperature == 0:
        return {i for i in range(len(x)) if x[i] >= max(x) - 1e-5}
    weights = [math.exp((value - max(x)) / setting.temperature) for value in x]
    times = [-math.log1p(-uniform(setting.seed, step, i)) / weight for i, weight in enumerate(weights)]
    needed, reached = setting.top_p * sum(weights), 0.0
    surely, perhaps = set(), set()
    for i in sorted(range(len(x)), key=lambda i: (-weights[i], i)):
        if reached < needed * (1 + 1e-5) or setting.top_p == 1:
            perhaps.add(i)
        if reached < needed * (1 - 1e-5) or setting.top_p == 1:
            surely.add(i)
        reached += weights[i]
    first = min(times[i] for i in surely)
    return {i for i in perhaps if times[i] <= first * (1 + 1e-4)}


def test_the_random_words_are_split_mixs() -> None:
    """The first outputs for the seed 1234567, as other implementations have them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    gamma = sampling_kernels.GAMMA
    assert [split_mix(1234567 + (i + 1) * gamma) for i in range(3)] == known
    words = np.array([1234567 + (i + 1) * gamma & WORD for i in range(3)], np.uint64)
    assert sampling._mixed_words(words).tolist() == known


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(-(2**31), 2**64), step=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 1e-6]), penalty=st.sampled_from([0.0, 0.7, -2.0]),
    spread=st.sampled_from([0.0, 0.5, 4.0]), data=st.data(),
)  # fmt: skip
def test_a_draw_is_the_definition(
    seed: int, step: int, temperature: float, top_p: float, penalty: float, spread: float, data: st.DataObject
) -> None:
    n_before = data.draw(st.integers(0, 5))
    before = [data.draw(st.integers(0, 3)) for _ in range(n_before)]
    logits = logits_of(1, 40, seed=seed % 1000, spread=spread)
    setting = Sampling(n_tokens=1, temperature=temperature, top_p=top_p, frequency_penalty=penalty, seed=seed)
    drawn = draw(logits, setting, step=step, generated=np.array([[*before, -1, -1]]))
    assert drawn.token[0] in may_be_drawn(logits[0].tolist(), setting, step, before)


def test_draws_follow_the_distribution() -> None:
    n = 40_000
    logits = logits_of(1, 12, spread=1.5)
    chosen = Choices.of([Sampling(n_tokens=1, temperature=0.8, seed=5)] * n)
    drawn = sampling.draw(logits.repeat(n, 1), chosen, np.arange(n), np.zeros((n, 0), np.int64))
    expected = torch.softmax(logits[0].double() / 0.8, dim=0).numpy()
    found = np.bincount(drawn.token, minlength=12) / n
    assert np.abs(found - expected).max() < 4 * math.sqrt(0.25 / n)


def test_a_draw_depends_on_seed_and_step_and_on_nothing_beside_it() -> None:
    logits = logits_of()
    ones = [Sampling(n_tokens=1, seed=i, temperature=0.5 + i / 5, top_p=1 - i / 10) for i in range(N)]
    together = draw(logits, *ones, step=3)
    for i, one in enumerate(ones):
        assert draw(logits[i : i + 1], one, step=3).token[0] == together.token[i]
    same = logits[:1].repeat(200, 1)
    by_seed = draw(same, *(Sampling(n_tokens=1, seed=i) for i in range(200))).token
    assert len(set(by_seed.tolist())) > 10
    steps = sampling.draw(same, Choices.of([Sampling(n_tokens=1)] * 200), np.arange(200), np.zeros((200, 0), np.int64))
    assert len(set(steps.token.tolist())) > 10


def test_rows_with_one_seed_draw_the_same_token_but_where_their_distributions_differ() -> None:
    """The chance that they differ is at most 2 d / (1 + d), d the distance in total variation."""
    n = 5000
    logits = logits_of(1, 50)
    other = logits + logits_of(1, 50, seed=1, spread=0.02)
    distance = (torch.softmax(logits, -1) - torch.softmax(other, -1)).abs().sum().item() / 2
    chosen = Choices.of([Sampling(n_tokens=1)] * n)
    nothing = np.zeros((n, 0), np.int64)
    a, b = (sampling.draw(each.repeat(n, 1), chosen, np.arange(n), nothing).token for each in (logits, other))
    assert 0 < (a != b).mean() < 2 * distance / (1 + distance) + 4 * math.sqrt(distance / n)


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.zeros(1, 9)
    logits[0, [3, 5, 7]] = 1.0
    drawn = draw(logits, Sampling(n_tokens=1, temperature=0, n_alternatives=5))
    assert drawn.token.tolist() == [3]
    assert drawn.alternatives.tolist() == [[3, 5, 7, 0, 1]]
    narrow = [draw(logits, Sampling(n_tokens=1, top_p=0.2, seed=seed)).token[0] for seed in range(50)]
    assert set(narrow) == {3, 5}  # e / (3 e + 6) is less than a fifth, so the second is needed too


def test_logprobs_are_the_models_own_whatever_the_settings() -> None:
    logits = logits_of()
    expected = torch.log_softmax(logits.double(), dim=-1).numpy()
    one = Sampling(n_tokens=1, temperature=2.0, top_p=0.4, frequency_penalty=3.0, n_alternatives=4)
    drawn = draw(logits, one, generated=np.arange(N)[:, None])
    np.testing.assert_allclose(drawn.logprob, expected[np.arange(N), drawn.token], rtol=1e-5)
    best = np.argsort(-expected, axis=1, kind="stable")[:, :4]
    assert drawn.alternatives.tolist() == best.tolist()
    np.testing.assert_allclose(drawn.alternative_logprobs, np.take_along_axis(expected, best, axis=1), rtol=1e-5)


def test_a_token_is_penalised_for_each_time_it_was_generated() -> None:
    logits = torch.zeros(1, 5)
    logits[0] = torch.tensor([3.0, 2.2, 1.9, 0.0, 0.0])
    one = Sampling(n_tokens=1, temperature=0, frequency_penalty=0.5)
    tokens: list[int] = []
    for _ in range(6):
        tokens.append(int(draw(logits, one, generated=np.array([tokens], np.int64).reshape(1, -1)).token[0]))
    assert tokens == [0, 0, 1, 0, 2, 1]  # 3, 2.5, 2.2, 2, 1.9, 1.7
    assert draw(logits, one).token[0] == 0


def test_rows_drawn_and_rows_that_take_the_likeliest_may_be_together() -> None:
    logits = logits_of()
    mixed = draw(logits, Sampling(n_tokens=1, temperature=0), Sampling(n_tokens=1, temperature=1.5, seed=2))
    greedy = draw(logits, Sampling(n_tokens=1, temperature=0))
    hot = draw(logits, Sampling(n_tokens=1, temperature=1.5, seed=2))
    assert mixed.token[::2].tolist() == greedy.token[::2].tolist() == logits.argmax(-1)[::2].tolist()
    assert mixed.token[1::2].tolist() == hot.token[1::2].tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e6])
def test_extreme_temperatures(temperature: float) -> None:
    drawn = draw(logits_of(), Sampling(n_tokens=1, temperature=temperature))
    assert drawn.is_finite.all()
    if temperature < 1:
        assert drawn.token.tolist() == logits_of().argmax(-1).tolist()


def test_a_row_that_is_not_finite_is_told_and_touches_no_other() -> None:
    logits = logits_of()
    one = Sampling(n_tokens=1, top_p=0.7, n_alternatives=3, frequency_penalty=1.0)
    before = np.zeros((N, 1), np.int64)
    clean = draw(logits, one, generated=before)
    logits[1, 5], logits[3] = math.nan, math.inf
    logits[4, 7:] = -math.inf  # tokens a model never gives are no fault
    drawn = draw(logits, one, generated=before)
    assert drawn.is_finite.tolist() == [True, False, True, False, True, True]
    for i in (0, 2, 5):
        assert drawn.token[i] == clean.token[i]
        assert drawn.logprob[i] == clean.logprob[i]
    assert drawn.token[4] < 7


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5), vocab=st.integers(1, 90), k=st.integers(1, 90), seed=st.integers(0, 10_000),
    has_ties=st.booleans(), top_p=st.floats(1e-6, 0.999),
)  # fmt: skip
def test_the_gpus_twins_agree_with_the_compiled_loops(
    n: int, vocab: int, k: int, seed: int, *, has_ties: bool, top_p: float
) -> None:
    x = logits_of(n, vocab, seed=seed)
    x = x.round() if has_ties else x
    k = min(k, vocab)
    ids, found = sampling._largest(x, k)
    twin_ids, twin_found = sampling_device.largest(x, k)
    assert ids.tolist() == twin_ids.tolist()
    assert found.tolist() == twin_found.tolist()
    weights = (x - x.amax(dim=-1, keepdim=True)).exp()
    keys = np.arange(n, dtype=np.uint64) // np.uint64(2)
    expected = sampling_device.first_to_arrive(weights, keys)
    assert sampling_kernels.first_to_arrive(weights.numpy(), keys).tolist() == expected.tolist()
    shares = np.full(n, top_p)
    for kept in (sampling._nucleus(weights.clone(), shares), sampling_device.nucleus(weights, shares)):
        for row, of_row in zip(weights.double(), kept.double(), strict=True):
            assert_is_nucleus(row, of_row, top_p)


def assert_is_nucleus(weights: torch.Tensor, kept: torch.Tensor, top_p: float) -> None:
    """The likeliest come first, and the share is reached by the last of them."""
    order = weights.argsort(descending=True, stable=True)
    n_kept = int((kept > 0).sum())
    assert torch.equal(kept[order[:n_kept]], weights[order[:n_kept]])
    share = weights[order].cumsum(0) / weights.sum()
    assert share[n_kept - 1] >= top_p - 1e-12
    assert n_kept == 1 or share[n_kept - 2] < top_p + 1e-12


def test_settings_that_mean_nothing_are_told_all_at_once() -> None:
    sampling.check(Sampling(n_tokens=1, temperature=0, top_p=1, n_alternatives=9), d_vocab=9)
    wrong = Sampling(n_tokens=0, temperature=-1, top_p=0, frequency_penalty=math.inf, n_alternatives=10)
    with pytest.raises(errors.InvalidInputError) as caught:
        sampling.check(wrong, d_vocab=9)
    for name in ("n_tokens", "temperature", "top_p", "frequency_penalty", "n_alternatives"):
        assert name in caught.value.message
    with pytest.raises(errors.InvalidInputError, match="temperature is nan"):
        sampling.check(Sampling(n_tokens=1, temperature=math.nan), d_vocab=9)
