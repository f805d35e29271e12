"""What is known of an SAE before its weights are read, and what a user may say of it beside its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backend import names

Format = Literal[
    "saelens", "gemma_scope", "llama_scope", "dictionary_learning", "sparsify", "openai", "plain", "neurons", "vectors"
]
Kind = Literal["sae", "transcoder", "neurons", "vectors"]
CHOOSE_K = ("topk", "abstopk")
"""Architectures that keep the k largest of each token."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a user says of an SAE; each field that is not None wins over what the files say."""

    format: Format | None = None
    """None: told from the files."""
    hook_point: str | None = None
    """Where it reads, in TransformerLens's form."""
    hook_point_out: str | None = None
    """Where its decoder writes, for transcoders."""
    context_size: int | None = None
    prepend_bos: bool | None = None
    activation: str | None = None
    """Its architecture: standard (which is relu), topk, batchtopk, jumprelu or gated."""
    k: int | None = None
    """Active features per token, for topk."""
    threshold: float | None = None
    """Of all features, for jumprelu and batchtopk."""
    apply_b_dec_to_input: bool | None = None
    normalize_activations: str | None = None
    norm_scaling_factor: float | None = None
    """What activations are multiplied by before the encoder; it is folded into the weights."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Where one of the canonical tensors is: W_enc, W_dec, b_enc, b_dec, threshold, b_gate, b_mag, r_mag or W_skip."""

    name: str
    file: str
    """Path below the folder."""
    key: str
    is_transposed: bool = False
    is_logarithm: bool = False


@dataclass(frozen=True, slots=True)
class SaeDescription:
    """What a folder says of itself, checked against its own weights' header."""

    folder: Path
    format: Format
    kind: Kind
    architecture: str
    """How it encodes: standard, topk, abstopk, jumprelu or gated."""
    hook_point: names.HookPoint
    """Where it reads."""
    hook_point_out: names.HookPoint
    """Where its decoder writes; the same for all but transcoders."""
    d_in: int
    d_sae: int
    d_out: int
    """Width of the decoder's rows; d_in for all but transcoders."""
    k: int | None
    """Active features per token, for topk and abstopk only."""
    is_scaled_by_decoder_norm: bool
    """topk and abstopk only: pre-activations are multiplied by ‖W_dec‖ before the choice, and so come out scaled."""
    is_b_dec_subtracted: bool
    normalize_activations: str
    is_hook_z: bool
    """The hook's heads are flattened into d_in."""
    prepend_bos: bool
    context_size: int | None
    is_centred: bool
    """The model it was trained on had its writing weights centred (TransformerLens's center_writing_weights)."""
    config: dict[str, Any]
    """The configuration as found."""
    has_skip: bool = False
    """A transcoder whose output has W_skip @ input added."""
    is_signed: bool = False
    """Activations may be negative."""
    labels: tuple[str, ...] = ()
    """A name for each vector of a vector set; empty for other kinds."""
    weights: tuple[Weight, ...] = ()
    """Biases that are not among them are zero."""
    input_factor: float = 1.0
    """What activations were multiplied by in training, folded into the weights when they are read."""
    threshold: float | None = None
    """Of all features, where no tensor holds it."""
    is_threshold_of_scaled: bool = False
    """The threshold is compared with pre-activations multiplied by ‖W_dec‖ as it is in the file."""

    @property
    def is_dense(self) -> bool:
        """Every feature has a value at every token: neurons and vectors."""
        return self.kind in ("neurons", "vectors")
