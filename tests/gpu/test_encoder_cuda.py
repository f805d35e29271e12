"""The same bits on a GPU as on a CPU: kernels, their twins, shapes of real SAEs, and whole shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests import reference, tiny
from tests.unit.compute import encoding
from tests.unit.compute.test_activation_index_cuda import assert_same, joined
from workers.compute import (
    activation_index,
    activation_index_cuda,
    corpus,
    encoder,
    encoder_cuda,
    encoders,
    language_model,
    merge,
    sae,
    torch_kernels,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_gpu_gets_the_encoder_and_the_kernels_written_for_it() -> None:
    made = encoders.of(encoding.wide("jumprelu")[0].to(CUDA))
    assert isinstance(made, encoder_cuda.CudaEncoder)
    assert made._kernels.__name__ == "workers.compute.triton_kernels"  # type: ignore[attr-defined]


@settings(max_examples=300, deadline=None)
@given(problem=encoding.problems())
def test_encoding_is_the_definition_to_the_bit(problem: encoding.Problem) -> None:
    architecture, x, state, config = problem
    dictionary = encoding.make(architecture, state, **config)
    expected = reference.encode(dictionary, encoder.normalise(dictionary, torch.from_numpy(x)).numpy())
    found = encoder_cuda.CudaEncoder(dictionary.to(CUDA)).encode(torch.from_numpy(x).to(CUDA))
    encoding.assert_firings(found, expected)


@pytest.mark.parametrize("architecture", encoding.ARCHITECTURES)
@pytest.mark.parametrize(("n", "d", "d_sae"), [(700, 192, 1100), (3000, 768, 24_576), (1000, 2304, 65_536)])
def test_kernels_twin_and_cpu_give_the_same_firings(architecture: str, n: int, d: int, d_sae: int) -> None:
    dictionary, x, counts = encoding.wide(architecture, n=n, d=d, d_sae=d_sae)
    if architecture == "standard":
        dictionary.b_enc.sub_(3)
    expected = encoder.Encoder(dictionary, screen="fp32").encode(x, counts)
    assert len(expected.row) > 3 * n
    there = dictionary.to(CUDA)
    for kernels in (None, torch_kernels):
        found = encoder_cuda.CudaEncoder(there, kernels=kernels).encode(x.to(CUDA), counts)
        encoding.assert_same(found, expected)


def test_where_survivors_have_no_room_rows_are_taken_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary, x, _ = encoding.wide("standard")
    dictionary.b_enc[:] = 30
    monkeypatch.setattr(encoder_cuda, "MAX_SURVIVORS", 1)
    made = encoder_cuda.CudaEncoder(dictionary.to(CUDA))
    found = made.encode(x.to(CUDA))
    assert made._plan is not None
    assert made._plan.n_rows == 1
    encoding.assert_same(found, encoder.Encoder(dictionary, screen="fp32").encode(x))


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_shards_on_a_gpu_are_the_cpus_on_the_same_residuals(architecture: str) -> None:
    """One shard, and two in small parts; residuals come from the GPU's memory."""
    dictionary, _, _ = encoding.wide(architecture)
    rng = np.random.default_rng(2)
    rows = corpus.Corpus(rng.integers(0, 50, (300, 32), np.int32), (0,), is_first_masked=True)
    table = torch.from_numpy(rng.standard_normal((512, 32, 192)).astype(np.float32))
    expected = joined(
        activation_index.index_residuals(
            lambda start, stop: [table[start : start + 64]], [encoder.Encoder(dictionary)], rows,
            first_context=0, n_contexts=300, batch_contexts=64,
        )
    )  # fmt: skip
    made = encoder_cuda.CudaEncoder(dictionary.to(CUDA))
    for n_shards, max_firings in ((1, None), (2, lambda: 5000)):
        shards = [
            joined(
                activation_index_cuda.index_residuals(
                    lambda start, stop: [table[start : start + 64].to(CUDA)], [made], rows,
                    first_context=first, n_contexts=n, batch_contexts=64, max_firings=max_firings,
                )
            )[0]
            for first, n in activation_index.shards(300, n_shards=n_shards, size=64)
        ]  # fmt: skip
        assert_same(merge.join(shards), expected[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tiny_model_on_a_gpu(tmp_path: Path, dtype: torch.dtype) -> None:
    """The whole way; two shards are one. Against the CPU's encoder on the residuals that the GPU's model made."""
    model = language_model.load(str(tiny.save_model(tmp_path / "model")), device=CUDA, dtype=dtype)
    folder = tiny.save_sae(tmp_path / "sae")
    here, there = sae.load(folder, device=CPU), sae.load(folder, device=CUDA)
    capture = language_model.resolve(model, here.description.hook_point)
    rows = corpus.Corpus(np.random.default_rng(4).integers(1, 250, (200, 32), np.int32), (0,), is_first_masked=True)
    made = encoder_cuda.CudaEncoder(there)
    found = [
        merge.join(
            [
                joined(
                    activation_index_cuda.index_shard(
                        model, [(capture, made)], rows, first_context=first, n_contexts=n, batch_contexts=64
                    )
                )[0]
                for first, n in activation_index.shards(200, n_shards=n_shards, size=64)
            ]
        )
        for n_shards in (1, 2)
    ]
    assert_same(found[0], found[1])

    def residuals_of(start: int, stop: int) -> list[torch.Tensor]:
        batch = torch.zeros(64, 32, dtype=torch.int64)
        batch[: stop - start] = torch.from_numpy(rows.rows[start:stop].astype(np.int64))
        return [language_model.residuals(model, capture, batch).cpu()]

    expected = joined(
        activation_index.index_residuals(
            residuals_of, [encoder.Encoder(here)], rows, first_context=0, n_contexts=200, batch_contexts=64
        )
    )
    assert len(expected[0].value) > 1000
    assert_same(found[0], expected[0])
