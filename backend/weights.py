"""Where a source's weights lie: a folder of this machine, or one of the blob store, which every worker reaches.

`source.weights` is the path of the one, or `blob:` and the key of the other. Does not own what the files mean.
"""

from pathlib import Path

from backend import errors
from backend.settings import Settings
from backend.storage import Mirror

BLOB = "blob:"


def cache_of(settings: Settings) -> Path:
    """Where a worker keeps as safetensors what came pickled, by its bytes."""
    return settings.data / "cache" / "weights"


def written_at(weights: str) -> int:
    """When the file, or one of the folder, was last replaced, in ns; 0 for what is no file of this machine."""
    folder = Path(weights)
    if folder.is_file():
        return folder.stat().st_mtime_ns
    return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else 0


def of_key(key: str) -> str:
    """How a row names the folder of blobs below `key`."""
    return BLOB + key


def key_of(weights: str) -> str | None:
    """The key of a folder of blobs; None for a folder of this machine."""
    return weights.removeprefix(BLOB) if weights.startswith(BLOB) else None


def folder_of(weights: str, mirror: Mirror) -> Path:
    """A local folder with the files, to be read at once; raises `InvalidInputError` where the blobs are gone."""
    key = key_of(weights)
    if key is None:
        return Path(weights)
    try:
        return mirror.folder_of(key)
    except FileNotFoundError as error:
        raise errors.InvalidInputError("the uploaded weights are gone.", hint="Upload them again.") from error
