"""Files of the Hugging Face hub: models, data sets and SAEs by repository, always of one commit.

A name is resolved to a commit first, and the commit is what is recorded and downloaded: what a repository says later
changes nothing. Only files of known kinds are fetched (weights as safetensors, configurations, tokenizers; no code, no
pickles of models), and no more bytes than allowed. Does not own where tokens are kept (`secrets`) nor what files mean.
"""

import contextlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from backend import errors

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[\w./-]{1,200}", re.ASCII)
_PART = re.compile(r"[\w.+=-]{1,200}", re.ASCII)
_MODEL_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "vocab.*",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model", "*.tiktoken",
)  # fmt: skip
_SAE_FILES = ("*.safetensors", "*.json", "*.npz", "*.yaml", "*.pt")
_DOCUMENTS = ("*.parquet", "*.jsonl", "*.ndjson", "*.json.gz", "*.jsonl.gz", "*.jsonl.zst", "*.txt", "*.txt.gz")
_NO_DATA = ("*README*", "*LICENSE*", "*requirements.txt")
MAX_MODEL_BYTES = 200 * 10**9
MAX_SAE_BYTES = 20 * 10**9


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set as users name it: `owner/name[@revision][:config][:split]`."""

    repo: str
    revision: str = "main"
    config: str = ""
    split: str = ""

    def __str__(self) -> str:
        """As it is named."""
        rest = "".join(f":{part}" for part in (self.config, self.split) if part)
        return self.repo + (f"@{self.revision}" if self.revision != "main" else "") + rest


@dataclass(frozen=True, slots=True)
class SaeFolder:
    """A folder with an SAE in a model repository: `owner/name[@revision][:folder]`."""

    repo: str
    revision: str = "main"
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """Files of a repository at one commit."""

    kind: str
    """model or dataset."""
    repo: str
    commit: str
    files: tuple[tuple[str, int], ...]
    """(path in the repository, bytes), in order of path."""


def is_folder(weights: str) -> bool:
    """Whether a model's weights are named by a folder, rather than by their name on the hub."""
    return Path(weights).is_absolute() or weights.startswith(".") or Path(weights).is_dir()


def parse_dataset(text: str) -> Dataset:
    """Read `owner/name[@revision][:config][:split]`; raises `InvalidInputError`."""
    name, *parts = text.split(":")
    repo, _, revision = name.partition("@")
    if len(parts) > 2 or not _is_named(repo, revision) or any(_PART.fullmatch(part) is None for part in parts):
        raise errors.InvalidInputError(
            f"'{text[:100]}' is no data set of the hub.", hint="Write hf:OWNER/NAME[@REVISION][:CONFIG][:SPLIT]."
        )
    return Dataset(repo, revision or "main", *parts)


def parse_folder(text: str) -> SaeFolder:
    """Read `owner/name[@revision][:folder]`; raises `InvalidInputError`."""
    name, _, folder = text.partition(":")
    repo, _, revision = name.partition("@")
    inside = folder.strip("/").split("/") if folder.strip("/") else []
    if not _is_named(repo, revision) or any(_PART.fullmatch(part) is None or part in (".", "..") for part in inside):
        raise errors.InvalidInputError(
            f"'{text[:100]}' is no folder of a repository of the hub.",
            hint="Write hf:OWNER/NAME[@REVISION]:FOLDER.",
        )
    return SaeFolder(repo, revision or "main", "/".join(inside))


def _is_named(repo: str, revision: str) -> bool:
    return NAME.fullmatch(repo) is not None and (not revision or _REVISION.fullmatch(revision) is not None)


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as one of its users sees it; `HF_ENDPOINT` says where it is."""

    cache: Path
    """Downloaded models are kept here, each commit once."""
    token: str | bool | None
    """False: as nobody. None: as the user this machine is logged in as, if it is."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Hub({str(self.cache)!r})"

    def dataset_files(self, dataset: Dataset) -> Listed:
        """The files with the documents of a data set; raises `InvalidInputError` where none are."""
        listed = self._list("dataset", dataset.repo, dataset.revision)
        kept = [
            (name, size)
            for name, size in listed.files
            if _matches(name, _DOCUMENTS) and not _matches(name, _NO_DATA) and _is_of(dataset, name)
        ]
        if not kept:
            raise errors.InvalidInputError(
                f"the data set '{dataset}' has no Parquet, JSON lines or text files that fit.",
                hint="Look at its files on the hub; config is a folder, split the beginning of a file's name.",
            )
        return Listed(listed.kind, listed.repo, listed.commit, tuple(kept))

    def documents(self, listed: Listed) -> Iterator[tuple[str, Path]]:
        """(name, path) of each file, downloaded when it is asked for and deleted afterwards."""
        for name, _ in listed.files:
            with tempfile.TemporaryDirectory(prefix="eyepiece-hub-") as scratch:
                yield name, self._fetch(listed, name, Path(scratch))

    def model(self, name: str, commit: str = "") -> Path:
        """A local folder with the model's weights and tokenizer; raises `InvalidInputError`."""
        folder = self._kept(name, commit) if commit else None
        if folder is not None:
            return folder
        listed = self._list("model", name, commit or "main")
        folder = self._kept(name, listed.commit)
        if folder is not None:
            return folder
        kept = tuple(file for file in listed.files if "/" not in file[0] and _matches(file[0], _MODEL_FILES))
        if not any(file.endswith(".safetensors") for file, _ in kept):
            raise errors.InvalidInputError(
                f"'{name}' has no weights as safetensors; others may run code when they are read.",
                hint="Convert them, or take a repository that has them.",
            )
        return self._keep(Listed("model", name, listed.commit, kept), MAX_MODEL_BYTES)

    def sae(self, wanted: SaeFolder, into: Path, *, check_room: Callable[[int], None] = lambda n_bytes: None) -> str:
        """Download the files of an SAE into an empty folder; returns the commit.

        `check_room` is asked first whether so many bytes may come. Raises `InvalidInputError`, and what it raises.
        """
        listed = self._list("model", wanted.repo, wanted.revision)
        prefix = f"{wanted.folder}/" if wanted.folder else ""
        inside = [(name.removeprefix(prefix), size) for name, size in listed.files if name.startswith(prefix)]
        kept = [(name, size) for name, size in inside if "/" not in name and _matches(name, _SAE_FILES)]
        if not kept:
            raise errors.InvalidInputError(
                f"'{wanted.repo}' has no folder '{wanted.folder}' with an SAE in it.",
                hint=f"Its folders: {', '.join(_folders(listed)[:20]) or 'none'}.",
            )
        _check_size(f"{wanted.repo}:{wanted.folder}", kept, MAX_SAE_BYTES)
        check_room(sum(size for _, size in kept))
        with tempfile.TemporaryDirectory(dir=into.parent, prefix=".hub-") as scratch:
            for name, _ in kept:
                self._fetch(listed, prefix + name, Path(scratch)).rename(into / name)
        return listed.commit

    def _folder(self, name: str, commit: str) -> Path:
        return self.cache / name.replace("/", "--") / commit

    def _kept(self, name: str, commit: str) -> Path | None:
        folder = self._folder(name, commit)
        return folder if folder.is_dir() else None

    def _keep(self, listed: Listed, max_bytes: int) -> Path:
        """Download beside, then rename: a folder that is there is whole."""
        _check_size(listed.repo, listed.files, max_bytes)
        folder = self._folder(listed.repo, listed.commit)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
            whole = Path(scratch) / "whole"
            whole.mkdir()
            for name, _ in listed.files:
                self._fetch(listed, name, Path(scratch) / "loading").rename(whole / name)
            with contextlib.suppress(OSError):  # another worker was first
                whole.rename(folder)
        return folder

    def _list(self, kind: str, repo: str, revision: str) -> Listed:
        library = _library()
        with self._failures(repo):
            info = library.HfApi().repo_info(
                repo, repo_type=kind, revision=revision, files_metadata=True, token=self.token, timeout=30
            )
        files = sorted((file.rfilename, int(file.size or 0)) for file in info.siblings or [])
        return Listed(kind, repo, str(info.sha), tuple(files))

    def _fetch(self, listed: Listed, name: str, into: Path) -> Path:
        library = _library()
        with self._failures(listed.repo):
            path = library.hf_hub_download(
                listed.repo, name, repo_type=listed.kind, revision=listed.commit, local_dir=into, token=self.token
            )
        return Path(path)

    @contextlib.contextmanager
    def _failures(self, repo: str) -> Iterator[None]:
        """The library's errors in words; never with the token."""
        from huggingface_hub import errors as of_hub  # a dependency of workers; a web host does without

        try:
            yield
        except of_hub.GatedRepoError as error:
            raise errors.InvalidInputError(
                f"'{repo}' is gated: the hub gives it only to users who accepted its terms.",
                hint="Accept them on its page, then give your token: `eyepiece token set huggingface`.",
            ) from error
        except of_hub.RepositoryNotFoundError as error:
            raise errors.InvalidInputError(
                f"the hub has no '{repo}', or not for {'you' if self.token else 'whoever is not logged in'}.",
                hint="Check the name; for a private one give a token: `eyepiece token set huggingface`.",
            ) from error
        except (of_hub.RevisionNotFoundError, of_hub.EntryNotFoundError) as error:
            raise errors.InvalidInputError(
                f"'{repo}' has no such revision or file.", hint="Look on its page."
            ) from error
        except _unreachable() as error:
            raise errors.UnavailableError(
                f"the Hugging Face hub cannot be reached for '{repo}' ({type(error).__name__}).",
                hint="Try again with a network, or give a local folder.",
            ) from error
        except of_hub.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", "no")
            raise errors.UnavailableError(
                f"the Hugging Face hub answered with status {status} for '{repo}'.",
                hint="401 and 403: check the token. Others: try again later.",
            ) from error


def _library() -> Any:
    try:
        import huggingface_hub  # a dependency of workers; a web host does without
    except ImportError as error:
        raise errors.UnsupportedError(
            "this host cannot reach the hub: huggingface-hub is not installed.", hint="pip install 'eyepiece[worker]'"
        ) from error
    return huggingface_hub


def _unreachable() -> tuple[type[Exception], ...]:
    """What is raised without a network: by the HTTP library that huggingface-hub has chosen, or for HF_HUB_OFFLINE."""
    libraries = (sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules)
    return (ConnectionError, *(library.TransportError for library in libraries))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.rpartition("/")[2], pattern) for pattern in patterns)


def _is_of(dataset: Dataset, name: str) -> bool:
    """A config is a folder on the way, a split the beginning of the file's name or a folder."""
    *folders, file = name.split("/")
    if dataset.config and dataset.config not in folders:
        return False
    return not dataset.split or file.startswith(dataset.split) or dataset.split in folders


def _folders(listed: Listed) -> list[str]:
    return sorted({name.rpartition("/")[0] for name, _ in listed.files if name.endswith((".safetensors", ".npz"))})


def _check_size(what: str, files: Sequence[tuple[str, int]], max_bytes: int) -> None:
    total = sum(size for _, size in files)
    if total > max_bytes:
        raise errors.InvalidInputError(
            f"'{what}' is {total / 1e9:.1f} GB, more than {max_bytes / 1e9:.0f}.",
            hint="Download it, and give the folder.",
        )
