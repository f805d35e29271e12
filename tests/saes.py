"""Small SAEs of every format that tests make for themselves, and what each should do by another's code.

An `Example` writes a folder and gives the oracle: inputs in, activations out, times the norm of each feature's direction.
Where SAELens reads the format from disk, or through its own loader with the hub's files replaced by these, it is the
oracle; else a formula from the authors' repository, named in `by`.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.formats.sae_files import NOTHING_DECLARED, Declared

HOOK_POINT = "blocks.1.hook_resid_post"
K = 5
Oracle = Callable[[Tensor], Tensor]


class Written(NamedTuple):
    """An SAE's folder, what is declared beside it, and its oracle."""

    folder: Path
    oracle: Oracle
    declared: Declared = NOTHING_DECLARED


class Example(NamedTuple):
    """One format or variant; `write(folder, d_in, d_sae)`."""

    by: str
    write: Callable[[Path, int, int], Written]
    is_oracle_loader: bool = True
    """The oracle reads the same files; else it is a formula given the same numbers."""


def state(d_in: int, d_sae: int, *, d_out: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random canonical weights with decoder rows of norms from 0.5 to 2, and thresholds that most pass now and then."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    W_dec = normal(d_sae, d_out or d_in)
    norm = torch.linspace(0.5, 2, d_sae)[torch.randperm(d_sae, generator=generator)]
    return {
        "W_enc": normal(d_in, d_sae) / d_in**0.5,
        "W_dec": W_dec / W_dec.norm(dim=1, keepdim=True) * norm[:, None],
        "b_enc": normal(d_sae) * 0.1,
        "b_dec": normal(d_out or d_in) * 0.1,
        "threshold": torch.rand(d_sae, generator=generator) * 0.3,
        "b_gate": normal(d_sae) * 0.1,
        "b_mag": normal(d_sae) * 0.1,
        "r_mag": normal(d_sae) * 0.1,
        "W_skip": normal(d_out or d_in, d_in) * 0.1,
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _scaled(encode: Oracle, W_dec: Tensor) -> Oracle:
    def oracle(x: Tensor) -> Tensor:
        with torch.no_grad():
            return encode(x) * W_dec.norm(dim=1)

    return oracle


def _saelens_oracle(sae: Any) -> Oracle:
    return _scaled(sae.encode, sae.W_dec.detach())


def _saelens(architecture: str) -> Callable[[Path, int, int], Written]:
    def write(folder: Path, d_in: int, d_sae: int) -> Written:
        from sae_lens import SAE

        names = {"W_enc", "W_dec", "b_dec"} | ({"b_gate", "b_mag", "r_mag"} if architecture == "gated" else {"b_enc"})
        is_transcoder = "transcoder" in architecture
        names |= {"threshold"} if "jumprelu" in architecture else set()
        names |= {"W_skip"} if "skip" in architecture else set()
        metadata = {"hook_name": HOOK_POINT, "prepend_bos": True, "context_size": 32, "model_name": "tiny"}
        config: dict[str, Any] = {
            "architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
            "apply_b_dec_to_input": not is_transcoder, "normalize_activations": "none", "reshape_activations": "none",
        }  # fmt: skip
        if architecture in ("topk", "abstopk"):
            config |= {"k": K, "rescale_acts_by_decoder_norm": True}
        if is_transcoder:
            config["d_out"] = d_in
            metadata |= {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
        _save({name: t for name, t in state(d_in, d_sae).items() if name in names}, folder / "sae_weights.safetensors")
        _write_json(folder / "cfg.json", config | {"metadata": metadata})
        sae = SAE.load_from_disk(str(folder))
        rescales = architecture in ("topk", "abstopk")  # its activations come out scaled already
        return Written(folder, (lambda x: sae.encode(x).detach()) if rescales else _saelens_oracle(sae))

    return write


def _saelens_5(folder: Path, d_in: int, d_sae: int) -> Written:
    from sae_lens import SAE

    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    _save({name: state(d_in, d_sae)[name] for name in names}, folder / "sae_weights.safetensors")
    config = {"d_in": d_in, "d_sae": d_sae, "dtype": "float32", "hook_point": HOOK_POINT, "activation_fn_str": "topk"}
    _write_json(folder / "cfg.json", config | {"activation_fn_kwargs": {"k": K}, "normalize_activations": False})
    return Written(folder, _saelens_oracle(SAE.load_from_disk(str(folder))))


def _saelens_training(architecture: str) -> Callable[[Path, int, int], Written]:
    """A batch-top-k checkpoint; the oracle is the jumprelu SAE that SAELens saves of it."""

    def write(folder: Path, d_in: int, d_sae: int) -> Written:
        from sae_lens import SAE, TrainingSAE
        from sae_lens.registry import get_sae_training_class

        training_class, config_class = get_sae_training_class(architecture)
        extra = {"matryoshka_widths": [d_sae // 2, d_sae]} if "matryoshka" in architecture else {}
        config = config_class(d_in=d_in, d_sae=d_sae, k=K, normalize_activations="none", **extra)
        config.metadata.hook_name = HOOK_POINT
        sae: TrainingSAE[Any] = training_class(config)
        numbers = state(d_in, d_sae)
        sae.load_state_dict({name: numbers.get(name, torch.tensor(0.4).double()) for name in sae.state_dict()})
        sae.save_model(str(folder))
        inference = folder.parent / f"{folder.name}-inference"
        sae.save_inference_model(str(inference))
        return Written(folder, _saelens_oracle(SAE.load_from_disk(str(inference))))

    return write


def _through_loader(loader: str, folder: Path, root: Path, **overrides: Any) -> Any:
    """An SAE by one of SAELens's loaders for the hub, which finds local files instead."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def local(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        return str(root / subfolder / filename)

    with mock.patch.object(loaders, "hf_hub_download", local), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load = getattr(loaders, loader)
        config, weights, *_ = load("local-2b-pt-res", str(folder.relative_to(root)), "cpu", False, overrides)
        sae = SAE.from_dict(loaders.handle_config_defaulting(config | {"dtype": "float32", "device": "cpu"}))
        sae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return sae


def _gemma_scope(folder: Path, d_in: int, d_sae: int) -> Written:
    place = folder / "gemma-scope-2b-pt-res" / "layer_1" / "width_16k" / "average_l0_20"
    place.mkdir(parents=True)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    np.savez(place / "params.npz", **{name: state(d_in, d_sae)[name].numpy() for name in names})
    sae = _through_loader("gemma_2_sae_huggingface_loader", place, folder, d_in=d_in, d_sae=d_sae)
    return Written(place, _saelens_oracle(sae))


def _gemma_scope_transcoder(folder: Path, d_in: int, d_sae: int) -> Written:
    place = folder / "gemma-scope-2b-pt-transcoders" / "layer_1" / "width_16k" / "average_l0_20"
    place.mkdir(parents=True)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    np.savez(place / "params.npz", **{name: state(d_in, d_sae)[name].numpy() for name in names})
    size = {"d_in": d_in, "d_out": d_in, "d_sae": d_sae}
    return Written(
        place, _saelens_oracle(_through_loader("gemma_2_transcoder_huggingface_loader", place, folder, **size))
    )


def _llama_scope(folder: Path, d_in: int, d_sae: int) -> Written:
    place, numbers = folder / "L1R-8x", state(d_in, d_sae)
    unit = numbers["W_dec"] / numbers["W_dec"].norm(dim=1, keepdim=True)
    tensors = {
        "encoder.weight": numbers["W_enc"].T, "decoder.weight": unit.T, "encoder.bias": numbers["b_enc"],
        "decoder.bias": numbers["b_dec"],
    }  # fmt: skip
    _save({key: t.bfloat16() for key, t in tensors.items()}, place / "checkpoints" / "final.safetensors")
    norm = 3.5
    hyperparams = {
        "d_model": d_in, "d_sae": d_sae, "hook_point_in": HOOK_POINT, "hook_point_out": HOOK_POINT, "act_fn": "jumprelu",
        "jump_relu_threshold": 0.25, "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": False,
        "dataset_average_activation_norm": {"in": norm, "out": norm}, "apply_decoder_bias_to_pre_encoder": False,
        "use_decoder_bias": True,
    }  # fmt: skip
    _write_json(place / "hyperparams.json", hyperparams)
    sae = _through_loader("llama_scope_sae_huggingface_loader", place, folder, dtype="float32")
    sae.fold_activation_norm_scaling_factor(d_in**0.5 / norm)
    return Written(place, _saelens_oracle(sae))


def _llama_scope_r1(folder: Path, d_in: int, d_sae: int) -> Written:
    place, numbers = folder / "L1R", state(d_in, d_sae)
    tensors = {
        "encoder.weight": numbers["W_enc"].T, "decoder.weight": numbers["W_dec"].T, "encoder.bias": numbers["b_enc"],
        "decoder.bias": numbers["b_dec"], "log_jumprelu_threshold": numbers["threshold"].log(),
    }  # fmt: skip
    _save(tensors, place / "sae_weights.safetensors")
    config = {"d_model": d_in, "expansion_factor": d_sae // d_in, "hook_point_in": HOOK_POINT, "act_fn": "jumprelu"}
    _write_json(place / "config.json", config | {"hook_point_out": HOOK_POINT, "norm_activation": "dataset-wise"})
    sae = _through_loader("llama_scope_r1_distill_sae_huggingface_loader", place, folder)
    sae.fold_activation_norm_scaling_factor(2.0)
    return Written(place, _saelens_oracle(sae), Declared(norm_scaling_factor=2.0))


_DICTIONARY_KEYS = {
    "AutoEncoder": {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc", "bias": "b_dec"},
    "GatedAutoEncoder": {
        "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec", "gate_bias": "b_gate",
        "mag_bias": "b_mag", "r_mag": "r_mag",
    },
    "AutoEncoderTopK": {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc", "b_dec": "b_dec"},
    "BatchTopKSAE": {"encoder.weight": "W_enc", "decoder.weight": "W_dec", "encoder.bias": "b_enc", "b_dec": "b_dec"},
    "JumpReluAutoEncoder": {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")},
    "MatryoshkaBatchTopKSAE": {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")},
}  # fmt: skip


def _dictionary_learning(dict_class: str) -> Callable[[Path, int, int], Written]:
    def write(folder: Path, d_in: int, d_sae: int) -> Written:
        numbers = state(d_in, d_sae)
        place = folder / "trainer_0"
        tensors = {
            key: (numbers[name].T if key.endswith(".weight") else numbers[name]).contiguous()
            for key, name in _DICTIONARY_KEYS[dict_class].items()
        }
        if "TopK" in dict_class:
            tensors |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.3)}
        if "Matryoshka" in dict_class:
            tensors |= {"group_sizes": torch.tensor([d_sae // 2, d_sae - d_sae // 2])}
        place.mkdir(parents=True)
        torch.save(tensors, place / "ae.pt")
        trainer = {"dict_class": dict_class, "activation_dim": d_in, "dict_size": d_sae, "k": K, "layer": 1}
        trainer |= {"lm_name": "local/tiny", "submodule_name": "resid_post_layer_1"}
        _write_json(place / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 32}})
        return Written(
            place, _saelens_oracle(_through_loader("dictionary_learning_sae_huggingface_loader_1", place, folder))
        )

    return write


def _top_k(pre: Tensor) -> Tensor:
    best = pre.relu().topk(K, dim=-1)
    return torch.zeros_like(pre).scatter(-1, best.indices, best.values)


def _sparsify(*, transcodes: bool) -> Callable[[Path, int, int], Written]:
    """The formula is SparseCoder.encode of eai-sparsify 1.3.3 (sparsify/sparse_coder.py)."""

    def write(folder: Path, d_in: int, d_sae: int) -> Written:
        numbers, place = state(d_in, d_sae), folder / "layers.1.mlp"
        tensors = {
            "encoder.weight": numbers["W_enc"].T, "encoder.bias": numbers["b_enc"], "W_dec": numbers["W_dec"],
            "b_dec": numbers["b_dec"],
        } | ({"W_skip": numbers["W_skip"]} if transcodes else {})  # fmt: skip
        _save(tensors, place / "sae.safetensors")
        config = {"d_in": d_in, "num_latents": d_sae, "k": K, "expansion_factor": 32, "activation": "topk"}
        _write_json(place / "cfg.json", config | {"transcode": transcodes, "skip_connection": transcodes})
        shift = torch.zeros(d_in) if transcodes else numbers["b_dec"]

        def encode(x: Tensor) -> Tensor:
            return _top_k((x - shift) @ numbers["W_enc"] + numbers["b_enc"])

        return Written(place, _scaled(encode, numbers["W_dec"]))

    return write


def _openai(activation: str) -> Callable[[Path, int, int], Written]:
    """The formula is Autoencoder.encode in sparse_autoencoder/model.py of openai/sparse_autoencoder (4965b94)."""

    def write(folder: Path, d_in: int, d_sae: int) -> Written:
        numbers = state(d_in, d_sae)
        content: dict[str, Any] = {
            "pre_bias": numbers["b_dec"], "latent_bias": numbers["b_enc"], "encoder.weight": numbers["W_enc"].T,
            "decoder.weight": numbers["W_dec"].T, "stats_last_nonzero": torch.zeros(d_sae, dtype=torch.long),
            "activation": activation,
            "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {},
        }  # fmt: skip
        folder.mkdir(parents=True)
        torch.save(content, folder / "6.pt")

        def encode(x: Tensor) -> Tensor:
            if activation == "TopK":
                x = x - x.mean(dim=-1, keepdim=True)
                x = x / (x.std(dim=-1, keepdim=True) + 1e-5)
            pre = (x - numbers["b_dec"]) @ numbers["W_enc"] + numbers["b_enc"]
            return _top_k(pre) if activation == "TopK" else pre.relu()

        return Written(folder, _scaled(encode, numbers["W_dec"]), Declared(hook_point=HOOK_POINT))

    return write


def _plain(folder: Path, d_in: int, d_sae: int) -> Written:
    """bf16 in two shards, jumprelu told by its threshold; the formula is relu(pre)·(pre > threshold)."""
    numbers = {name: tensor.bfloat16() for name, tensor in state(d_in, d_sae).items()}
    files = {"a.safetensors": ("w_enc", "b_enc"), "b.safetensors": ("w_dec", "b_dec", "threshold")}
    canonical = {name.lower(): name for name in numbers}
    for file, names in files.items():
        _save({name: numbers[canonical[name]] for name in names}, folder / file)
    weight_map = {name: file for file, names in files.items() for name in names}
    _write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    exact = {name: tensor.float() for name, tensor in numbers.items()}

    def encode(x: Tensor) -> Tensor:
        pre = (x - exact["b_dec"]) @ exact["W_enc"] + exact["b_enc"]
        return pre.relu() * (pre > exact["threshold"])

    return Written(folder, _scaled(encode, exact["W_dec"]), Declared(hook_point=HOOK_POINT))


def _directions_only(folder: Path, d_in: int, d_sae: int) -> Written:
    """Only W_dec in fp16: the encoder is its transpose and biases are zero; all else is in the file's metadata."""
    W_dec = state(d_in, d_sae)["W_dec"].half()
    folder.mkdir(parents=True)
    metadata = {"hook_point": HOOK_POINT, "activation": "topk", "k": str(K), "prepend_bos": "false"}
    save_file({"W_dec": W_dec}, folder / "directions.safetensors", metadata=metadata)
    exact = W_dec.float()
    return Written(folder, _scaled(lambda x: _top_k(x @ exact.T), exact))


_LENS = "SAELens 6.54"
EXAMPLES: dict[str, Example] = {
    **{
        f"SAELens {name}": Example(f"{_LENS}, load_from_disk", _saelens(name))
        for name in (
            "standard", "topk", "abstopk", "jumprelu", "gated", "transcoder", "skip_transcoder", "jumprelu_transcoder",
            "jumprelu_skip_transcoder",
        )
    },
    "SAELens before 6.0, topk": Example(f"{_LENS}, load_from_disk", _saelens_5),
    **{
        f"SAELens {name} checkpoint": Example(f"{_LENS}, save_inference_model", _saelens_training(name))
        for name in ("batchtopk", "matryoshka_batchtopk")
    },
    "Gemma Scope": Example(f"{_LENS}, its loader of this format", _gemma_scope),
    "Gemma Scope transcoder": Example(f"{_LENS}, its loader of this format", _gemma_scope_transcoder),
    "Llama Scope": Example(f"{_LENS}, its loader of this format", _llama_scope),
    "Llama Scope R1-Distill": Example(f"{_LENS}, its loader of this format", _llama_scope_r1),
    **{
        f"dictionary_learning {name}": Example(f"{_LENS}, its loader of this format", _dictionary_learning(name))
        for name in _DICTIONARY_KEYS
    },
    "sparsify SAE": Example("formula of eai-sparsify 1.3.3", _sparsify(transcodes=False), False),
    "sparsify skip transcoder": Example("formula of eai-sparsify 1.3.3", _sparsify(transcodes=True), False),
    "OpenAI ReLU": Example("formula of openai/sparse_autoencoder", _openai("ReLU"), False),
    "OpenAI TopK": Example("formula of openai/sparse_autoencoder", _openai("TopK"), False),
    "one safetensors, bf16 shards": Example("formula of jumprelu", _plain, False),
    "directions only, fp16": Example("formula of top-k", _directions_only, False),
}  # fmt: skip
