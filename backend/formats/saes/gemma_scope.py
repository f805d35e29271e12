"""Gemma Scope: `params.npz` of one SAE or transcoder, whose place is told by the folders it lies in.

jumprelu, b_dec not subtracted. Folders are `…-pt-res/layer_12/width_16k/average_l0_82`; of transcoders
`…-transcoders/layer_12/…`, which read the MLP's input after its norm, before the norm's gain.
Sources: Lieberum et al., "Gemma Scope" (2024), section 2 and the notebook of google/gemma-scope; the mapping of places
is that of get_gemma_2_config_from_hf and get_gemma_2_transcoder_config_from_hf in SAELens 6.54.
"""

import re
from pathlib import Path

from backend.formats.saes import npz_header, reading, refusals
from backend.formats.saes.description import Declared
from backend.formats.saes.problems import Problems

WEIGHTS_NAME = "params.npz"
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_CONTEXT_SIZE = 1024


def is_here(folder: Path) -> bool:
    """The folder has this format's file."""
    return (folder / WEIGHTS_NAME).is_file()


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the file and its folders' names say."""
    draft = reading.Draft("gemma_scope", architecture="jumprelu", is_b_dec_subtracted=False, context_size=_CONTEXT_SIZE)
    with problems.collect():
        draft.header = npz_header.read(folder / WEIGHTS_NAME)
    draft.keys = {_canonical(key): key for key in draft.header}
    if "scaling_factor" in draft.header:
        problems.append(f"scaling_factor: {refusals.FINETUNING_SCALING}")
    path = "/".join(folder.absolute().parts[-6:])
    layer = re.search(r"layer_(\d+)", path)
    site = re.search(r"-(?:pt|it)-(res|mlp|att)(?![a-z])", path)
    if layer is not None and "transcoder" in path:
        draft.hook_point = f"blocks.{int(layer[1])}.ln2.hook_normalized"
        draft.hook_point_out = f"blocks.{int(layer[1])}.hook_mlp_out"
        draft.is_transcoder = True
    elif layer is not None and site is not None and "embedding" not in path:
        draft.hook_point = f"blocks.{int(layer[1])}.{_SITES[site[1]]}"
    return draft


def _canonical(key: str) -> str:
    return f"W_{key[2:]}" if key.startswith("w_") else key
