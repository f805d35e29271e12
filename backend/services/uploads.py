"""Uploads: files somebody hands over, resumable while they arrive, then checked and kept as blobs.

1. `create` says which files will come. Their bytes arrive in a staging folder (`staging`), in chunks, in any order of
   files, over as many connections as it takes.
2. `check` verifies sizes, sha256s and, of SAEs, headers and configurations: all problems at once. Headers only; nothing
   is unpickled and no weights are read.
3. `store` makes blobs of the files, `saes/<id>/<folder>/…`, `corpora-raw/<id>/…` or `imports/<id>/…`; `complete` records it.
An upload nobody goes on with, or hosts, is deleted after a day. Does not own hosting (`hosting`), nor bytes (`staging`).
"""

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from backend import errors, import_places, names, weights
from backend.db.tables import Job, Source, Upload
from backend.formats import import_files, sae_files, upload_files
from backend.formats.sae_files import Declared, SaeDescription
from backend.services import limits, staging, visibility
from backend.services.access import Viewer
from backend.services.staging import Staging
from backend.storage import Store

Kind = Literal["sae", "corpus", "dashboards"]
State = Literal["open", "complete"]
WHOLE = ".whole"
"""Name of the archive, or of a file that comes in one request, among what has arrived."""
ROOTS: dict[str, str] = {"sae": "saes", "corpus": "corpora-raw", "dashboards": "imports"}
"""Key of the blobs of each kind."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of an upload."""

    name: str
    size: int
    sha256: str | None
    """As the sender says, or as computed once it is complete; None: neither."""


@dataclass(frozen=True, slots=True)
class FileView(File):
    """One file, and how far it is."""

    offset: int
    """Bytes that are there; the next chunk begins with this one."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the check found one SAE to be."""

    folder: str
    format: str
    kind: str
    architecture: str
    hook_point: str
    hook_point_out: str
    d_in: int
    d_sae: int
    k: int | None
    context_size: int | None
    prepend_bos: bool
    source: str
    """The id it gets unless another one is given."""


@dataclass(frozen=True, slots=True)
class UploadView:
    """An upload, and how far it is."""

    id: str
    kind: Kind
    name: str
    state: State
    files: tuple[FileView, ...]
    n_bytes: int
    found: tuple[Found, ...]
    """Empty until it is complete, and for corpora."""
    declared: dict[str, Any]
    """What was said beside the files when it was completed."""
    created_at: datetime


def create(
    session: Session, area: Staging, viewer: Viewer, kind: Kind, files: Sequence[File], *, name: str = ""
) -> UploadView:
    """Make room for files that will come; `name` is the folder they lie in where they name none themselves.

    Raises:
        ProblemsError: Names or sizes that cannot be.
        InvalidInputError, UnavailableError: Too much for this host.
        ForbiddenError: Too much for the viewer's account.
    """
    problems = upload_files.names_problems([file.name for file in files])
    problems += [f"'{file.name[:60]}' is empty. Is it the right file?" for file in files if file.size < 1]
    problems += [
        f"'{file.name[:60]}' is an archive. Upload it by itself, or the files in it."
        for file in files
        if upload_files.is_archive(file.name) and len(files) > 1
    ]
    if name and (problem := upload_files.name_problem(name)):
        problems.append(problem)
    if problems:
        raise errors.ProblemsError("the upload", problems)
    n_bytes = sum(file.size for file in files)
    area.check_room(n_bytes)
    limits.check_bytes(session, viewer, n_bytes)
    row = Upload(
        id=new_id(), owner_id=viewer.account_id, kind=kind, name=name or _default_name(files), state="open",
        files=[asdict(file) for file in files], n_bytes=n_bytes,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return _view(row, area)


def new_id() -> str:
    """128 random bits: nobody guesses another's upload."""
    return secrets.token_hex(16)


def get(session: Session, area: Staging, viewer: Viewer, upload_id: str) -> UploadView:
    """One upload of the viewer's; raises `NotFoundError`."""
    return _view(_row(session, viewer, upload_id), area)


def use(session: Session, area: Staging, viewer: Viewer, upload_id: str) -> UploadView:
    """As `get`; until the transaction ends, which makes something of it, nobody deletes it."""
    _row(session, viewer, upload_id).touched_at = func.now()
    session.flush()
    return get(session, area, viewer, upload_id)


def latest(session: Session, area: Staging, viewer: Viewer, n: int = 20) -> tuple[UploadView, ...]:
    """The viewer's own that are not hosted yet, newest first."""
    if viewer.account_id is None and not viewer.is_admin:
        return ()  # nobody: what has no owner is the host's
    query = select(Upload).where(Upload.owner_id == viewer.account_id, ~_is_used()).order_by(Upload.created_at.desc())
    return tuple(_view(row, area) for row in session.scalars(visibility.unrestricted(query.limit(n))))


def target(session: Session, area: Staging, viewer: Viewer, upload_id: str, name: str) -> tuple[Path, int]:
    """Where bytes of a file go, and how many it will have.

    Raises:
        NotFoundError: There is no such upload, or no such file in it.
        ConflictError: It is complete.
    """
    row = _row(session, viewer, upload_id)
    if row.state != "open":
        raise errors.ConflictError("this upload is complete; its files do not change.", hint="Begin another one.")
    size = next((file["size"] for file in row.files if file["name"] == name), None)
    if size is None:
        raise errors.NotFoundError("This upload has no file of that name.", hint="GET it to see its files.")
    row.touched_at = func.now()
    return _path(area, row.id, row.kind, row.name, name), size


@dataclass(frozen=True, slots=True)
class Checked:
    """An upload whose files are all there and are what they should be."""

    id: str
    kind: Kind
    name: str
    files: tuple[File, ...]
    """With their sha256."""
    found: tuple[Found, ...]
    declared: Declared


def check(view: UploadView, area: Staging, declared: Declared) -> Checked:
    """Verify that what has arrived is complete, and is something we can host. Takes as long as reading the files.

    Raises:
        ProblemsError: All that is wrong.
        ConflictError: A request is still sending.
    """
    paths = {file.name: _path(area, view.id, view.kind, view.name, file.name) for file in view.files}
    with staging.quiet(list(paths.values())):
        problems = [
            f"{file.name}: {file.offset:,} of {file.size:,} bytes are here. Send the rest."
            for file in view.files
            if staging.offset(paths[file.name]) != file.size
        ]
        if problems:
            raise errors.ProblemsError(view.name, problems)
        files = tuple(File(file.name, file.size, staging.digest(paths[file.name])) for file in view.files)
    for file, given in zip(files, view.files, strict=True):
        if given.sha256 not in (None, file.sha256):
            problems.append(f"{file.name}: its sha256 is {file.sha256}, not {given.sha256}. Upload it again.")
    if problems:
        raise errors.ProblemsError(view.name, problems)
    if upload_files.is_archive(files[0].name):
        unpacked = unpack(Whole(view.id, view.kind, files[0].name, declared), area)
        return check(unpacked, area, declared)
    found: tuple[Found, ...] = ()
    if view.kind == "sae":
        folder = area.path(view.id)
        found = tuple(found_in(each) for each in describe_all(folder, declared, what=view.name))
    if view.kind == "dashboards":
        _check_dashboards(area.path(view.id), view.name)
    return Checked(view.id, view.kind, view.name, files, found, declared)


def _check_dashboards(folder: Path, what: str) -> None:
    """Return if the files are an export; raises `ProblemsError`."""
    try:
        import_files.layouts(import_places.Folder(folder))
    except errors.SiteError as error:
        raise errors.ProblemsError(what, [str(error)]) from error


@dataclass(frozen=True, slots=True)
class Whole:
    """An upload that came as one file in one request; it lies in the staging folder as `WHOLE`."""

    id: str
    kind: Kind
    name: str
    declared: Declared


def unpack(whole: Whole, area: Staging) -> UploadView:
    """Put the file, or the files of the archive, where an upload's lie; raises `ProblemsError`."""
    given, folder = area.path(whole.id, WHOLE), area.path(whole.id)
    name = upload_files.without_suffix(whole.name)
    if upload_files.is_archive(whole.name):
        unpacked = folder / ".unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        found = upload_files.unpack(
            given, whole.name, unpacked, max_bytes=area.room(), may_hold_rows=whole.kind == "dashboards"
        )
        moves = {each: unpacked / each for each in found}
    else:
        moves = {whole.name: given}
    files = []
    for each, path in moves.items():
        size = path.stat().st_size
        target = _path(area, whole.id, whole.kind, name, each)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        files.append(FileView(each, size, None, size))
    shutil.rmtree(folder / ".unpacked", ignore_errors=True)
    n_bytes = sum(file.size for file in files)
    return UploadView(whole.id, whole.kind, name, "open", tuple(files), n_bytes, (), {}, datetime.now(UTC))


def describe_all(folder: Path, declared: Declared, *, what: str) -> list[SaeDescription]:
    """Every SAE of a folder as its headers tell; raises `ProblemsError` with what is wrong with any of them."""
    described, problems = [], []
    folders = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    for each in folders:
        try:
            described.append(sae_files.describe(each, declared))
        except errors.ProblemsError as error:
            problems += [f"{each.name}: {problem}" if len(folders) > 1 else problem for problem in error.problems]
        except errors.SiteError as error:
            problems.append(f"{each.name}: {error}" if len(folders) > 1 else str(error))
    if problems:
        raise errors.ProblemsError(what, problems)
    return described


def found_in(of: SaeDescription) -> Found:
    """What a description says, for people."""
    name = names.default_source_id(of.hook_point.layer, of.folder.name)
    return Found(
        of.folder.name, of.format, of.kind, of.architecture, str(of.hook_point), str(of.hook_point_out), of.d_in,
        of.d_sae, of.k, of.context_size, of.prepend_bos, name,
    )  # fmt: skip


def check_quota(session: Session, viewer: Viewer, checked: Checked) -> None:
    """Return if the account has room for what was not announced: an archive's files. Raises `ForbiddenError`."""
    row = session.get(Upload, checked.id)
    announced = 0 if row is None else row.n_bytes
    limits.check_bytes(session, viewer, max(0, sum(file.size for file in checked.files) - announced))


def store(checked: Checked, area: Staging, blobs: Store) -> None:
    """Make blobs of the files. What has arrived stays until the caller has recorded it, so this can be done again."""
    for file in checked.files:
        path = _path(area, checked.id, checked.kind, checked.name, file.name)
        key = f"{ROOTS[checked.kind]}/{checked.id}/{path.relative_to(area.path(checked.id)).as_posix()}"
        given = area.path(checked.id) / f".{secrets.token_hex(8)}"
        try:
            os.link(path, given)
        except OSError:  # a file system without links
            shutil.copyfile(path, given)
        blobs.put(key, given)


def complete(session: Session, area: Staging, viewer: Viewer, checked: Checked, *, is_new: bool = False) -> UploadView:
    """Record that an upload is checked and stored; once more is no error.

    `is_new`: it came in one request and has no row yet. Raises `NotFoundError` for one that was deleted meanwhile.
    """
    row = session.get(Upload, checked.id, with_for_update=True)
    if row is None and not is_new:
        raise _no_upload()
    if row is None:
        row = Upload(id=checked.id, owner_id=viewer.account_id, kind=checked.kind, name=checked.name, state="open")
        session.add(row)
    row.files, row.n_bytes = [asdict(file) for file in checked.files], sum(file.size for file in checked.files)
    row.found = [asdict(found) for found in checked.found]
    row.declared = declared_json(checked.declared)
    row.state, row.touched_at = "complete", func.now()
    session.flush()
    session.refresh(row)
    return _view(row, area)


def declared_json(declared: Declared) -> dict[str, Any]:
    """What was said, without what was not."""
    return {name: value for name, value in asdict(declared).items() if value is not None}


def weights_of(view: UploadView) -> list[str]:
    """How rows of sources name each SAE of a complete upload; raises `ConflictError` for one that is not."""
    if view.state != "complete" or view.kind != "sae":
        raise errors.ConflictError(
            f"the upload '{view.name}' is {'not of an SAE' if view.kind != 'sae' else 'not complete'}.",
            hint=f"POST /api/uploads/{view.id}/complete checks it." if view.kind == "sae" else "",
        )
    return [weights.of_key(f"saes/{view.id}/{found.folder}") for found in view.found]


def corpus_of(view: UploadView) -> str:
    """How a job's spec names a complete upload of text; raises `ConflictError` for anything else."""
    if view.state != "complete" or view.kind != "corpus":
        raise errors.ConflictError(f"the upload '{view.name}' is no complete corpus.", hint="Complete it first.")
    return weights.of_key(f"corpora-raw/{view.id}")


def dashboards_of(view: UploadView) -> str:
    """Key of the blobs of a complete upload of dashboards; raises `ConflictError` for anything else."""
    if view.state != "complete" or view.kind != "dashboards":
        raise errors.ConflictError(
            f"the upload '{view.name}' is no complete one of dashboards.", hint="Complete it first."
        )
    return f"{ROOTS['dashboards']}/{view.id}"


def declared_over(view: UploadView, declared: Declared) -> Declared:
    """What was said when the upload was completed, with what is said now."""
    return Declared(**(view.declared | declared_json(declared)))


def forget(session: Session, viewer: Viewer, upload_id: str) -> None:
    """Delete the row; the caller deletes the files. Raises `NotFoundError`, or `ConflictError` where it is hosted."""
    row = _row(session, viewer, upload_id, is_locked=True)  # before it is asked who uses it
    used = select(Upload.id).where(Upload.id == row.id, _is_used())
    if session.scalar(visibility.unrestricted(used)) is not None:
        raise errors.ConflictError("a source is computed from this upload.", hint="Delete the source.")
    session.execute(delete(Upload).where(Upload.id == row.id))


def forget_abandoned(session: Session, *, for_s: float) -> list[str]:
    """Delete the rows of uploads left alone for so long that no source and no job is of; their ids."""
    before = func.now() - timedelta(seconds=for_s)
    old = delete(Upload).where(Upload.touched_at < before, ~_is_used())
    return list(session.scalars(visibility.unrestricted(old.returning(Upload.id))))


def remove_files(upload_id: str, area: Staging, blobs: Store) -> None:
    """Delete what has arrived of an upload and what was stored of it."""
    area.remove(upload_id)
    for root in ROOTS.values():
        blobs.delete_folder(f"{root}/{upload_id}")


def known(session: Session, upload_ids: Sequence[str]) -> set[str]:
    """Which of these have a row and are not complete: their bytes in the staging folder are still needed."""
    query = select(Upload.id).where(Upload.id.in_(upload_ids), Upload.state == "open")
    return set(session.scalars(visibility.unrestricted(query)))


def _is_used() -> Any:
    of_source = exists().where(Source.weights.startswith("blob:saes/" + Upload.id))
    of_job = exists().where(Job.spec["corpus"].astext == "blob:corpora-raw/" + Upload.id)
    place = Job.spec["import"]["place"]["blobs"].astext
    of_import = exists().where(place == ROOTS["dashboards"] + "/" + Upload.id, Job.has_blobs)
    return of_source | of_job | of_import


def _row(session: Session, viewer: Viewer, upload_id: str, *, is_locked: bool = False) -> Upload:
    """The row, if it is the viewer's: others' are not there."""
    is_id = len(upload_id) == 32 and upload_id.isalnum() and upload_id.isascii()
    row = session.get(Upload, upload_id, with_for_update=is_locked or None) if is_id else None
    if row is None or not (viewer.is_admin or (row.owner_id is not None and row.owner_id == viewer.account_id)):
        raise _no_upload()
    return row


def _no_upload() -> errors.NotFoundError:
    return errors.NotFoundError(
        "There is no such upload.", hint="It may have been left alone for too long. Begin it again."
    )


def _view(row: Upload, area: Staging) -> UploadView:
    files = []
    for file in row.files:
        is_there = row.state == "complete"
        n_there = file["size"] if is_there else staging.offset(_path(area, row.id, row.kind, row.name, file["name"]))
        files.append(FileView(file["name"], file["size"], file["sha256"], n_there))
    known = {field.name for field in fields(Found)}
    found = tuple(Found(**{key: value for key, value in each.items() if key in known}) for each in row.found or ())
    kind: Kind = {"corpus": "corpus", "dashboards": "dashboards"}.get(row.kind, "sae")  # type: ignore[assignment]
    state: State = "complete" if row.state == "complete" else "open"
    return UploadView(
        row.id, kind, row.name, state, tuple(files), row.n_bytes, found, row.declared or {}, row.created_at
    )


def _path(area: Staging, upload_id: str, kind: str, folder: str, name: str) -> Path:
    """SAEs always lie in a folder of their own, which names them. An archive, the only file then, is none of them."""
    if upload_files.is_archive(name):
        return area.path(upload_id, WHOLE)
    return area.path(upload_id, name if "/" in name or kind != "sae" else f"{folder}/{name}")


def _default_name(files: Sequence[File]) -> str:
    first = files[0].name
    return first.split("/")[0] if "/" in first else upload_files.without_suffix(first)
