"""The demo's text: the Python standard library of the interpreter that runs this.

Owns which files count and in what order. Every Python install carries this text, so nothing has to be downloaded;
it differs between Python versions, so nothing may depend on its exact words.

1. Walk the standard library in sorted order; skip its tests (unless asked), vendored wheels and third-party packages.
2. Skip tables: a file that zlib shrinks more than `MAX_COMPRESSION` times is data, not prose or code.
3. Add the help topics of `pydoc_data.topics`, one document each.
"""

import hashlib
import importlib
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "<|endoftext|>"
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "_bundled", "turtledemo", "pydoc_data"})
MAX_COMPRESSION = 7.0
MAX_DOCUMENT_BYTES = 200_000


@dataclass(frozen=True, slots=True)
class Document:
    """One file or help topic."""

    name: str
    """Path below the standard library, or `topics/<name>`."""
    text: str

    @property
    def is_validation(self) -> bool:
        """About one document in twenty, by a hash of its name, is kept out of training."""
        return hashlib.sha256(self.name.encode()).digest()[0] < 13


def documents(*, with_tests: bool = False) -> Iterator[Document]:
    """Yield every document in a fixed order: modules by path, then help topics by name.

    The library's own tests, which some distributions leave out, serve only as more text to train on.
    """
    root = Path(sysconfig.get_path("stdlib"))
    skipped = SKIPPED_FOLDERS if with_tests else SKIPPED_FOLDERS | TEST_FOLDERS
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if skipped.isdisjoint(name.parts[:-1]) and path.stat().st_size <= MAX_DOCUMENT_BYTES:
            text = path.read_text(encoding="utf-8", errors="replace")
            if _is_prose_or_code(text):
                yield Document(name.as_posix(), text)
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for topic in sorted(topics):
        if _is_prose_or_code(topics[topic]):
            yield Document(f"topics/{topic}", topics[topic])


def write(path: Path, *, max_bytes: int | None = None) -> int:
    """Write the documents, shuffled by a hash of their names and joined by `SEPARATOR`; return how many were written.

    The order by hash makes any prefix (`max_bytes`, whole documents) a fair sample of the library.
    """
    n_bytes = n_documents = 0
    ordered = sorted(documents(), key=lambda document: hashlib.sha256(document.name.encode()).digest())
    with path.open("w", encoding="utf-8") as file:
        for document in ordered:
            n_bytes += file.write(document.text + SEPARATOR)
            n_documents += 1
            if max_bytes is not None and n_bytes >= max_bytes:
                break
    return n_documents


def _is_prose_or_code(text: str) -> bool:
    data = text.encode()
    return len(data) > 200 and len(data) < MAX_COMPRESSION * len(zlib.compress(data, 6))
