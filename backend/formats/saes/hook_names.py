"""Hook points from the names other libraries give to places: modules of Hugging Face models."""

import re

_BLOCK = re.compile(
    r"(?:model\.|transformer\.|gpt_neox\.|language_model\.)*(?:layers|h|blocks)[._](?P<layer>\d+)(?:\.(?P<rest>.+))?"
)
_OUTPUTS = {
    "": "hook_resid_post", "mlp": "hook_mlp_out", "attn": "hook_attn_out", "self_attn": "hook_attn_out",
    "attention": "hook_attn_out", "post_feedforward_layernorm": "hook_mlp_out",
    "pre_feedforward_layernorm": "mlp.hook_in",
}  # fmt: skip
_INPUTS = {"": "hook_resid_pre", "mlp": "mlp.hook_in", "self_attn.o_proj": "attn.hook_z", "attn.c_proj": "attn.hook_z"}


def of_module(path: str, *, is_input: bool = False) -> str | None:
    """The hook point at a module's edge, `model.layers.5.mlp` or `layers.5.mlp.input`; None for unknown modules."""
    match = _BLOCK.fullmatch(path)
    if match is None:
        return None
    rest = match["rest"] or ""
    for edge in ("input", "output"):
        if rest == edge or rest.endswith(f".{edge}"):
            rest, is_input = rest.removesuffix(edge).rstrip("."), edge == "input"
    place = (_INPUTS if is_input else _OUTPUTS).get(rest)
    return None if place is None else f"blocks.{int(match['layer'])}.{place}"
