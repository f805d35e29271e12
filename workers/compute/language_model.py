"""A language model up to one hook point: token rows in, residuals out; and its unembedding as a logit lens needs it.

TransformerLens names the places: a `TransformerBridge` over the model's shape (no weights) resolves a hook point to
the input or output of one Hugging Face module. The forward pass itself is Hugging Face's own with a hook on that
module and an early stop, since the bridge's (eager attention, every hook) takes longer (measured in
`docs/decisions/0002-capture.md`). Tests hold the two equal.

Owns also the rule for "the model the SAE was trained on": centred writing weights are applied as what they amount to.
"""

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from backend import errors, names
from workers.compute import memory

_PLACES_AFTER_MEAN = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
_READABLE = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z")
_AT_EDGE = {
    "ln1.hook_normalized": "ln1.hook_in",
    "ln2.hook_normalized": "ln2.hook_in",
    "hook_mlp_in": "ln2.hook_in",
}
"""Places inside a block's norms, and what TransformerLens forks before the second, by the module edge they follow from."""


class _StopForwardError(Exception):
    """Raised inside the forward pass once the hook point has been captured."""


@dataclass(frozen=True, slots=True)
class Capture:
    """Where a hook point is in the Hugging Face model."""

    hook_point: names.HookPoint
    module: str
    """Path of the module below the model."""
    is_input: bool
    """The module's input, else its output."""
    is_centred: bool
    """Subtract each vector's mean, which is what centred writing weights amount to under LayerNorm."""
    norm: "NormBeforeGain | None" = None
    """What is captured is normalised so: TransformerLens's `hook_normalized`."""


@dataclass(frozen=True, slots=True)
class NormBeforeGain:
    """A norm without its gain and bias."""

    eps: float
    is_layer_norm: bool
    """Subtracts the mean first."""

    def __call__(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_in"]:
        """Return x ÷ √(mean x² + eps), of x less its mean under LayerNorm."""
        if self.is_layer_norm:
            x = x - x.mean(dim=-1, keepdim=True)
        return x * (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()

    def scale(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n"]:
        """What each x, less its mean under LayerNorm, is divided by."""
        if self.is_layer_norm:
            x = x - x.mean(dim=-1, keepdim=True)
        return (x.square().mean(dim=-1) + self.eps).sqrt()


class Taps:
    """Hooks on a model's modules that stay, and hand what passes to the forward pass of the thread that listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._installed: set[tuple[str, bool]] = set()
        self._of_thread = threading.local()

    def install(self, model: torch.nn.Module, places: set[tuple[str, bool]]) -> None:
        """Put a hook on each (module, is_input) that has none."""
        with self._lock:
            for place in places - self._installed:
                module = model.get_submodule(place[0])
                if place[1]:
                    module.register_forward_pre_hook(functools.partial(self._before, place), with_kwargs=True)
                else:
                    module.register_forward_hook(functools.partial(self._after, place))
                self._installed.add(place)

    @contextlib.contextmanager
    def listening(
        self, places: set[tuple[str, bool]], keep: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[dict[tuple[str, bool], Tensor]]:
        """What passes the places in this thread's next forward pass, which is stopped once all have been passed.

        `keep` makes a copy of what is wanted of each; all of it is, if not given.
        """
        caught: dict[tuple[str, bool], Tensor] = {}
        # later blocks may write into the residual stream in place
        keep = keep or (torch.Tensor.detach if len(places) == 1 else torch.Tensor.clone)
        self._of_thread.listener = (places, caught, keep)
        try:
            yield caught
        finally:
            self._of_thread.listener = None

    def _before(self, place: tuple[str, bool], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(place, args[0] if args else next(iter(kwargs.values()), None))

    def _after(self, place: tuple[str, bool], _: Any, args: Any, output: Any) -> None:
        self._keep(place, output)

    def _keep(self, place: tuple[str, bool], value: Any) -> None:
        listener = getattr(self._of_thread, "listener", None)
        if listener is None or place not in listener[0]:
            return
        places, caught, keep = listener
        caught[place] = keep((value[0] if isinstance(value, tuple) else value).detach())
        if len(caught) == len(places):
            raise _StopForwardError


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A loaded model in evaluation mode."""

    model: Any
    """transformers.PreTrainedModel."""
    tokenizer: Any
    bridge: Any
    """TransformerBridge over the same shape without weights: names only."""
    device: torch.device
    taps: Taps = field(default_factory=Taps)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.bridge.cfg.n_layers)

    @property
    def n_heads(self) -> int:
        """Attention's query heads in a block."""
        return int(self.bridge.cfg.n_heads)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.bridge.cfg.d_model)

    @property
    def n_context(self) -> int:
        """Longest context the model takes."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def d_vocab(self) -> int:
        """Rows of the unembedding."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def is_layer_norm(self) -> bool:
        """The final norm subtracts the mean (LayerNorm), rather than only scaling (RMSNorm)."""
        return isinstance(self._final_norm(), torch.nn.LayerNorm)

    @property
    def final_norm(self) -> str:
        """Path of the norm before the unembedding."""
        return str(self.bridge.adapter.component_mapping["ln_final"].name)

    def _final_norm(self) -> torch.nn.Module:
        module: torch.nn.Module = self.model.get_submodule(self.final_norm)
        return module

    @property
    def special_tokens(self) -> tuple[int, ...]:
        """Ids of pad, bos and eos tokens, ascending; those of the tokenizer and of the model's configuration."""
        ids: set[int] = set()
        for owner in (self.tokenizer, self.model.config):
            for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
                value = getattr(owner, name, None)
                ids.update(value if isinstance(value, list) else [] if value is None else [value])
        return tuple(sorted(ids))


def load(name: str, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Load a local Hugging Face folder or hub name; raises `InvalidInputError` or `UnsupportedError` with what to do."""
    if device.type == "cpu":
        memory.keep_freed()
    path = Path(name)
    if (path.is_absolute() or name.startswith(".")) and not (path / "config.json").is_file():
        raise errors.InvalidInputError(f"'{name}' is not a model folder.", hint="Expected config.json in it.")
    with _quiet():
        try:
            # nothing of a repository is run: no code of its own, no weights that unpickling would read
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, attn_implementation=_attention(config), trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise errors.InvalidInputError(
                f"'{name}' could not be loaded: {str(error).splitlines()[0]}",
                hint="Give a Hugging Face folder with tokenizer and safetensors, or a hub name while there is a network.",
            ) from error
    return from_parts(model, tokenizer, config, name=name, device=device)


def _attention(config: Any) -> str:
    """Fused attention where the architecture supports it; Gemma 2, whose scores are capped, needs the eager one."""
    model_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def from_parts(model: Any, tokenizer: Any, config: Any, *, name: str, device: torch.device) -> LanguageModel:
    """Wrap an already loaded Hugging Face model."""
    with _quiet():
        with torch.device("meta"):
            shape = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        shape = shape.to_empty(device="cpu")  # fused QKV must be readable at boot; untouched pages cost no memory
        try:
            bridge = TransformerBridge.boot_transformers(name, hf_model=shape, tokenizer=tokenizer, device="cpu")
        except (ValueError, NotImplementedError) as error:
            raise errors.UnsupportedError(
                f"TransformerLens does not know the architecture {config.architectures}.",
                hint="Its adapters decide which models Eyepiece can name hook points in.",
            ) from error
        shape.to("meta")
    _fuse_activations(model)
    return LanguageModel(model.to(device).eval().requires_grad_(False), tokenizer, bridge, device)


def _fuse_activations(model: torch.nn.Module) -> None:
    """GELU by its tanh formula in one kernel, where transformers spells it out in eight passes over memory."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in ("NewGELUActivation", "FastGELUActivation"):
                setattr(parent, name, torch.nn.GELU(approximate="tanh"))


def resolve(model: LanguageModel, hook_point: names.HookPoint, *, is_centred: bool = False) -> Capture:
    """Find a hook point, or raise `UnsupportedError` naming what there is."""
    if hook_point.layer >= model.n_layers:
        raise errors.UnsupportedError(
            f"{hook_point} is outside the model, which has blocks 0 to {model.n_layers - 1}.",
            hint="Check that the SAE belongs to this model.",
        )
    if is_centred and not (model.is_layer_norm and hook_point.place in _PLACES_AFTER_MEAN):
        raise errors.UnsupportedError(
            f"center_writing_weights at {hook_point} of a model with "
            f"{'LayerNorm' if model.is_layer_norm else 'RMSNorm'} is not supported.",
            hint=f"It is for models with LayerNorm, at {', '.join(_PLACES_AFTER_MEAN)}.",
        )
    block = model.bridge.blocks[hook_point.layer]
    try:
        full_name = _attribute(block, _AT_EDGE.get(hook_point.place, hook_point.place)).name
    except AttributeError as error:
        raise errors.UnsupportedError(
            f"{hook_point} does not exist in this model.", hint=f"Places that do include {', '.join(_READABLE)}."
        ) from error
    match = re.fullmatch(r"blocks\.\d+\.(?:(?P<path>.+)\.)?hook_(?P<end>in|out)", full_name)
    if match is None:
        raise errors.UnsupportedError(
            f"{hook_point} is computed inside a module ({full_name}), not at its edge.",
            hint=f"Use one of {', '.join(_READABLE)}.",
        )
    module = f"{model.bridge.adapter.component_mapping['blocks'].name}.{hook_point.layer}"
    component = block
    for part in (match["path"] or "").split("."):
        if part:
            component = getattr(component, part)
            # OPT's MLP has a name in TransformerLens only: its layers are the block's own
            module += f".{component.name}" if component.name else ""
    norm = norm_before_gain(model, module) if hook_point.place.endswith("hook_normalized") else None
    return Capture(hook_point, module, match["end"] == "in", is_centred, norm)


def norm_before_gain(model: LanguageModel, module: str) -> NormBeforeGain:
    """The norm at `module` without gain and bias; raises `UnsupportedError` where it does not say its epsilon."""
    norm = model.model.get_submodule(module)
    eps = next((getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), None)
    if eps is None:
        raise errors.UnsupportedError(
            f"{type(norm).__name__} at {module} does not say its epsilon, which is needed to read it without its gain.",
            hint="Use the norm's output (hook_out) or input (hook_in).",
        )
    return NormBeforeGain(float(eps), isinstance(norm, torch.nn.LayerNorm))


def residuals(
    model: LanguageModel, capture: Capture, tokens: Int[Tensor, "n context"]
) -> Float[Tensor, "n context d_in"]:
    """Activations at the hook point in fp32; the forward pass stops there. Heads, where there are any, are flattened."""
    return residuals_at(model, [capture], tokens)[0]


def residuals_at(
    model: LanguageModel, captures: Sequence[Capture], tokens: Int[Tensor, "n context"]
) -> list[Float[Tensor, "n context _"]]:
    """As `residuals` for several hook points in one forward pass, which stops once all of them have been reached.

    Threads may call it side by side on one model: each hears its own forward pass only.
    """
    wanted = {(capture.module, capture.is_input) for capture in captures}
    model.taps.install(model.model, wanted)
    with torch.inference_mode(), model.taps.listening(wanted) as caught, contextlib.suppress(_StopForwardError):
        model.model(input_ids=tokens.to(model.device), use_cache=False)
    found = [caught[capture.module, capture.is_input].reshape(*tokens.shape, -1).float() for capture in captures]
    return [_as_captured(capture, x) for capture, x in zip(captures, found, strict=True)]


def _as_captured(capture: Capture, x: Tensor) -> Tensor:
    x = x - x.mean(dim=-1, keepdim=True) if capture.is_centred else x
    return x if capture.norm is None else capture.norm(x)


@contextlib.contextmanager
def reading(
    model: LanguageModel, places: set[tuple[str, bool]], keep: Callable[[Tensor], Tensor]
) -> Iterator[dict[tuple[str, bool], Tensor]]:
    """What `keep` copies of each (module, is_input) in the forward pass inside the block, which stops at the last one.

    A hook put on one of these modules inside the block comes after the reading of it.
    """
    model.taps.install(model.model, places)
    with contextlib.suppress(_StopForwardError), model.taps.listening(places, keep) as caught:
        yield caught


def n_embeddings(model: LanguageModel) -> int:
    """Token ids the model can read: rows of its embedding, which padding makes differ from the tokenizer's."""
    return int(model.model.get_input_embeddings().num_embeddings)


def width(model: LanguageModel, capture: Capture) -> int:
    """d_in at the hook point, measured on one token."""
    return int(residuals(model, capture, torch.zeros((1, 1), dtype=torch.int64)).shape[-1])


def unembedding(model: LanguageModel) -> Float[Tensor, "d_model d_vocab"]:
    """W_U with the final norm's gain folded in, centred over the vocabulary, in fp32.

    Under LayerNorm each column is also centred over d_model, since the norm subtracts the mean. This is what
    TransformerLens calls processed weights (`fold_ln`, `center_unembed`); its values are the oracle in tests.
    """
    norm = model._final_norm()
    W_U: Tensor = model.model.get_output_embeddings().weight.detach().float().T * gain_of(norm)[:, None]
    if model.is_layer_norm:
        W_U = W_U - W_U.mean(dim=0, keepdim=True)
    return W_U - W_U.mean(dim=1, keepdim=True)


def residual_map(model: LanguageModel, capture: Capture) -> Float[Tensor, "d_in d_model"] | None:
    """What takes a direction at the hook point into the residual stream; None means it is in it already.

    `hook_z` goes through W_O. Raises `UnsupportedError` where there is no linear path.
    """
    place = capture.hook_point.place
    if place in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"):
        return None
    if place in ("attn.hook_z", "mlp.hook_post") and capture.is_input:
        module = model.model.get_submodule(capture.module)
        weight: Tensor = module.weight.detach().float()
        is_conv1d = type(module).__name__ == "Conv1D"  # GPT-2's: the weight of a Linear, transposed
        return weight if is_conv1d else weight.T
    raise errors.UnsupportedError(f"{capture.hook_point} has no linear path to the logits.")


def vocabulary(model: LanguageModel) -> list[str]:
    r"""The text of every token id as it reads inside a sentence: leading spaces kept, bytes that are no text as \xNN."""
    tokenizer = model.tokenizer
    n = max(model.d_vocab, len(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer))) + [None] * (n - len(tokenizer))
    added = set(tokenizer.get_added_vocab().values())
    is_metaspace = any(piece is not None and "▁" in piece for i, piece in enumerate(pieces) if i not in added)
    return [
        str(piece) if i in added else _token_text(tokenizer, i, piece, is_metaspace) for i, piece in enumerate(pieces)
    ]


def _token_text(tokenizer: Any, token: int, piece: str | None, is_metaspace: bool) -> str:
    if piece is None:
        return f"<unused {token}>"
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
    if byte is not None:
        code = int(byte[1], 16)
        return chr(code) if code < 128 else f"\\x{code:02x}"
    if is_metaspace:
        return str(piece).replace("▁", " ")
    text = str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
    return text if "\ufffd" not in text else "".join(_byte_text(tokenizer, character) for character in piece)


def _byte_text(tokenizer: Any, character: str) -> str:
    r"""One character of a byte-level piece (GPT-2's table) as text or \xNN."""
    code = _BYTE_OF.get(character)
    if code is None:
        return character
    return chr(code) if code < 128 else f"\\x{code:02x}"


def _byte_table() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted (openai/gpt-2, src/encoder.py, bytes_to_unicode)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_table()


def gain_of(norm: torch.nn.Module) -> Float[Tensor, " d_model"]:
    """The gain of a norm; for RMS norms found by probing, since some store it less one (Gemma)."""
    weight = cast(Tensor, norm.weight).detach().float()
    if isinstance(norm, torch.nn.LayerNorm):
        return weight
    ones = torch.ones(1, len(weight), dtype=cast(Tensor, norm.weight).dtype, device=weight.device)
    probe = norm(ones)[0].float()
    candidates = [weight, weight + 1]
    distances = [float((probe - candidate).abs().max()) for candidate in candidates]
    best = candidates[distances.index(min(distances))]
    if min(distances) > 0.02 * (1 + float(best.abs().max())):
        raise errors.UnsupportedError(f"the norm {type(norm).__name__} does not scale as an RMS norm does.")
    return best


def _attribute(owner: Any, path: str) -> Any:
    for part in path.split("."):
        owner = getattr(owner, part)
    return owner


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hugging Face's progress bars and advice kept off the terminal while loading."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.utils.logging.enable_progress_bar()
