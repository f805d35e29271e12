"""The cut model against Hugging Face's hidden states."""

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from demo import residuals, train_model


def test_residuals_are_block_outputs_before_the_final_norm(tmp_path: Path) -> None:
    """Without position 0; layer 1 is hidden state 2, and the final norm of layer 3 is the last hidden state."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=128, n_embd=16, n_layer=4, n_head=2, initializer_range=0.3)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(1, 64, 5000).astype(np.uint16)
    contexts = train_model.draw_contexts(tokens, 20, np.random.default_rng(0))
    found = residuals.ResidualStream(tmp_path, (1, 3)).read(contexts)
    with torch.no_grad():
        hidden = model.transformer(contexts, output_hidden_states=True).hidden_states
        final = model.transformer.ln_f(found[3]).view(20, 127, 16)
    torch.testing.assert_close(found[1].view(20, 127, 16), hidden[2][:, 1:])
    torch.testing.assert_close(final, hidden[4][:, 1:])
