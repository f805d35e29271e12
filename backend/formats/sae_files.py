"""SAEs' files: which format a folder has, and what it says of itself, checked before any work starts.

Reads headers and configurations only, with the standard library, so a web process can check an SAE; nothing is ever
unpickled. Each format has a reader in `saes`; every problem is collected before anything is raised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from backend import errors
from backend.formats.saes import (
    dictionary_learning,
    gemma_scope,
    json_file,
    llama_scope,
    openai,
    plain,
    reading,
    saelens,
    sparsify,
)
from backend.formats.saes.description import Declared as Declared
from backend.formats.saes.description import Format
from backend.formats.saes.description import SaeDescription as SaeDescription
from backend.formats.saes.problems import Problems

NOTHING_DECLARED = Declared()
_DECLARED = TypeAdapter(Declared)


class Reader(NamedTuple):
    """A format's module."""

    is_here: Callable[[Path], bool]
    read: Callable[[Path, Declared, Problems], reading.Draft]


READERS: dict[Format, Reader] = {
    "saelens": Reader(saelens.is_here, saelens.read),
    "sparsify": Reader(sparsify.is_here, sparsify.read),
    "gemma_scope": Reader(gemma_scope.is_here, gemma_scope.read),
    "llama_scope": Reader(llama_scope.is_here, llama_scope.read),
    "dictionary_learning": Reader(dictionary_learning.is_here, dictionary_learning.read),
    "openai": Reader(openai.is_here, openai.read),
    "plain": Reader(plain.is_here, plain.read),
}
"""In the order a folder is tried; one safetensors file without a configuration is `plain`, so that comes last."""
EXPECTED = (
    "Expected an SAE's files: cfg.json with sae_weights.safetensors (SAELens) or sae.safetensors (sparsify), params.npz "
    "(Gemma Scope), hyperparams.json with checkpoints/final.safetensors (Llama Scope), ae.pt with config.json "
    "(dictionary_learning), one .pt (OpenAI), or one .safetensors."
)


def describe(folder: Path, declared: Declared = NOTHING_DECLARED) -> SaeDescription:
    """Read and check the folder's configuration and the headers of its weights; `declared` wins over them.

    Raises:
        ProblemsError: With every problem found.
    """
    problems = Problems()
    reader = _reader(folder, declared)
    try:
        draft = reader.read(folder, declared, problems)
    except OSError as error:
        raise errors.ProblemsError(folder.name, [f"A file cannot be read: {error.strerror}."]) from error
    found = reading.finish(folder, draft, declared, problems)
    if problems:
        raise errors.ProblemsError(folder.name, problems)
    return found


def _reader(folder: Path, declared: Declared) -> Reader:
    if declared.format is not None and declared.format not in READERS:
        raise errors.ProblemsError(folder.name, [f"format '{declared.format}' is none SAEs have."])
    tried = READERS.values() if declared.format is None else [READERS[declared.format]]
    reader = next((reader for reader in tried if reader.is_here(folder)), None)
    if reader is None:
        raise errors.ProblemsError(folder.name or str(folder), [f"It holds no SAE. {EXPECTED}"])
    return reader


def declared_of(text: str, *, hook_point: str = "") -> Declared:
    """What a user declares as JSON, with its hook point if given apart; raises `InvalidInputError`."""
    given = json_file.parse(text.encode(), "what is declared") | ({"hook_point": hook_point} if hook_point else {})
    try:
        return _DECLARED.validate_python(given)
    except ValidationError as error:
        names = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}))
        raise errors.InvalidInputError(
            f"{names or text[:80]} cannot be declared so.",
            hint='Give JSON such as {"hook_point": "blocks.6.hook_resid_pre", "activation": "topk", "k": 32}.',
        ) from error


def is_sae(folder: Path) -> bool:
    """The folder has the files of one of the formats."""
    return any(reader.is_here(folder) for reader in READERS.values())


@dataclass(frozen=True, slots=True)
class Contexts:
    """How SAEs want a corpus cut."""

    context_size: int | None
    prepend_bos: bool


def common_contexts(descriptions: Sequence[SaeDescription], context_size: int = 0) -> Contexts:
    """What SAEs that share a forward pass agree on, `context_size` (if not 0) deciding for all of them.

    Raises:
        InvalidInputError: They do not.
    """
    wanted = {Contexts(context_size or each.context_size, each.prepend_bos) for each in descriptions}
    if len(wanted) == 1:
        return wanted.pop()
    if len({each.prepend_bos for each in wanted}) > 1:
        raise errors.InvalidInputError(
            "some of the SAEs were trained with a BOS token before each context and some without.",
            hint="Add them in two commands: one corpus cannot be cut both ways.",
        )
    sizes = sorted({str(each.context_size or "no size") for each in wanted})
    raise errors.InvalidInputError(
        f"the SAEs were trained on contexts of different sizes: {', '.join(sizes)}.",
        hint="Set --context-size, or add them in several commands.",
    )


def folders_of(folder: Path) -> list[Path]:
    """The SAE folder itself, or those in a folder of SAEs (a source set) by name; raises `InvalidInputError`."""
    if is_sae(folder) or not folder.is_dir():
        return [folder]
    found = sorted(child for child in folder.iterdir() if is_sae(child))
    if not found:
        raise errors.InvalidInputError(f"'{folder}' is no SAE and holds none.", hint=EXPECTED)
    return found
