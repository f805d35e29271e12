"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, in a folder named for the module it was trained on.

top-k of relu; an SAE subtracts b_dec and a transcoder does not; `skip_connection` adds W_skip @ input. The folder's name is
the hook point: `layers.5` is a block's output, `layers.5.mlp` its MLP's; a transcoder reads the module's input.
Source: sparsify/{config,sparse_coder,fused_encoder}.py of eai-sparsify 1.3.3.
"""

from pathlib import Path

from backend.formats.saes import hook_names, json_file, reading, refusals, safetensors_header
from backend.formats.saes.description import Declared
from backend.formats.saes.json_file import Fields
from backend.formats.saes.problems import Problems

CONFIG_NAME = "cfg.json"
STEM = "sae"
_KEYS = {"W_enc": "encoder.weight", "W_dec": "W_dec", "b_enc": "encoder.bias", "b_dec": "b_dec"}


def is_here(folder: Path) -> bool:
    """The folder has this format's files."""
    return (folder / CONFIG_NAME).is_file() and safetensors_header.find(folder, STEM) is not None


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the files and the folder's name say."""
    draft = reading.Draft("sparsify", architecture="topk", keys=dict(_KEYS), transposed=frozenset({"W_enc"}))
    with problems.collect():
        draft.config = json_file.read(folder / CONFIG_NAME)
    with problems.collect():
        draft.header, _ = safetensors_header.read(safetensors_header.find(folder, STEM) or folder / STEM)
    config = Fields(draft.config, problems, CONFIG_NAME)
    activation = config.text("activation") or "topk"
    if activation != "topk":
        problems.append(refusals.architecture(activation))
    if config.flag("signed"):
        draft.architecture = "abstopk"
    d_in = config.size("d_in")
    factor = config.size("expansion_factor") or 32
    latents = config.values.get("num_latents") or None
    draft.sizes = {"d_in": d_in, "d_sae": config.size("num_latents") if latents else d_in and d_in * factor}
    draft.k = config.size("k")
    draft.is_transcoder = config.flag("transcode") or False
    if config.flag("skip_connection"):
        draft.keys["W_skip"] = "W_skip"
    module = config.text("hookpoint") or folder.absolute().name
    draft.hook_point = hook_names.of_module(module, is_input=draft.is_transcoder)
    draft.hook_point_out = hook_names.of_module(module) if draft.is_transcoder else None
    return draft
