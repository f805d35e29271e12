"""Damaged and hostile uploads, drawn with a seed from good ones: what the fuzzer sends.

`BASES` makes the files of one good SAE of each format, by name; a new format is a function here. `cases` draws mutations
of them. `Canary` is a pickle that would touch a file if anybody opened it.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save as save_safetensors

D_IN, D_SAE = 4, 6
HOOK_POINT = "blocks.1.hook_resid_post"
Files = dict[str, bytes]


def tensors(**extra: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,), "b_enc": (D_SAE,)} | extra
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _saelens(architecture: str, **config: Any) -> Callable[[], Files]:
    def make() -> Files:
        extra: dict[str, tuple[int, ...]] = {"threshold": (D_SAE,)} if "jumprelu" in architecture else {}
        if architecture == "gated":
            extra = {"b_gate": (D_SAE,), "b_mag": (D_SAE,), "r_mag": (D_SAE,)}
        full = {
            "architecture": architecture, "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32",
            "apply_b_dec_to_input": True, "normalize_activations": "none",
            "metadata": {"hook_name": HOOK_POINT, "context_size": 16, "prepend_bos": True, "model_name": "tiny"},
        } | config  # fmt: skip
        return {
            "sae/cfg.json": json.dumps(full).encode(),
            "sae/sae_weights.safetensors": save_safetensors(tensors(**extra)),
        }

    return make


def _flat_saelens() -> Files:
    config = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "hook_point": HOOK_POINT,
        "hook_name": HOOK_POINT,
        "activation_fn_str": "relu",
    }
    return {"sae/cfg.json": json.dumps(config).encode(), "sae/sae_weights.safetensors": save_safetensors(tensors())}


def _gemma_scope() -> Files:
    packed = io.BytesIO()
    np.savez(packed, **tensors(threshold=(D_SAE,)))  # type: ignore[arg-type]
    return {"layer_1/params.npz": packed.getvalue()}


def _llama_scope() -> Files:
    hyperparams = {
        "hook_point_in": HOOK_POINT,
        "d_model": D_IN,
        "d_sae": D_SAE,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.1,
    }
    encoder = {
        "encoder.weight": (D_SAE, D_IN),
        "encoder.bias": (D_SAE,),
        "decoder.weight": (D_IN, D_SAE),
        "decoder.bias": (D_IN,),
    }
    rng = np.random.default_rng(0)
    found = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in encoder.items()}
    return {"L1R/hyperparams.json": json.dumps(hyperparams).encode(), "L1R/final.safetensors": save_safetensors(found)}


def _torch(state: dict[str, torch.Tensor]) -> bytes:
    packed = io.BytesIO()
    torch.save(state, packed)
    return packed.getvalue()


def _dictionary_learning() -> Files:
    state = {
        "encoder.weight": torch.zeros(D_SAE, D_IN), "encoder.bias": torch.zeros(D_SAE),
        "decoder.weight": torch.zeros(D_IN, D_SAE), "bias": torch.zeros(D_IN),
    }  # fmt: skip
    trainer = {
        "dict_class": "AutoEncoder",
        "activation_dim": D_IN,
        "dict_size": D_SAE,
        "layer": 1,
        "submodule_name": "resid_post",
    }
    return {"run/ae.pt": _torch(state), "run/config.json": json.dumps({"trainer": trainer}).encode()}


def _sparsify() -> Files:
    found = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in found.items()}
    config = {
        "d_in": D_IN,
        "num_latents": D_SAE,
        "expansion_factor": 1,
        "k": 2,
        "activation": "topk",
        "normalize_decoder": True,
    }
    return {"layers.1/cfg.json": json.dumps(config).encode(), "layers.1/sae.safetensors": save_safetensors(weights)}


def _openai() -> Files:
    state = {
        "pre_bias": torch.zeros(D_IN), "latent_bias": torch.zeros(D_SAE),
        "encoder.weight": torch.zeros(D_SAE, D_IN), "decoder.weight": torch.zeros(D_IN, D_SAE),
    }  # fmt: skip
    return {"v5/1.pt": _torch(state)}


def _plain() -> Files:
    return {"plain/sae.safetensors": save_safetensors(tensors(), {"hook_point": HOOK_POINT})}


BASES: dict[str, Callable[[], Files]] = {
    "standard": _saelens("standard"),
    "topk": _saelens("topk", k=2),
    "jumprelu": _saelens("jumprelu"),
    "gated": _saelens("gated"),
    "transcoder": _saelens("transcoder"),
    "flat_saelens": _flat_saelens,
    "gemma_scope": _gemma_scope,
    "llama_scope": _llama_scope,
    "dictionary_learning": _dictionary_learning,
    "sparsify": _sparsify,
    "openai": _openai,
    "plain": _plain,
}


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._path}",)


@dataclass(frozen=True)
class Case:
    """What is sent: files one by one, or an archive of them."""

    what: str
    files: Files
    archive: str = ""
    """zip or tar.gz; empty: none."""
    packed: bytes = b""
    """The archive itself, where it is not just one of the files."""


def cases(n: int, *, seed: int, canary: Path) -> Iterator[Case]:
    """`n` of them, the same for the same seed."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        base = list(BASES)[number % len(BASES)]
        mutate = MUTATIONS[number // len(BASES) % len(MUTATIONS)]
        made = mutate(BASES[base](), rng, canary)
        name = f"{number} {base} {mutate.__name__}"
        if isinstance(made, Case):
            yield Case(f"{name} {made.what}", made.files, made.archive, made.packed)
        else:
            yield Case(name, made, str(rng.choice(["", "", "zip", "tar.gz"])))


def _some(files: Files, rng: np.random.Generator) -> str:
    return str(rng.choice(sorted(files)))


def truncated(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    name = _some(files, rng)
    return files | {name: files[name][: int(rng.integers(1, len(files[name])))]}


def bits_flipped(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    name = _some(files, rng)
    data = bytearray(files[name])
    for _ in range(int(rng.integers(1, 9))):
        where = int(rng.integers(0, min(len(data), 400)))  # where headers are
        data[where] ^= 1 << int(rng.integers(0, 8))
    return files | {name: bytes(data)}


def lengthened(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    name = _some(files, rng)
    return files | {name: files[name] + rng.bytes(int(rng.integers(1, 100)))}


def replaced_by_noise(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    return files | {_some(files, rng): rng.bytes(int(rng.integers(1, 2000)))}


def without_a_file(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    gone = _some(files, rng)
    return {name: data for name, data in files.items() if name != gone} or {"sae/readme.txt": b"none"}


def wrong_shapes(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    return _with_header(files, rng, lambda t: t | {"shape": [int(x) for x in rng.integers(0, 2**40, len(t["shape"]))]})


def wrong_offsets(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    return _with_header(
        files, rng, lambda t: t | {"data_offsets": [int(rng.integers(-9, 99)), int(rng.integers(-9, 2**62))]}
    )


def wrong_dtype(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    return _with_header(files, rng, lambda t: t | {"dtype": str(rng.choice(["F64", "Q9", "", "BOOL", "I8"]))})


def strange_header(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    strange = [
        None,
        [],
        {},
        3,
        "x",
        {"dtype": None},
        {"shape": "x"},
        {"dtype": "F32", "shape": None, "data_offsets": 3},
    ]
    return _with_header(files, rng, lambda t: strange[int(rng.integers(len(strange)))])


def huge_header(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    name = _some(files, rng)
    said = int(rng.choice([2**63 - 1, 2**40, 99_999_999, 0]))
    return files | {name: struct.pack("<Q", said) + files[name][8:]}


def strange_config(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    names = [name for name in files if name.endswith(".json")]
    if not names:
        return files | {"sae/cfg.json": b"{}"}
    config = json.loads(files[names[0]])
    strange = [None, "x", -1, 0, 2**70, 1.5, float("nan"), float("inf"), [], {}, [None], "\ud800", "a" * 5000, True]
    for _ in range(int(rng.integers(1, 4))):
        inner = [each for each in config.values() if isinstance(each, dict) and each]
        place = inner[0] if inner and rng.random() < 0.4 else config
        place[str(rng.choice(sorted(place)))] = strange[int(rng.integers(len(strange)))]
    return files | {names[0]: json.dumps(config).encode()}


def not_json(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    names = [name for name in files if name.endswith(".json")] or ["sae/cfg.json"]
    strange = [
        b"",
        b"[" * 100_000,
        b"[]",
        b"\xff\xfe",
        b'{"d_in": 1e999}',
        b"null",
        b'"x"',
        b"{" * 50_000,
        b"1" * 10_000,
    ]
    return files | {names[0]: strange[int(rng.integers(len(strange)))] or b" "}


def doubled_keys(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    names = [name for name in files if name.endswith(".json")]
    if not names:
        return lengthened(files, rng, canary)
    return files | {names[0]: files[names[0]].replace(b"{", b'{"d_sae": 3, "d_sae": 5, ', 1)}


def a_pickle_that_runs_code(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    name = _some(files, rng)
    armed = pickle.dumps(Canary(canary), protocol=int(rng.integers(0, 6)))
    if rng.random() < 0.5:
        return files | {name: armed}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", armed)
        archive.writestr("archive/version", b"3")
    return files | {name.rsplit("/", 1)[0] + "/ae.pt": packed.getvalue()}


def an_npz_of_objects(files: Files, rng: np.random.Generator, canary: Path) -> Files:
    packed = io.BytesIO()
    np.savez(packed, W_enc=np.array([Canary(canary)], dtype=object))
    return {"layer_1/params.npz": packed.getvalue()}


def strange_names(files: Files, rng: np.random.Generator, canary: Path) -> Case:
    names = [
        "../../x",
        "/tmp/x",
        "a/../../x",
        "..",
        "C:\\x",
        "a\0b",
        "x" * 300,
        "con",
        "a/b/c/../d",
        "\n",
        "-rf",
        "~/x",
        ".",
    ]
    name = str(rng.choice(names))
    kind = str(rng.choice(["", "zip", "tar.gz"]))
    return Case(repr(name[:20]), files | {name: b"hello"}, kind)


def an_archive_in_an_archive(files: Files, rng: np.random.Generator, canary: Path) -> Case:
    return Case("", {"sae/inner.zip": packed(files, "zip")}, "zip")


def a_bomb(files: Files, rng: np.random.Generator, canary: Path) -> Case:
    large = {name: data + bytes(2_000_000) for name, data in files.items()}
    return Case("", large, "zip", packed(large, "zip", compression=zipfile.ZIP_DEFLATED))


def a_damaged_archive(files: Files, rng: np.random.Generator, canary: Path) -> Case:
    kind = str(rng.choice(["zip", "tar.gz", "tar"]))
    whole = packed(files, kind)
    if rng.random() < 0.5:
        return Case(f"{kind} cut", {}, kind, whole[: int(rng.integers(1, len(whole)))])
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 20))):
        data[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(0, 8))
    return Case(f"{kind} flipped", {}, kind, bytes(data))


def a_link_in_an_archive(files: Files, rng: np.random.Generator, canary: Path) -> Case:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        link = tarfile.TarInfo("sae/cfg.json")
        link.type = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)[int(rng.integers(4))]
        link.linkname = str(canary.parent)
        archive.addfile(link)
    return Case("", {}, "tar.gz", made.getvalue())


MUTATIONS: tuple[Callable[[Files, np.random.Generator, Path], Files | Case], ...] = (
    truncated, bits_flipped, wrong_shapes, strange_config, huge_header, a_pickle_that_runs_code, strange_names,
    wrong_offsets, not_json, a_damaged_archive, lengthened, strange_header, doubled_keys, replaced_by_noise, a_bomb,
    wrong_dtype, without_a_file, an_archive_in_an_archive, an_npz_of_objects, a_link_in_an_archive,
)  # fmt: skip


def packed(files: Files, kind: str, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """The files as an archive."""
    made = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(made, "w", compression) as archive:
            for name, data in files.items():
                entry = zipfile.ZipInfo(name.replace("\0", "") or "x")
                entry.filename, entry.compress_type = name, compression
                archive.writestr(entry, data)
    else:
        with tarfile.open(fileobj=made, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name.replace("\0", ""))
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def _with_header(files: Files, rng: np.random.Generator, change: Callable[[dict[str, Any]], Any]) -> Files:
    """One tensor's entry of a safetensors header changed; files of other kinds get bits flipped."""
    names = [name for name in files if name.endswith(".safetensors")]
    if not names:
        return bits_flipped(files, rng, Path())
    data = files[names[0]]
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    key = str(rng.choice([name for name in header if name != "__metadata__"]))
    header[key] = change(header[key])
    written = json.dumps(header).encode()
    return files | {names[0]: struct.pack("<Q", len(written)) + written + data[8 + n :]}
