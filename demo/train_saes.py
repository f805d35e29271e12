"""Train the demo's TopK SAEs on the residual stream of `stdlib-4l`, then measure what was saved.

An SAE depends on its layer, the seed, the tokens and the number of threads, not on which process trains it. In steps:
1. deal the layers to single-threaded processes; each runs the model only up to its last layer;
2. draw random contexts as `train_model` does, and mix the tokens of `BUFFER_CONTEXTS` of them into batches. Position 0
   (always `<|endoftext|>`, with a huge norm) is left out;
3. subtract the mean and scale to a mean squared norm of d_model; both are folded into the saved weights;
4. Adam with AuxK for dead features (Gao et al. 2024, "Scaling and evaluating sparse autoencoders"); decoder rows keep
   unit norm; learning rate: linear warm-up, constant, linear to zero over the last `DECAY` of the steps;
5. save in half precision, load that back, and let `measure_saes` write its line of the card.

Run: `python -m demo.train_saes --weights demo/weights`; `demo/README.md` says what came out.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo import measure_saes, residuals, stdlib_text, topk_sae, train_model

MODEL = "stdlib-4l"
D_SAE, K = 2048, 32
BUFFER_CONTEXTS = 1024
BATCH_TOKENS = 16 * (train_model.N_CONTEXT - 1)
LEARNING_RATE, WARMUP, DECAY = 3e-3, 100, 0.3
K_AUX, AUX_COEFFICIENT, DEAD_TOKENS = 128, 1 / 32, 200_000


@dataclass(frozen=True, slots=True)
class Job:
    """What one process needs."""

    weights: Path
    layers: tuple[int, ...]
    n_tokens: int
    seed: int
    n_threads: int
    train_tokens: np.ndarray
    val_tokens: np.ndarray


class Trainer:
    """One SAE in training, on residuals centred and scaled by their first buffer."""

    def __init__(self, layer: int, first: Tensor, n_steps: int, seed: int) -> None:
        self._mean = first.mean(0)
        self._scale = float((first.shape[1] / (first - self._mean).square().sum(1).mean()).sqrt())
        generator = torch.Generator().manual_seed(seed * 1000 + layer)
        self._sae = topk_sae.initialize(first.shape[1], D_SAE, K, generator)
        parameters = [getattr(self._sae, name) for name in topk_sae.Gradients.__slots__]
        self._adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.9, 0.999), fused=True)
        self._n_steps, self._n_done = n_steps, 0
        self._tokens_since_fired = torch.zeros(D_SAE, dtype=torch.int64)

    @property
    def n_dead(self) -> int:
        """Features that did not fire in the last `DEAD_TOKENS` tokens."""
        return int((self._tokens_since_fired > DEAD_TOKENS).sum())

    @torch.no_grad()
    def step(self, batch: Tensor) -> float:
        """Take one step; return the batch's explained variance before it."""
        x = (batch - self._mean) * self._scale
        dead = (self._tokens_since_fired > DEAD_TOKENS).nonzero().squeeze(1)
        result = self._sae.step(x, dead, K_AUX, AUX_COEFFICIENT)
        for name in topk_sae.Gradients.__slots__:
            getattr(self._sae, name).grad = getattr(result.gradients, name)
        W_dec = self._sae.W_dec
        along_rows = (result.gradients.W_dec * W_dec).sum(1, keepdim=True)
        result.gradients.W_dec.sub_(along_rows * W_dec)
        self._adam.param_groups[0]["lr"] = LEARNING_RATE * learning_rate_factor(self._n_done, self._n_steps)
        self._adam.step()
        W_dec /= W_dec.norm(dim=1, keepdim=True)
        self._n_done += 1
        self._tokens_since_fired += len(x)
        self._tokens_since_fired[result.fired] = 0
        return 1 - result.squared_error / float((x - x.mean(0)).square().sum())

    def trained(self) -> topk_sae.TopKSae:
        """The SAE as it stands, on raw residuals."""
        return topk_sae.unscaled(self._sae, self._mean, self._scale)


def learning_rate_factor(step: int, n_steps: int) -> float:
    """Linear warm-up, constant, linear to zero."""
    return min(1.0, (step + 1) / WARMUP, (n_steps - step) / (DECAY * n_steps))


def batches(
    stream: residuals.ResidualStream, tokens: np.ndarray, rng: np.random.Generator
) -> Iterator[dict[int, Tensor]]:
    """Endless batches by layer, each of the same tokens for every layer."""
    while True:
        buffer = stream.read(train_model.draw_contexts(tokens, BUFFER_CONTEXTS, rng))
        order = torch.from_numpy(rng.permutation(BUFFER_CONTEXTS * (train_model.N_CONTEXT - 1)))
        for start in range(0, len(order), BATCH_TOKENS):
            rows = order[start : start + BATCH_TOKENS]
            yield {layer: found[rows] for layer, found in buffer.items()}


def train(job: Job) -> dict[int, list[dict[str, float]]]:
    """Train and save the job's SAEs; return the history of each layer."""
    stream = residuals.ResidualStream(job.weights / MODEL, job.layers)
    n_steps = -(-job.n_tokens // BATCH_TOKENS)
    rng = np.random.default_rng([job.seed, 1])
    first = stream.read(train_model.draw_contexts(job.train_tokens, BUFFER_CONTEXTS, rng))
    trainers = {layer: Trainer(layer, first[layer], n_steps, job.seed) for layer in job.layers}
    del first
    history: dict[int, list[dict[str, float]]] = {layer: [] for layer in job.layers}
    started, every = time.monotonic(), max(1, n_steps // 40)
    source = batches(stream, job.train_tokens, np.random.default_rng(job.seed))
    for step in range(1, n_steps + 1):
        batch = next(source)
        explained = {layer: trainer.step(batch[layer]) for layer, trainer in trainers.items()}
        if step % every == 0 or step == n_steps:
            n_tokens = step * BATCH_TOKENS
            for layer, trainer in trainers.items():
                record = {"tokens": n_tokens, "explained_variance": round(explained[layer], 4), "dead": trainer.n_dead}
                history[layer].append(record)
                print(f"layer {layer} {record} {n_tokens / (time.monotonic() - started):.0f} tokens/s", flush=True)
    for layer, trainer in trainers.items():
        metadata = {"model_name": MODEL, "hook_name": f"blocks.{layer}.hook_resid_post", "prepend_bos": True}
        metadata |= {"context_size": train_model.N_CONTEXT, "training_tokens": n_steps * BATCH_TOKENS, "seed": job.seed}
        topk_sae.save(trainer.trained(), sae_folder(job.weights, layer), metadata)
    return history


def train_and_measure(job: Job) -> dict[str, dict[str, object]]:
    """One process's work; return its entries of the card by source id."""
    torch.set_num_threads(job.n_threads)
    history = train(job)
    n_trained = history[job.layers[0]][-1]["tokens"]
    card: dict[str, dict[str, object]] = {}
    for layer in job.layers:
        folder = sae_folder(job.weights, layer)
        metrics = measure_saes.measure(job.weights / MODEL, folder, layer, job.train_tokens, job.val_tokens)
        settings = {"k": K, "d_sae": D_SAE, "tokens": n_trained, "seed": job.seed, "threads": job.n_threads}
        settings |= {"learning_rate": LEARNING_RATE, "batch_tokens": BATCH_TOKENS}
        card[folder.name] = metrics | settings | {"history": history[layer]}
        print(f"{folder.name} {metrics}", flush=True)
    return card


def sae_folder(weights: Path, layer: int) -> Path:
    """Where a layer's SAE lives; the folder's name is the source id."""
    return weights / "saes" / f"{layer}-res-2k"


def deal_layers(layers: list[int], n_processes: int) -> list[tuple[int, ...]]:
    """Deal layers, deepest first, to whichever process stays cheapest; a block or an SAE costs about the same."""
    dealt: list[list[int]] = [[] for _ in range(min(n_processes, len(layers)))]
    for layer in sorted(layers, reverse=True):
        cheapest = min(dealt, key=lambda own: max([*own, layer]) + len(own))
        cheapest.append(layer)
    return [tuple(sorted(own)) for own in dealt]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("demo/weights"))
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="per process")
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.weights / MODEL / "tokenizer.json"))
    train_texts = [d.text for d in stdlib_text.documents(with_tests=True) if not d.is_validation]
    train_tokens = train_model.encode_documents(tokenizer, train_texts)
    val_texts = [d.text for d in stdlib_text.documents() if d.is_validation]
    val_tokens = train_model.encode_documents(tokenizer, val_texts)
    groups = deal_layers(args.layers, args.processes)
    common = (args.tokens, args.seed, args.threads, train_tokens, val_tokens)
    jobs = [Job(args.weights, layers, *common) for layers in groups]
    path = args.weights / "sae_card.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    with ProcessPoolExecutor(len(jobs), mp_context=multiprocessing.get_context("spawn")) as pool:
        for entries in pool.map(train_and_measure, jobs):
            card |= entries
    path.write_text(json.dumps(dict(sorted(card.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
