"""Pickled weights (`.pt`) of strangers, turned into safetensors by a process of its own that can do no harm.

1. The file's bytes name the result, so what was converted once is never unpickled again.
2. A child with an empty environment, no open files of ours, a session and a scratch folder of its own reads it with
   `torch.load(weights_only=True)` (`workers.compute.unpickle`) under limits of memory, CPU time and file size.
3. Its result is renamed into place; whatever else happens to the child becomes a sentence.
Does not own which keys or shapes an SAE needs. Costs the import of torch, some two seconds, once a file.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from backend import errors

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = "values"
"""Key of the file's metadata that holds everything that is no tensor, as JSON by dotted name."""
REFUSED = 2
"""Exit status of a child that says in words what is wrong with the file."""
OUT_OF_MEMORY = 3
_AGAIN = "Save it as safetensors: safetensors.torch.save_file(state_dict, path)."


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use, beyond what torch itself takes."""

    memory_bytes: int
    cpu_s: int = 120
    wall_s: float = 300.0


def limits_of(path: Path) -> Limits:
    """Enough for any honest file: the tensors as read, as laid out anew and as written, and half a GB."""
    return Limits(memory_bytes=4 * path.stat().st_size + (1 << 29))


def read(
    path: Path, *, cache: Path | None = None, limits: Limits | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and other values of a pickle by dotted name (`a.b` for `b` in the dict `a`); `cache` as `as_safetensors`.

    Raises:
        InvalidInputError: As `as_safetensors`.
    """
    if cache is not None:
        return _read(as_safetensors(path, cache=cache, limits=limits))
    with tempfile.TemporaryDirectory(prefix="eyepiece-weights-") as folder:
        return _read(as_safetensors(path, cache=Path(folder), limits=limits))


def _read(converted: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(converted, framework="pt") as file:
        values = json.loads((file.metadata() or {}).get(VALUES, "{}"))
    return load_file(converted), values


def as_safetensors(path: Path, *, cache: Path, limits: Limits | None = None) -> Path:
    """The pickle's tensors as a safetensors file below `cache`, made now if the same bytes were not before.

    Raises:
        InvalidInputError: It is no pickle of tensors, would run code, or needs more than it may use.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as file:
        target = cache / f"{hashlib.file_digest(file, 'sha256').hexdigest()}.safetensors"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".scratch-") as scratch:
            partial = Path(scratch) / "converted.safetensors"
            _convert(path, partial, limits or limits_of(path))
            partial.replace(target)
    return target


def _convert(path: Path, into: Path, limits: Limits) -> None:
    command = (sys.executable, "-m", "workers.compute.unpickle", path.resolve(), into)
    numbers = (limits.memory_bytes, limits.cpu_s, int(limits.wall_s) + 1)
    child = subprocess.Popen(
        [str(part) for part in (*command, *numbers)], env=_environment(into.parent), cwd=into.parent,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = child.communicate(timeout=limits.wall_s)
    except subprocess.TimeoutExpired as error:
        raise _refusal(path, f"took longer than {limits.wall_s:g} seconds to read.") from error
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    gigabytes = limits.memory_bytes / 1e9
    match child.returncode:
        case 0:
            return
        case code if code == REFUSED:
            raise _refusal(path, said.decode(errors="replace").strip())
        case code if code in (OUT_OF_MEMORY, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV):
            raise _refusal(path, f"needs more than {gigabytes:.1f} GB of memory to read, or breaks its reader.")
        case code if code in (-signal.SIGXCPU, -signal.SIGALRM):
            raise _refusal(path, f"took more than {limits.cpu_s} seconds of computation to read.")
        case code if code == -signal.SIGXFSZ:
            raise _refusal(path, "holds more than its size allows.")
        case code:
            raise _refusal(path, f"broke its reader, which ended with {code}.")


def _environment(scratch: Path) -> dict[str, str]:
    """None of ours: no keys, tokens or URLs."""
    given = {"PYTHONPATH": str(REPOSITORY), "HOME": str(scratch), "TMPDIR": str(scratch), "LANG": "C.UTF-8"}
    return given | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _refusal(path: Path, why: str) -> errors.InvalidInputError:
    return errors.InvalidInputError(f"{path.name} {why}", hint=_AGAIN)
