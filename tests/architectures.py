"""Tiny models of several architectures, with weights so large that every token before matters to the next."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests import tiny

_SHARED: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.4}
_GROUPED: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": tiny.N_CONTEXT, "pad_token_id": None,
}  # fmt: skip
WINDOW = 6
CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "gpt2": (transformers.GPT2Config, {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": tiny.N_CONTEXT}),
    "llama": (transformers.LlamaConfig, _GROUPED),
    "neox": (
        transformers.GPTNeoXConfig,
        {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
         "max_position_embeddings": tiny.N_CONTEXT},
    ),
    "gemma2": (
        transformers.Gemma2Config,
        _GROUPED | {"head_dim": 4, "sliding_window": WINDOW, "query_pre_attn_scalar": 4,
                    "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    ),
    "gpt_neo": (
        transformers.GPTNeoConfig,
        {"hidden_size": 16, "intermediate_size": 32, "num_layers": 3, "num_heads": 2, "window_size": WINDOW,
         "attention_types": [[["global", "local", "local"], 1]], "max_position_embeddings": tiny.N_CONTEXT},
    ),
    "mamba": (transformers.MambaConfig, {"hidden_size": 16, "num_hidden_layers": 2}),
}  # fmt: skip
"""Windows shorter than the texts, groups of heads, soft caps; and one that attends to nothing, so has no keys."""


def save(folder: Path, kind: str, **config: Any) -> Path:
    """A random model in Hugging Face's layout, with `tiny`'s tokenizer."""
    n_vocab = tiny.save_tokenizer(folder)
    make, own = CONFIGS[kind]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(make(vocab_size=n_vocab, **(_SHARED | own | config)))
    model.save_pretrained(folder)
    return folder
