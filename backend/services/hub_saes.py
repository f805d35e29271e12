"""SAEs of the Hugging Face hub, brought into the blob store: from then on they are as if they had been uploaded.

The key says where they are from: `saes/hub/OWNER--NAME/COMMIT/FOLDER`, or `saes/saelens/RELEASE/COMMIT/FOLDER` where
SAELens's registry overrides the configuration, which is then written into it. What is there already is not put again.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from backend import errors, hub, weights
from backend.formats.sae_files import NOTHING_DECLARED, Declared
from backend.services import saelens_registry
from backend.services.hosting import Sae
from backend.services.saelens_registry import Entry
from backend.storage import Mirror

PREFIX = "hf:"
_CONFIG = "cfg.json"
_SCALED = ("expected_average_only_in", True)
"""What a configuration of SAELens says where the registry's factor is to be folded; True: before SAELens 3."""


def is_named(text: str) -> bool:
    """Whether an SAE is named by its place on the hub, or in SAELens's registry."""
    return text.startswith((PREFIX, saelens_registry.PREFIX))


def bring(
    of: hub.Hub,
    text: str,
    mirror: Mirror,
    declared: Declared = NOTHING_DECLARED,
    *,
    check_room: Callable[[int], None] = lambda n_bytes: None,
) -> Sae:
    """The SAE that `hf:OWNER/NAME[@REVISION]:FOLDER` or `saelens:RELEASE/ID` names.

    Args:
        of: Downloads it.
        text: Its name.
        mirror: Of the store it is put into.
        declared: What is said of it beside its files; it wins over the registry.
        check_room: Raises where so many bytes may not come; asked before they do.

    Raises:
        InvalidInputError: There is no such SAE.
        UnavailableError: The hub cannot be reached.
        UnsupportedError: What is missing here.
    """
    release, entry = "", None
    if text.startswith(saelens_registry.PREFIX):
        named = text.removeprefix(saelens_registry.PREFIX)
        release, entry = named.partition("/")[0], saelens_registry.find(named)
    wanted = hub.parse_folder(text.removeprefix(PREFIX)) if entry is None else entry.folder
    of.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=of.cache, prefix=".sae-") as scratch:
        into = Path(scratch) / "files"
        into.mkdir()
        commit = of.sae(wanted, into, check_room=check_room)
        root = ["hub", wanted.repo.replace("/", "--")]
        if entry is not None:
            declared = _with_factor(declared, entry, into)
            if entry.overrides:
                root = ["saelens", release]
                _override(into / _CONFIG, entry)
        key = "/".join(["saes", *root, commit, wanted.folder or wanted.repo.rpartition("/")[2]])
        for file in sorted(into.iterdir()):
            if not mirror.store.exists(f"{key}/{file.name}"):
                mirror.store.put(f"{key}/{file.name}", file)
    return Sae(weights.of_key(key), mirror.folder_of(key), declared)


def _with_factor(declared: Declared, entry: Entry, folder: Path) -> Declared:
    """The registry's factor counts only where the configuration asks for one, as SAELens has it."""
    if entry.norm_scaling_factor is None or declared.norm_scaling_factor is not None:
        return declared
    asked = _config(folder / _CONFIG).get("normalize_activations")
    return replace(declared, norm_scaling_factor=entry.norm_scaling_factor) if asked in _SCALED else declared


def _override(path: Path, entry: Entry) -> None:
    """SAELens 6 keeps what is not the SAE's own in `metadata`, before that all was beside each other."""
    config = _config(path)
    inner = config.get("metadata")
    changed = {"metadata": inner | entry.overrides} if isinstance(inner, dict) else entry.overrides
    path.write_text(json.dumps(config | changed))


def _config(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.InvalidInputError(
            f"the SAE's {path.name} cannot be read.", hint="Look at it on the hub."
        ) from error
    if not isinstance(found, dict):
        raise errors.InvalidInputError(f"the SAE's {path.name} is no JSON object.", hint="Look at it on the hub.")
    return found
