"""The bare limit of one pass in fp32: the forward pass to the hook and the encoder's matrix product, nothing else.

Same tokens, batches and model code as the engine; nothing is compared, kept or written, and loading is not timed. The
product is taken in the tile that is fastest here, tried on one batch, into a buffer that is reused. Prints one JSON line.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from workers.compute import activation_index, language_model, sae

TILES = ((512, 1024), (512, 2048), (512, 4096), (1024, 1024), (2048, 2048), (4096, 1024), (4096, 4096))
"""Tokens × features; those wider than the SAE are cut to it."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name in ("model", "sae", "tokens"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--contexts", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    model = language_model.load(str(args.model), device=cpu, dtype=torch.float32)
    dictionary = sae.load(args.sae, device=cpu)
    capture = language_model.resolve(model, dictionary.description.hook_point)
    rows = torch.from_numpy(np.load(args.tokens)[: args.contexts].astype(np.int64))
    batches = torch.split(rows, activation_index.BATCH_CONTEXTS)
    with torch.inference_mode():
        x = language_model.residuals(model, capture, batches[0]).flatten(0, 1)
        tile = min(TILES, key=lambda tile: _seconds_of(dictionary.W_enc, x, tile))
        buffer = torch.empty(tile)
        forward_s = product_s = 0.0
        started, wall = time.process_time(), time.perf_counter()
        for batch in batches:
            before = time.process_time()
            x = language_model.residuals(model, capture, batch).flatten(0, 1)
            between = time.process_time()
            multiply(x, dictionary.W_enc, tile, buffer)
            forward_s += between - before
            product_s += time.process_time() - between
        cpu_s, wall_s = time.process_time() - started, time.perf_counter() - wall
    line = {"cpu_s": cpu_s, "wall_s": wall_s, "forward_cpu_s": forward_s, "product_cpu_s": product_s, "tile": tile}
    print(json.dumps(line))


def multiply(x: torch.Tensor, W_enc: torch.Tensor, tile: tuple[int, int], buffer: torch.Tensor) -> None:
    """x @ W_enc tile by tile, each over the one before."""
    n, d_sae = len(x), W_enc.shape[1]
    for row in range(0, n, tile[0]):
        for column in range(0, d_sae, tile[1]):
            part, weights = x[row : row + tile[0]], W_enc[:, column : column + tile[1]]
            torch.mm(part, weights, out=buffer[: len(part), : weights.shape[1]])


def _seconds_of(W_enc: torch.Tensor, x: torch.Tensor, tile: tuple[int, int]) -> float:
    """CPU seconds of one batch, the best of three after one to warm up."""
    buffer = torch.empty(tile)
    seconds = []
    for _ in range(4):
        started = time.process_time()
        multiply(x, W_enc, tile, buffer)
        seconds.append(time.process_time() - started)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
