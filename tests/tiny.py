"""Small real things tests make for themselves: models of several architectures with tokenizer, and SAELens folders."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

SEPARATOR = "<|endoftext|>"
N_CONTEXT = 32
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def save_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer with a few merges; token 0 is the separator. Returns the vocabulary's size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("i", "n"), ("Ġ", "the")]
    pieces = [SEPARATOR, *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SEPARATOR])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), SEPARATOR)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return len(pieces)


def save_model(folder: Path, *, kind: str = "gpt2", seed: int = 0) -> Path:
    """A random model of three layers, d_model 16, in Hugging Face's layout."""
    n_vocab = save_tokenizer(folder)
    torch.manual_seed(seed)
    if kind == "gpt2":
        config: Any = GPT2Config(
            vocab_size=n_vocab, n_positions=N_CONTEXT, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
        )
        model: Any = GPT2LMHeadModel(config)
    elif kind == "gpt_neox":  # attention and MLP side by side
        config = GPTNeoXConfig(
            vocab_size=n_vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=N_CONTEXT, bos_token_id=0, eos_token_id=0, pad_token_id=None,
        )  # fmt: skip
        model = GPTNeoXForCausalLM(config)
    elif kind == "gemma2":  # norms after attention and MLP, and a cap on the logits
        config = Gemma2Config(
            vocab_size=n_vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=4, sliding_window=16, max_position_embeddings=N_CONTEXT, bos_token_id=0,
            eos_token_id=0, pad_token_id=None,
        )  # fmt: skip
        model = Gemma2ForCausalLM(config)
    else:
        config = LlamaConfig(
            vocab_size=n_vocab, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=N_CONTEXT, bos_token_id=0, eos_token_id=0, pad_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    with torch.no_grad():  # gains and biases that matter
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return folder


def save_sae(
    folder: Path, *, architecture: str = "jumprelu", d_in: int = 16, d_sae: int = 40, seed: int = 0, **config: Any
) -> Path:
    """A random SAELens folder; decoder norms from 0.2 to 5. Some features are dead."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    norms = torch.logspace(-0.7, 0.7, d_sae)[torch.randperm(d_sae, generator=generator)]
    direction = normal(d_sae, d_in)
    state = {
        "W_enc": normal(d_in, d_sae) * 0.5,
        "W_dec": direction / direction.norm(dim=1, keepdim=True) * norms[:, None],
    }
    state["b_dec"] = normal(d_in) * 0.1
    bias = normal(d_sae) * 0.3 - 0.5
    bias[:2] = -100.0
    if architecture == "gated":
        state |= {"b_gate": bias, "b_mag": normal(d_sae) * 0.3, "r_mag": normal(d_sae) * 0.2}
    else:
        state["b_enc"] = bias
    if architecture == "jumprelu":
        state["threshold"] = torch.rand(d_sae, generator=generator)
    metadata = {
        "model_name": "tiny",
        "hook_name": "blocks.1.hook_resid_post",
        "prepend_bos": True,
        "context_size": N_CONTEXT,
    }
    metadata |= config.pop("metadata", {})
    full = {
        "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", "architecture": architecture, "metadata": metadata,
    }  # fmt: skip
    if architecture in ("topk", "abstopk"):
        full |= {"k": 5, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(full | config))
    return folder


TEXT = (
    "The cat sat in the thin rain and the moon rose over a quiet town.\nIn the morning, nothing was the same again. "
    "A theory of the thing: in a garden, the path is in the walking — Zoë said “naïve”. "
)


def text(n_documents: int = 40) -> str:
    """Documents that differ, joined by the separator's literal text."""
    return SEPARATOR.join(f"{i * 37} {TEXT[i % 50 :]} {TEXT[: 20 + 7 * i % 90]}{i}" for i in range(n_documents))
