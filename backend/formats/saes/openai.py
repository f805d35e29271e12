"""OpenAI's sparse_autoencoder: one `.pt`, a state dict that also holds the activation function and its k.

ReLU without normalisation, or TopK with layer norm (the package's own rule tells one from the other so); both subtract
`pre_bias`. Nothing in the file names the hook point. Tied decoders are the encoder, transposed.
Source: sparse_autoencoder/model.py of openai/sparse_autoencoder (4965b94).
"""

from pathlib import Path

from backend.formats.saes import reading, refusals, torch_header
from backend.formats.saes.description import Declared
from backend.formats.saes.problems import Problems

_KEYS = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "latent_bias", "b_dec": "pre_bias"}


def is_here(folder: Path) -> bool:
    """The folder has one `.pt` file."""
    return _file(folder) is not None


def _file(folder: Path) -> Path | None:
    found = sorted(path for path in folder.glob("*.pt") if path.is_file())
    return found[0] if len(found) == 1 else None


def read(folder: Path, declared: Declared, problems: Problems) -> reading.Draft:
    """What the file says."""
    draft = reading.Draft("openai", keys=dict(_KEYS), transposed=frozenset({"W_enc", "W_dec"}))
    path = _file(folder)
    if path is None:
        problems.append("The folder holds no .pt file, or several; expected one.")
        return draft
    contents = torch_header.Contents({}, {})
    with problems.collect():
        contents = torch_header.read(path)
    draft.header, draft.config = contents.tensors, dict(contents.values)
    if "decoder.weight" not in draft.header and "encoder.weight" in draft.header:
        draft.keys["W_dec"], draft.transposed = "encoder.weight", frozenset({"W_enc"})
    activation = contents.values.get("activation", "ReLU")
    k = contents.values.get("activation_state_dict.k")
    match activation:
        case "ReLU":
            draft.architecture = "standard"
        case "TopK":
            draft.architecture, draft.normalize_activations = "topk", "layer_norm"
            draft.k = k if isinstance(k, int) and not isinstance(k, bool) else None
            if contents.values.get("activation_state_dict.postact_fn", "ReLU") != "ReLU":
                problems.append(refusals.activation("TopK without ReLU"))
        case _:
            problems.append(refusals.activation(str(activation)))
    return draft
