"""Train the demo's tokenizer and language model (`stdlib-4l`) on the standard library's own text.

Deterministic for a given Python version, seed and number of processes. In steps:
1. byte-level BPE of 4,096 tokens on the training documents;
2. GPT-2 layout (4 layers, d_model 256, 4 heads, context 128), every context opened by `<|endoftext|>`;
3. data-parallel over `--processes` single-threaded processes (gradients averaged over gloo): on a shared machine this
   beats threads, which wait for each other inside every matrix product;
4. Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers") for the hidden matrices, AdamW for the rest;
   learning rate constant, then linear to zero over the last `--decay` of the steps. The constant part and the
   decay may be two runs: `--decay 0`, then `--init CHECKPOINT --decay 1`.

`demo/README.md` says how the weights that ship were made and what came out.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.multiprocessing.spawn import spawn
from transformers import GPT2Config, GPT2LMHeadModel

from demo import stdlib_text

N_VOCAB, N_CONTEXT, D_MODEL, N_LAYERS, N_HEADS = 4096, 128, 256, 4, 4
BATCH_TOKENS = 8192
MUON_LR, ADAM_LR, WARMUP = 0.02, 3e-3, 50


def train_tokenizer(texts: list[str], folder: Path) -> Tokenizer:
    """Byte-level BPE whose token 0 is the separator; written as a Hugging Face tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=[stdlib_text.SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), stdlib_text.SEPARATOR)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": N_CONTEXT, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All documents in one row of uint16, each opened by the separator."""
    rows = [np.array([0, *encoding.ids], dtype=np.uint16) for encoding in tokenizer.encode_batch(texts)]
    return np.concatenate(rows)


def draw_contexts(tokens: np.ndarray, n: int, rng: np.random.Generator) -> torch.Tensor:
    """`n` random windows of 127 tokens, each opened by the separator: (n, 128) int64."""
    starts = rng.integers(0, len(tokens) - N_CONTEXT, n)
    windows = tokens[starts[:, None] + np.arange(N_CONTEXT - 1)].astype(np.int64)
    return torch.from_numpy(np.concatenate([np.zeros((n, 1), np.int64), windows], axis=1))


def orthogonalize(gradient: torch.Tensor) -> torch.Tensor:
    """Five quintic Newton-Schulz steps towards the nearest semi-orthogonal matrix, in fp32 (Muon's coefficients)."""
    is_tall = gradient.shape[0] > gradient.shape[1]
    x: torch.Tensor = gradient.T if is_tall else gradient
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if is_tall else x


class Muon:
    """Momentum, orthogonalised; the matrices are dealt round-robin to the processes and broadcast back."""

    def __init__(self, parameters: list[torch.nn.Parameter], rank: int, n_processes: int) -> None:
        self.parameters, self.rank, self.n_processes = parameters, rank, n_processes
        self.momenta = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, lr: float, momentum: float = 0.95) -> None:
        """Update every matrix; each is computed by the process that owns it."""
        for i, (p, m) in enumerate(zip(self.parameters, self.momenta, strict=True)):
            assert p.grad is not None
            owner = i % self.n_processes
            if owner == self.rank:
                m.lerp_(p.grad, 1 - momentum)
                update = orthogonalize(p.grad.lerp(m, momentum))
                p.mul_(1 - lr * 0.05)
                p.add_(update, alpha=-lr * max(1.0, p.shape[1] / p.shape[0]) ** 0.5)
            dist.broadcast(p.data, owner)


def learning_rate_factor(step: int, n_steps: int, decay: float) -> float:
    """Linear warm-up, constant, linear to zero over the last `decay` of the steps."""
    return min(1.0, (step + 1) / WARMUP, (n_steps - step) / (decay * n_steps) if decay else 1.0)


@torch.no_grad()
def validation_loss(model: GPT2LMHeadModel, tokens: np.ndarray, n: int = 512) -> float:
    """Mean nats per predicted token over `n` fixed contexts of documents not trained on."""
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(n // 32):
        batch = draw_contexts(tokens, 32, rng)
        losses.append(float(loss_of(model, batch)))
    return float(np.mean(losses))


def loss_of(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    """Mean nats per predicted token, without Hugging Face's fp32 copy of the logits (a fifth faster on a CPU)."""
    hidden = model.transformer(batch, use_cache=False).last_hidden_state[:, :-1].reshape(-1, D_MODEL)
    loss: torch.Tensor = torch.nn.functional.cross_entropy(hidden @ model.lm_head.weight.T, batch[:, 1:].reshape(-1))
    return loss


def build_model() -> GPT2LMHeadModel:
    """A fresh GPT-2-layout model, initialised from torch's current seed."""
    config = GPT2Config(
        vocab_size=N_VOCAB, n_positions=N_CONTEXT, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def train(rank: int, args: argparse.Namespace, train_tokens: np.ndarray, val_tokens: np.ndarray) -> None:
    """One data-parallel process; rank 0 reports, checkpoints and saves."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    dist.init_process_group("gloo", rank=rank, world_size=args.processes)
    torch.manual_seed(args.seed)
    model = GPT2LMHeadModel.from_pretrained(args.init) if args.init else build_model()
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    muon = Muon(hidden, rank, args.processes)
    adam = torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.01)
    n_local = BATCH_TOKENS // N_CONTEXT // args.processes
    rng = np.random.default_rng([args.seed, rank])
    history: list[dict[str, Any]] = []
    started = time.monotonic()
    for step in range(args.steps):
        batch = draw_contexts(train_tokens, n_local, rng)
        loss = loss_of(model, batch)
        loss.backward()
        flat = torch.cat([p.grad.reshape(-1) for p in model.parameters()])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        flat /= args.processes
        flat *= min(1.0, 1.0 / (float(flat.norm()) + 1e-6))
        offset = 0
        for p in model.parameters():
            p.grad = flat[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        factor = learning_rate_factor(step, args.steps, args.decay)
        adam.param_groups[0]["lr"] = ADAM_LR * factor
        adam.step()
        muon.step(MUON_LR * factor)
        for p in model.parameters():
            p.grad = None
        if rank == 0 and (step % 50 == 49 or step == args.steps - 1):
            n_tokens, seconds = (step + 1) * BATCH_TOKENS, time.monotonic() - started
            record = {"step": step + 1, "tokens": n_tokens, "train_loss": round(loss.item(), 3)}
            record["val_loss"] = round(validation_loss(model, val_tokens), 4)
            history.append(record)
            print(f"{record} {n_tokens / seconds:.0f} tokens/s", flush=True)
            if step % 500 == 499 or step == args.steps - 1:
                model.save_pretrained(args.out / "checkpoint")  # fp32: what a second run may start from
    if rank == 0:
        save(model, args, history, val_tokens)
    dist.destroy_process_group()


def save(
    model: GPT2LMHeadModel, args: argparse.Namespace, history: list[dict[str, Any]], val_tokens: np.ndarray
) -> None:
    """Round to half precision first, then measure, so the card describes the weights that ship."""
    folder = args.out / "stdlib-4l"
    model.config.activation_function = "gelu_new"  # GPT-2's name for the same function
    model.half().save_pretrained(folder)
    loss = validation_loss(GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32), val_tokens)
    path = args.out / "model_card.json"
    before = json.loads(path.read_text())["runs"] if args.init and path.exists() else []
    run = {"seed": args.seed, "steps": args.steps, "decay": args.decay, "processes": args.processes, "history": history}
    runs = [*before, run]
    card: dict[str, Any] = {"validation_loss": round(loss, 4), "perplexity": round(math.exp(loss), 2)}
    card |= {"tokens": sum(run["steps"] for run in runs) * BATCH_TOKENS, "runs": runs}
    path.write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/weights"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps over which the rate falls to zero")
    parser.add_argument("--init", type=Path, help="checkpoint to start from instead of random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--port", type=int, default=29571)
    args = parser.parse_args()
    documents = list(stdlib_text.documents(with_tests=True))
    train_texts = [d.text for d in documents if not d.is_validation]
    tokenizer = train_tokenizer(train_texts, args.out / "stdlib-4l")
    train_tokens = encode_documents(tokenizer, train_texts)
    val_tokens = encode_documents(tokenizer, [d.text for d in stdlib_text.documents() if d.is_validation])
    print(
        f"{len(documents)} documents, {len(train_tokens):,} training and {len(val_tokens):,} validation tokens",
        flush=True,
    )
    spawn(train, args=(args, train_tokens, val_tokens), nprocs=args.processes)


if __name__ == "__main__":
    main()
