"""From tokens to finished dashboards on disk on one GPU, beside the bare limit: `make bench-gpu`, or with ARGS=--small.

Models and SAEs have the shapes named and random weights, thresholds that give the L0 named on the first batch, and
tokens are random: no network, nothing but this repository. Each shape is run three times: once as a worker runs it
(the figures to compare with the target), once over some batches with the device waited for at every step (the
breakdown, scaled up), and once as bare forward passes and bare bf16 products (the limit).
`--small` runs a toy shape on whatever device there is, to try the program itself, and writes nothing.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers

from backend import names
from backend.formats import dashboards as packed
from backend.formats import sae_files
from tests import tiny
from workers import runtime
from workers.compute import activation_index, activation_index_cuda, corpus, encoder, encoder_cuda, language_model, sae

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu.json"
BREAKDOWN_BATCHES = 8
CALIBRATION_TOKENS = 8192


@dataclass(frozen=True)
class Shape:
    """One workload."""

    name: str
    config: Callable[[], Any]
    block: int
    d_sae: int
    l0: int
    n_contexts: int
    target_s: float
    context_size: int = 128


def gemma() -> Any:
    return transformers.Gemma2Config(
        hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4,
        head_dim=256, vocab_size=256_000, query_pre_attn_scalar=256,
    )  # fmt: skip


def toy() -> Any:
    return transformers.GPT2Config(vocab_size=300, n_positions=32, n_embd=64, n_layer=3, n_head=2)


SHAPES = (
    Shape("gpt2-small, 24,576 features", transformers.GPT2Config, 8, 24_576, 60, 24_576, 15),
    Shape("Gemma 2 2B, 65,536 features", gemma, 12, 65_536, 100, 36_864, 60),
)
TOY = Shape("toy", toy, 1, 512, 10, 300, 60, context_size=32)


def load(shape: Shape, device: torch.device, folder: Path) -> runtime.Loaded:
    """Model and SAE at random; thresholds still 0."""
    tiny.save_tokenizer(folder)
    config = shape.config()
    config.save_pretrained(folder)
    attention = language_model._attention(config)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config.architectures = [type(model).__name__]
    loaded = language_model.from_parts(model, tokenizer, config, name=str(folder), device=device)
    hook_point = names.HookPoint(shape.block, "hook_resid_pre")
    capture = language_model.resolve(loaded, hook_point)
    d_in = loaded.d_model
    description = sae_files.SaeDescription(
        folder=folder, format="saelens", kind="sae", architecture="jumprelu", hook_point=hook_point,
        hook_point_out=hook_point, d_in=d_in, d_sae=shape.d_sae, d_out=d_in, k=None,
        is_scaled_by_decoder_norm=False, is_b_dec_subtracted=True, normalize_activations="none", is_hook_z=False,
        prepend_bos=True, context_size=None, is_centred=False, config={},
    )  # fmt: skip
    weights = torch.randn(shape.d_sae, d_in, device=device)
    weights /= weights.norm(dim=1, keepdim=True)
    state = {"W_enc": weights.T, "W_dec": weights, "b_dec": torch.zeros(d_in, device=device)}
    state |= {name: torch.zeros(shape.d_sae, device=device) for name in ("b_enc", "threshold")}
    dictionary = sae.from_state(description, state)
    source = runtime.LoadedSource(dictionary, encoder_cuda.CudaEncoder(dictionary), capture)
    return runtime.Loaded(loaded, [], (source,))


def calibrated(loaded: runtime.Loaded, rows: corpus.Corpus, shape: Shape) -> runtime.Loaded:
    """Thresholds that each feature exceeds on the same share of the first tokens, L0 of them together."""
    n = min(rows.n_contexts, -(-CALIBRATION_TOKENS // shape.context_size))
    tokens = torch.from_numpy(rows.rows[:n].astype(np.int64))
    x = language_model.residuals(loaded.model, loaded.sources[0].capture, tokens)[:, 1:].flatten(0, 1)
    dictionary = replace(loaded.sources[0].sae, b_dec=x.mean(dim=0))
    x = encoder.normalise(dictionary, x)
    rank = max(1, round(len(x) * shape.l0 / shape.d_sae))
    columns = torch.split(dictionary.W_enc.T, 4096)
    threshold = torch.cat([(x @ w.T).topk(rank, dim=0).values[-1] for w in columns]).clamp(min=0)
    dictionary = replace(dictionary, threshold=threshold)
    source = replace(loaded.sources[0], sae=dictionary, encoder=encoder_cuda.CudaEncoder(dictionary))
    return replace(loaded, sources=(source,))


class Clock:
    """Seconds by stage, the device waited for before and after each."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, stage: str, work: Callable[[], Any]) -> Any:
        self.wait()
        started = time.perf_counter()
        result = work()
        self.wait()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
        return result


class TimedKernels:
    """An encoder's kernels, timed."""

    def __init__(self, kernels: encoder_cuda.Kernels, clock: Clock) -> None:
        self._kernels, self._clock = kernels, clock

    def survivors(self, *arguments: Any) -> None:
        self._clock.timed("screen", lambda: self._kernels.survivors(*arguments))

    def group_lows(self, *arguments: Any) -> Any:
        return self._clock.timed("screen", lambda: self._kernels.group_lows(*arguments))

    def totals(self, *arguments: Any) -> Any:
        return self._clock.timed("rescore", lambda: self._kernels.totals(*arguments))


def whole(loaded: runtime.Loaded, rows: corpus.Corpus, folder: Path) -> dict[str, Any]:
    """As a worker does it: encode to postings on disk, finish from them, dashboards on disk."""
    clock = Clock(loaded.model.device)
    size = activation_index.batch_contexts(torch.device("cuda"), rows.rows.shape[1])
    parts: list[activation_index.Postings] = []

    def encode() -> None:
        found = runtime.encode(
            loaded, rows, first_context=0, n_contexts=rows.n_contexts, batch_contexts=size, on_batch=lambda n: None
        )
        for number, (_, part) in enumerate(found):
            path = folder / f"{number}.postings"
            started = time.perf_counter()
            part.write(path, {})
            clock.seconds["write postings"] = clock.seconds.get("write postings", 0.0) + time.perf_counter() - started
            parts.append(activation_index.read(path))

    def finish() -> int:
        n_bytes = 0
        with (folder / "dashboards.bin").open("wb") as file:
            for block in runtime.finish(loaded, loaded.sources[0], parts, rows, seed=0):
                n_bytes += sum(file.write(packed.pack(dashboard)) for dashboard in block)
        return n_bytes

    clock.timed("encode, postings written", encode)
    n_bytes = clock.timed("finish, dashboards written", finish)
    n_firings = sum(len(part.value) for part in parts)
    total = clock.seconds["encode, postings written"] + clock.seconds["finish, dashboards written"]
    return {
        "total_s": round(total, 3), "seconds": rounded(clock.seconds), "n_parts": len(parts), "n_firings": n_firings,
        "l0": round(n_firings / rows.n_tokens, 2), "dashboards_bytes": n_bytes,
    }  # fmt: skip


def breakdown(loaded: runtime.Loaded, rows: corpus.Corpus, folder: Path) -> dict[str, float]:
    """Seconds of each step over some batches, scaled to all; steps do not overlap here, so they add up to more."""
    clock = Clock(loaded.model.device)
    size = activation_index.batch_contexts(torch.device("cuda"), rows.rows.shape[1])
    kernels = TimedKernels(encoder_cuda.kernels_for(loaded.model.device), clock)
    made = encoder_cuda.CudaEncoder(loaded.sources[0].sae, kernels=kernels)
    gathered = activation_index_cuda._Gathered(made, 0, rows.n_contexts, rows.rows.shape[1])
    batches = activation_index.batches(0, rows.n_contexts, size)[: BREAKDOWN_BATCHES + 1]
    for number, (start, stop) in enumerate(batches):
        tokens = torch.from_numpy(rows.rows[start:stop].astype(np.int64))
        x = clock.timed(
            "forward", lambda t=tokens: language_model.residuals(loaded.model, loaded.sources[0].capture, t)
        )
        counts = rows.mask(start, stop).reshape(-1)
        firings = clock.timed("encode", lambda x=x, c=counts: made.fire(x.flatten(0, 1), c))
        gathered.add(firings, start)
        if number == 0 and len(batches) > 1:  # what is compiled and allocated once
            clock.seconds.clear()
    copying = clock.timed("sort", gathered.transposed)
    postings = clock.timed("copy", copying.postings)
    clock.timed("write", lambda: postings.write(folder / "breakdown.postings", {}))
    n_timed = max(1, len(batches) - 1)
    n_batches = len(activation_index.batches(0, rows.n_contexts, size))
    seconds = clock.seconds
    seconds["encode, the rest"] = seconds.pop("encode") - seconds.get("screen", 0) - seconds.get("rescore", 0)
    one_more = {"sort", "copy", "write"}  # these saw the first batch too
    return rounded({
        stage: s * n_batches / (len(batches) if stage in one_more else n_timed) for stage, s in seconds.items()
    })  # fmt: skip


def limit(loaded: runtime.Loaded, rows: corpus.Corpus) -> dict[str, float]:
    """Seconds that bare forward passes and bare bf16 products of the same sizes take."""
    clock = Clock(loaded.model.device)
    size = activation_index.batch_contexts(torch.device("cuda"), rows.rows.shape[1])
    tokens = torch.from_numpy(rows.rows[:size].astype(np.int64)).to(loaded.model.device)
    x = language_model.residuals(loaded.model, loaded.sources[0].capture, tokens).flatten(0, 1).bfloat16()
    weights = loaded.sources[0].sae.W_enc.T.bfloat16()
    n = min(BREAKDOWN_BATCHES, max(1, rows.n_contexts // size))
    with torch.inference_mode():
        out = x @ weights.T

        def forwards() -> None:
            for _ in range(n):
                language_model.residuals(loaded.model, loaded.sources[0].capture, tokens)

        def products() -> None:
            for _ in range(n):
                torch.mm(x, weights.T, out=out)

        clock.timed("forward", forwards)
        clock.timed("bf16 product", products)
    return rounded({stage: s * rows.n_contexts / (n * size) for stage, s in clock.seconds.items()})


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(s, 3) for stage, s in seconds.items()}


def measure(shape: Shape, device: torch.device) -> dict[str, Any]:
    """All figures of one shape."""
    with TemporaryDirectory(prefix="bench-gpu-") as name, torch.inference_mode():
        folder = Path(name)
        loaded = load(shape, device, folder)
        n_ids = language_model.n_embeddings(loaded.model)
        tokens = np.random.default_rng(0).integers(1, n_ids, (shape.n_contexts, shape.context_size))
        rows = corpus.Corpus(tokens.astype(corpus.dtype_for(n_ids)), (0,), is_first_masked=True)
        loaded = calibrated(loaded, rows, shape)
        steps = breakdown(loaded, rows, folder)  # also compiles the kernels
        result = {
            "shape": shape.name, "n_tokens": rows.n_tokens, "target_s": shape.target_s,
            "whole": whole(loaded, rows, folder), "breakdown_s": steps, "limit_s": limit(loaded, rows),
        }  # fmt: skip
    result["is_within_target"] = result["whole"]["total_s"] <= shape.target_s
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the results of a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a toy shape on any device; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go")
    options = parser.parse_args(arguments)
    is_gpu = torch.cuda.is_available()
    if not is_gpu and not options.small:
        print("skipped: there is no CUDA device here (ARGS=--small tries the program on a CPU)")
        return
    device = torch.device("cuda" if is_gpu else "cpu")
    results = []
    for shape in (TOY,) if options.small else SHAPES:
        results.append(measure(shape, device))
        print(json.dumps(results[-1], indent=2))
    if not options.small:
        about = {
            "device": torch.cuda.get_device_name(), "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__, "python": platform.python_version(),
        }  # fmt: skip
        options.out.write_text(json.dumps(about | {"shapes": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
