"""One timed run of SAEDashboard's NeuronpediaRunner, offline, in its own virtual environment.

Run by path with that environment's Python, never imported: it must not see Eyepiece. The package is left as it is; two
of its calls that need a network are answered here, and two are wrapped to read the clock and the examples:
1. `HookedSAETransformer.from_pretrained` gives the workload's model, processed as it would be (LayerNorm folded,
   unembedding centred) save centred writing weights, since the SAE reads the plain residual stream;
2. `ActivationsStore.from_sae` gives nothing: the tokens already lie where the runner looks for them first;
3. `SaeVisRunner.run` starts one block of features: the clock is read there;
4. `NeuronpediaConverter.convert_to_np_json` gets the examples with their context's index, which its JSON leaves out.
What is timed is `NeuronpediaRunner.run`: its imports and its loading of model and SAE are not in it, its JSON is.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np
import torch
from sae_dashboard.neuronpedia import neuronpedia_runner
from sae_dashboard.neuronpedia.neuronpedia_runner_config import NeuronpediaRunnerConfig
from sae_lens import ActivationsStore, HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoTokenizer, GPT2LMHeadModel

PACKAGES = ("sae-dashboard", "sae-lens", "transformer-lens", "transformers", "torch", "numpy")
SAE_SET = "bench"


class Clock:
    """Wall and CPU seconds at marks, as lists of differences."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Read both clocks."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def spans(self) -> list[dict[str, float]]:
        """Seconds between consecutive marks."""
        pairs = itertools.pairwise(self.marks)
        return [{"wall_s": b[0] - a[0], "cpu_s": b[1] - a[1]} for a, b in pairs]


def local_model(folder: Path) -> HookedSAETransformer:
    """The workload's GPT-2 as the peer holds models."""
    hf = GPT2LMHeadModel.from_pretrained(folder, torch_dtype=torch.float32)
    c = hf.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, n_heads=c.n_head, d_head=c.n_embd // c.n_head,
        d_mlp=4 * c.n_embd, d_vocab=c.vocab_size, act_fn="gelu_new", eps=c.layer_norm_epsilon,
        normalization_type="LN", device="cpu", original_architecture="GPT2LMHeadModel", model_name=folder.name,
    )  # fmt: skip
    model = HookedSAETransformer(cfg, tokenizer=AutoTokenizer.from_pretrained(folder))
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf, cfg), fold_ln=True, center_writing_weights=False, center_unembed=True
    )
    return model.eval()


def main() -> None:
    """Run the first blocks and print one JSON line."""
    parser = argparse.ArgumentParser()
    for name in ("model", "sae", "tokens", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("contexts", "blocks"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # its activation cache lies below the working folder and its key holds no tokens, so every run has a folder of its own
    args.out.mkdir(parents=True)
    os.chdir(args.out)
    print(json.dumps(measure(args)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load, run and collect; the examples are left in `examples.npz`."""
    model = local_model(args.model)
    HookedSAETransformer.from_pretrained = classmethod(lambda cls, **_: model)
    ActivationsStore.from_sae = classmethod(lambda cls, **_: None)
    runner = neuronpedia_runner.NeuronpediaRunner(
        NeuronpediaRunnerConfig(
            sae_set=SAE_SET, sae_path=str(args.sae), outputs_dir="out", from_local_sae=True, sae_device="cpu",
            huggingface_dataset_path="offline", model_device="cpu", activation_store_device="cpu",
            n_prompts_total=args.contexts, end_batch=args.blocks - 1,
        )
    )  # fmt: skip
    tokens = torch.from_numpy(np.load(args.tokens)[: args.contexts].astype(np.int64))
    torch.save(tokens, f"{runner.cfg.outputs_dir}/tokens_{args.contexts}.pt")
    clock = Clock()
    examples: list[tuple[int, int, int, float]] = []
    watch(clock, examples)
    clock.mark()
    runner.run()
    clock.mark()
    np.savez("examples.npz", **columns(examples))
    before, *blocks = clock.spans()
    return {
        "before_first_block": before,
        "blocks": blocks,
        "n_blocks": len(runner.get_feature_batches()),
        "forward_contexts": runner.cfg.n_prompts_in_forward_pass,
        "activations": str(Path(runner.cached_activations_dir).resolve()),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def watch(clock: Clock, examples: list[tuple[int, int, int, float]]) -> None:
    """Read the clock as each block starts; keep (feature, context, position, activation) of its top examples."""
    run = neuronpedia_runner.SaeVisRunner.run
    convert = neuronpedia_runner.NeuronpediaConverter.convert_to_np_json

    def timed_run(self: Any, **kwargs: Any) -> Any:
        clock.mark()
        return run(self, **kwargs)

    def keep_examples(model: Any, data: Any, *args: Any) -> str:
        for feature, shown in data.feature_data_dict.items():
            top = shown.sequence_data.seq_group_data[0]
            assert top.title.startswith("TOP ACTIVATIONS")
            for one in top.seq_data:
                position = one.qualifying_token_index
                examples.append((feature, one.original_index, position, value_at(one.feat_acts, position)))
        return convert(model, data, *args)

    neuronpedia_runner.SaeVisRunner.run = timed_run
    neuronpedia_runner.NeuronpediaConverter.convert_to_np_json = staticmethod(keep_examples)


def value_at(activations: list[float], position: int) -> float:
    """The activation at a token; its list leaves out position 0, whose activation is masked and so 0."""
    return activations[position - 1] if position else 0.0


def columns(examples: list[tuple[int, int, int, float]]) -> dict[str, np.ndarray]:
    """The examples as arrays."""
    table = np.array(examples, dtype=np.float64).reshape(-1, 4)
    names = ("feature", "context", "position")
    return {name: table[:, i].astype(np.int64) for i, name in enumerate(names)} | {"value": table[:, 3]}


if __name__ == "__main__":
    main()
