"""Where SAELens's registry says a pretrained SAE lies: release and id become a folder of a repository of the hub.

Only the registry's file is read, of the package that is installed here: importing SAELens takes seconds and PyTorch. The
file is large and a release is one block of it, so only that block is parsed. What the registry says beside the place
comes along: overrides of the configuration, and the factor activations are scaled by (`pretrained_saes.yaml` and
`get_norm_scaling_factor` of SAELens 6.54). Does not own downloading (`hub_saes`).
"""

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from backend import errors, hub

PREFIX = "saelens:"
_FILE = "sae_lens/pretrained_saes.yaml"
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)
_FILE_SUFFIXES = (".pt", ".npz", ".safetensors")


@dataclass(frozen=True, slots=True)
class Entry:
    """An SAE of the registry."""

    folder: hub.SaeFolder
    overrides: dict[str, Any]
    """Of its cfg.json; empty for formats that have none."""
    norm_scaling_factor: float | None
    """For a cfg.json that says `expected_average_only_in`; None: there is none, or the format has its own."""


def find(text: str) -> Entry:
    """The SAE that `RELEASE/ID` names.

    Raises:
        InvalidInputError: There is no such release or id.
        UnsupportedError: SAELens is not installed, or the SAE is not a folder.
    """
    name, _, sae_id = text.partition("/")
    release = _release(_registry(), name)
    by_id = {str(each["id"]): each for each in release["saes"]}
    if sae_id not in by_id:
        raise errors.InvalidInputError(
            f"the release '{name[:100]}' has no SAE '{sae_id[:100]}'.",
            hint=f"It has {len(by_id)}: {', '.join(list(by_id)[:5])}{', …' if len(by_id) > 5 else ''}.",
        )
    sae = by_id[sae_id]
    path = str(sae["path"])
    if path.endswith(_FILE_SUFFIXES):
        raise errors.UnsupportedError(
            f"'{text[:200]}' is the file {path} of {release['repo_id']}, not a folder with a configuration.",
            hint="Download it, put it in a folder, and declare what it does not say; docs/formats.md.",
        )
    is_own = release["conversion_func"] is None
    return Entry(
        hub.SaeFolder(release["repo_id"], folder="" if path == "." else path.strip("/")),
        (release.get("config_overrides") or {}) if is_own else {},
        sae.get("norm_scaling_factor") if is_own else None,
    )


def _registry() -> str:
    try:
        text = metadata.distribution("sae-lens").read_text(f"../{_FILE}")
    except metadata.PackageNotFoundError:
        text = None
    if text is None:
        raise errors.UnsupportedError(
            "releases of SAELens are found by its registry, and SAELens is not installed here.",
            hint="pip install sae-lens, or name the repository: hf:OWNER/NAME:FOLDER.",
        )
    return text


def _release(registry: str, name: str) -> dict[str, Any]:
    import yaml  # comes with SAELens; not every host has it

    begins = rf"^{re.escape(name)}:\n(?:[ \t-].*\n|\n)+"
    block = re.search(begins, registry, re.MULTILINE) if _NAME.fullmatch(name) else None
    if block is None:
        raise errors.InvalidInputError(
            f"SAELens {metadata.version('sae-lens')} knows no release '{name[:100]}'.",
            hint="Write saelens:RELEASE/ID, such as saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre.",
        )
    parsed: dict[str, Any] = yaml.safe_load(block[0])
    return parsed[name]  # type: ignore[no-any-return]  # the block begins with it
