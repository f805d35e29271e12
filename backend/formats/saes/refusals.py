"""What is refused: one table of what, why, and what to do instead."""

_FEATURES = "Dashboards need activations that one token's vector decides by an encoder; use such an SAE."

ARCHITECTURES = {
    "crosscoder": f"it reads several layers or models at once. {_FEATURES}",
    "clt": (
        "a cross-layer transcoder writes to every later layer. Save one layer's encoder with its decoder of one layer as "
        "a transcoder."
    ),
    "temporal": f"its activations depend on earlier positions. {_FEATURES}",
    "matching_pursuit": f"it encodes by a greedy search without encoder weights. {_FEATURES}",
    "groupmax": f"it keeps the largest activation of each group, which is not supported. {_FEATURES}",
    "glu": f"its encoder multiplies two paths by a sigmoid, which is not supported. {_FEATURES}",
}
NORMALIZATIONS = {
    "expected_average_only_in": (
        "the factor is not in the file, and running without it gives wrong activations. Declare norm_scaling_factor, or "
        "fold it with SAELens (fold_activation_norm_scaling_factor) and save the SAE again."
    ),
    "covariance_whitening": (
        "the whitening matrices are not in the file. Fold them with SAELens (fold_activation_whitening) and save again."
    ),
    "batch-wise": "it depends on the other tokens of a batch. Fold an average factor into the weights and save again.",
}
SEQPOS_SLICE = (
    "an SAE for some positions only is not supported; train it on all positions, or on those after the first."
)
FINETUNING_SCALING = "a fine-tuned scaling of activations is not supported; multiply W_dec by it and save again."


def architecture(name: str) -> str:
    """Why an architecture is refused, as a problem."""
    known = "standard (relu), topk, abstopk, batchtopk, matryoshka_batchtopk, jumprelu, gated, and transcoders of them"
    why = ARCHITECTURES.get(name, f"it is unknown; known are {known}.")
    return f"architecture '{name[:60]}': {why}"


def activation(name: str) -> str:
    """Why an activation function is refused, as a problem."""
    return f"activation function '{name[:60]}': only relu, topk, batchtopk and jumprelu are supported."
