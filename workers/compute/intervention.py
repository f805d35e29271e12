"""A forward pass through the whole model with the activations at one hook point replaced.

The place is a `language_model.Capture`, the pass Hugging Face's own with a hook on that module. A module's output, and
an input that only this module reads, are replaced there. The residual stream between attention and MLP
(`hook_resid_mid`) is found at the MLP's norm, but the skip connection reads it too: what the edit changed is added to the
block's output as well, where that connection ends. Other shared inputs are refused, since replacing them at one reader
is another intervention than the one asked for.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backend import errors
from workers.compute.language_model import Capture, LanguageModel

Edit = Callable[[Float[Tensor, "n context d_in"]], Float[Tensor, "n context d_in"]]
"""Activations at the hook point, fp32, as `language_model.residuals` gives them, to what shall stand there instead."""

_READ_ONCE = ("hook_resid_pre", "attn.hook_z", "mlp.hook_post")
_SKIPPED_OVER = "hook_resid_mid"


def check(capture: Capture) -> None:
    """Raise `UnsupportedError` where the hook point can be read but not replaced."""
    if capture.is_input and capture.hook_point.place not in (*_READ_ONCE, _SKIPPED_OVER):
        raise errors.UnsupportedError(
            f"{capture.hook_point} is read by more than the module it was found at, so it cannot be replaced there.",
            hint=f"Inputs that can be replaced are {', '.join((*_READ_ONCE, _SKIPPED_OVER))}; so can every output.",
        )


def run_with(
    model: LanguageModel, capture: Capture, tokens: Int[Tensor, "n context"], edit: Edit
) -> Float[Tensor, "n context d_vocab"]:
    """Logits, in the model's dtype, with `edit` applied to the activations at the hook point.

    The edited activations go on in the model's dtype; an edit that returns its argument changes nothing. Where writing
    weights are centred, the edit sees centred vectors and each vector's mean is put back, which LayerNorm ignores.

    The hooks come and go with the call, and mind this thread's forward passes only.

    Raises:
        UnsupportedError: The activations there cannot be replaced (`check`).
    """
    check(capture)
    with torch.inference_mode(), replaced(model, capture, tokens.shape, edit):
        logits: Tensor = model.model(input_ids=tokens.to(model.device), use_cache=False).logits
    return logits


@contextlib.contextmanager
def replaced(model: LanguageModel, capture: Capture, shape: torch.Size, edit: Edit) -> Iterator[None]:
    """As `run_with` for the one forward pass, over token rows of this shape, that this thread makes inside.

    The hook point must pass `check`. Several may be replaced at once; at one place they are edited in the order entered.
    """
    changes: list[Tensor] = []
    is_skipped_over = capture.is_input and capture.hook_point.place == _SKIPPED_OVER

    def replace(found: Tensor) -> Tensor:
        x = found.reshape(*shape, -1).float()
        mean = x.mean(dim=-1, keepdim=True) if capture.is_centred else None
        edited = edit(x) if mean is None else edit(x - mean) + mean
        replaced = edited.reshape(found.shape).to(found.dtype)
        if is_skipped_over:
            changes.append(replaced - found)
        return replaced

    def at_block_end(output: Tensor) -> Tensor:
        return output + changes.pop().reshape(output.shape)

    with contextlib.ExitStack() as hooks:
        module = model.model.get_submodule(capture.module)
        hooks.enter_context(passing(module, replace, is_input=capture.is_input))
        if is_skipped_over:
            block = model.model.get_submodule(_block_of(model, capture))
            hooks.enter_context(passing(block, at_block_end, is_input=False))
        yield


@contextlib.contextmanager
def passing(module: torch.nn.Module, replace: Callable[[Tensor], Tensor], *, is_input: bool) -> Iterator[None]:
    """What this thread sends through the module, its first input or its output, goes on as `replace` makes it."""
    thread = threading.get_ident()

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if threading.get_ident() != thread:
            return args, kwargs
        if args:
            return (replace(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, kwargs | {name: replace(kwargs[name])}

    def after(_: Any, args: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return output
        if isinstance(output, tuple):
            return (replace(output[0]), *output[1:])
        return replace(output)

    with contextlib.ExitStack() as handles:
        if is_input:
            handles.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        else:
            handles.callback(module.register_forward_hook(after).remove)
        yield


def _block_of(model: LanguageModel, capture: Capture) -> str:
    return f"{model.bridge.adapter.component_mapping['blocks'].name}.{capture.hook_point.layer}"
