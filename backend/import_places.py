"""Where files to import lie: a folder of this host, blobs of an upload, or below an address of the web.

A place is named in a job's spec by one key: `folder`, `blobs` or `url`. Of an address the files are listed where the server
lists them as S3 does; else those are looked for that an export always has, batch by batch.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from backend import errors
from backend.formats.import_files import HEADS, Place

if TYPE_CHECKING:  # readers of imports start without it
    from backend.storage import Store

TIMEOUT_S = 60
MOST_FILES = 100_000
_MAX_LISTING_BYTES = 1 << 24
_BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/?(.*)")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this host; hidden files are not there."""

    path: Path

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name; links out of the folder are not followed."""
        found = {}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                found[name.as_posix()] = path.stat().st_size
        return found

    def open(self, name: str) -> IO[bytes]:
        """A file."""
        return (self.path / name).open("rb")


@dataclass(frozen=True, slots=True)
class Blobs:
    """Files of an upload."""

    store: "Store"
    key: str

    def sizes(self) -> dict[str, int]:
        """Bytes of every blob below the key, by what follows it."""
        return {key.removeprefix(f"{self.key}/"): self.store.size(key) for key in self.store.keys(self.key)}

    def open(self, name: str) -> IO[bytes]:
        """A blob."""
        opened: IO[bytes] = self.store.files.open(f"{self.store.root}/{self.key}/{name}", "rb")
        return opened


@dataclass(frozen=True, slots=True)
class Web:
    """What lies below an address, `https://host/path/`."""

    url: str
    """Ends with a slash."""

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by name; raises `UnavailableError` where the server does not answer."""
        listed = self._listed()
        return listed if listed is not None else dict(self._probed())

    def open(self, name: str) -> IO[bytes]:
        """A file, as its bytes come; raises `UnavailableError`, and `NotFoundError` where there is none."""
        answer: IO[bytes] = _get(self.url + quote(name))
        return answer

    def _listed(self) -> dict[str, int] | None:
        """As S3 lists it: pages of up to 1,000. None: the server does not."""
        parts = urlsplit(self.url)
        prefix = parts.path.lstrip("/")
        found: dict[str, int] = {}
        more = ""
        while True:
            query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": more} if more else {})
            try:
                with _get(f"{parts.scheme}://{parts.netloc}/?{urlencode(query)}") as answer:
                    root = ElementTree.fromstring(answer.read(_MAX_LISTING_BYTES))  # noqa: S314 - expat bounds entities
            except (errors.SiteError, ElementTree.ParseError):
                return None
            space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
            if root.tag != f"{space}ListBucketResult":
                return None
            for entry in root.iter(f"{space}Contents"):
                name = (entry.findtext(f"{space}Key") or "").removeprefix(prefix)
                if name and not name.endswith("/"):
                    found[name] = int(entry.findtext(f"{space}Size") or 0)
            more = root.findtext(f"{space}NextContinuationToken") or ""
            if not more or len(found) > MOST_FILES:
                return found

    def _probed(self) -> Iterator[tuple[str, int]]:
        for name in [f"{head}.jsonl" for head in HEADS] + ["skipped_indexes.json"]:
            size = self._size(name)
            if size is not None:
                yield name, size
        for pattern in (
            "features/batch-{}.jsonl.gz", "activations/batch-{}.jsonl.gz", "explanations/batch-{}.jsonl.gz", "batch-{}.json",
        ):  # fmt: skip
            for number in range(MOST_FILES):
                name = pattern.format(number)
                size = self._size(name)
                if size is None:
                    break
                yield name, size

    def _size(self, name: str) -> int | None:
        try:
            with _get(self.url + name, method="HEAD") as answer:
                return int(answer.headers.get("content-length") or 0)
        except errors.NotFoundError:
            return None


def of(named: Mapping[str, Any], store: "Store") -> Place:
    """The place that a job's spec names."""
    if "folder" in named:
        return Folder(Path(named["folder"]))
    if "blobs" in named:
        return Blobs(store, named["blobs"])
    return Web(named["url"])


def url_of(given: str) -> str:
    """The address of a place as a user gives it, `s3://` or `https://`, ending with a slash; raises `InvalidInputError`."""
    bucket = _BUCKET.fullmatch(given)
    if bucket:
        given = f"https://{bucket[1]}.s3.amazonaws.com/{quote(bucket[2])}"
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise errors.InvalidInputError(
            f"{given[:200]!r} is no address of the web.",
            hint="Give one such as https://neuronpedia-datasets.s3.us-east-1.amazonaws.com/v1/gpt2-small/8-res-jb/.",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/"


def is_url(given: str) -> bool:
    """Whether a user names an address, not a folder."""
    return given.startswith(("http://", "https://", "s3://"))


def _get(url: str, *, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method, headers={"User-Agent": "eyepiece"})  # noqa: S310 - checked by url_of
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (403, 404, 405):  # S3 answers 403 for what is not there where listing is not allowed
            raise errors.NotFoundError(f"{url} answers {error.code}.", hint="Check the address.") from error
        raise errors.UnavailableError(f"{url} answers {error.code}.", hint="Try again later.") from error
    except OSError as error:
        raise errors.UnavailableError(f"{url} cannot be reached: {error}.", hint="Check the address.") from error
