"""Run by `test_triton_kernels` with TRITON_INTERPRET=1, which must be set before anything imports Triton."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests import reference
from tests.unit.compute import encoding
from workers.compute import bf16_screen, encoder, encoder_cuda, torch_kernels, triton_kernels


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes by programs, not by numbers."""
    monkeypatch.setattr(triton_kernels, "_PAIRS", 1024)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=encoding.problems())
def test_encoding_is_the_definition_to_the_bit(problem: encoding.Problem) -> None:
    architecture, x, state, config = problem
    dictionary = encoding.make(architecture, state, **config)
    made = encoder_cuda.CudaEncoder(dictionary, kernels=triton_kernels)
    expected = reference.encode(dictionary, encoder.normalise(dictionary, torch.from_numpy(x)).numpy())
    encoding.assert_firings(made.encode(torch.from_numpy(x)), expected)


@pytest.mark.parametrize("architecture", encoding.ARCHITECTURES)
def test_kernels_twin_and_cpu_give_the_same_firings(architecture: str) -> None:
    """Several tiles of rows and features, neither a whole one."""
    dictionary, x, counts = encoding.wide(architecture, n=150, d_sae=300)
    found = encoder_cuda.CudaEncoder(dictionary, kernels=triton_kernels).encode(x, counts)
    assert len(found.row) > 3 * len(x)
    for other in (encoder_cuda.CudaEncoder(dictionary), encoder.Encoder(dictionary, screen="fp32")):
        encoding.assert_same(found, other.encode(x, counts))


def test_survivors_without_room_are_counted_and_nothing_is_written_beyond() -> None:
    dictionary, x, _ = encoding.wide("jumprelu", n=200)
    screen = bf16_screen.Bf16Screen(
        dictionary.W_enc.T.contiguous(), dictionary.b_enc, dictionary.threshold, torch.ones(dictionary.d_sae),
        x.double().mean(dim=0),
    )  # fmt: skip
    rows, floor = screen.rows(x), torch.full((200,), -bf16_screen.UNDERFLOW)
    full = bf16_screen.room(200 * dictionary.d_sae, x.device)
    triton_kernels.survivors(rows, screen.columns, floor, full)
    n = int(full.count)
    short = bf16_screen.room(n, x.device)
    short.row[:], short.feature[:] = -1, -1
    view = bf16_screen.Survivors(short.row[: n // 2], short.feature[: n // 2], short.count)
    triton_kernels.survivors(rows, screen.columns, floor, view)
    assert int(short.count) == n
    assert (short.row[: n // 2] >= 0).all()
    assert (short.row[n // 2 :] == -1).all()
    twin = bf16_screen.room(n, x.device)
    torch_kernels.survivors(rows, screen.columns, floor, twin)
    assert int(twin.count) == n


def test_lows_of_groups_are_the_twins() -> None:
    dictionary, x, _ = encoding.wide("topk", n=150)
    screen = bf16_screen.Bf16Screen(
        dictionary.W_enc.T.contiguous(), dictionary.b_enc, dictionary.threshold, dictionary.decoder_norm,
        torch.zeros(x.shape[1]).double(),
    )  # fmt: skip
    rows = screen.rows(x)
    for group in (16, 128):
        found = triton_kernels.group_lows(rows, screen.columns, group)
        torch.testing.assert_close(found, torch_kernels.group_lows(rows, screen.columns, group), rtol=1e-5, atol=1e-4)
