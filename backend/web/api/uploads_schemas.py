"""Bodies of the upload and hosting routes."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.formats.sae_files import Declared
from backend.services import uploads
from backend.web.schemas import Answer, Id

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Asked(BaseModel):
    """Base of what is sent to us: a key we do not know is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewFile(Asked):
    """A file that will come."""

    name: str = Field(description="A file name, or a folder's and a file's: `batchtopk512/cfg.json`.")
    size: int = Field(ge=0, le=2**62, description="Bytes.")
    sha256: Sha256 | None = Field(None, description="Of the whole file, where it is known; it is verified.")


class NewUpload(Asked):
    """Files that will come."""

    kind: uploads.Kind = Field(
        "sae",
        description="sae: one SAE or several in a folder each; corpus: text to run on; dashboards: an export to import.",
    )
    name: str = Field("", description="The folder of files that name none; sources are called after it.")
    files: list[NewFile]


class Completion(Asked):
    """What is to be known beside the files."""

    declared: Declared = Declared()


class UploadFile(Answer):
    """A file and how far it is."""

    name: str
    size: int
    sha256: str | None
    offset: int


class FoundSae(Answer):
    """What the check found."""

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


class Upload(Answer):
    """An upload and how far it is."""

    id: str
    kind: uploads.Kind
    name: str
    state: uploads.State
    files: list[UploadFile]
    n_bytes: int
    found: list[FoundSae]
    declared: dict[str, Any]
    created_at: datetime


class ChunkReceived(Answer):
    """How far a file is now; also in the header `Upload-Offset`."""

    name: str
    size: int
    offset: int


class UploadDeleted(Answer):
    """Nothing of it is left."""

    id: str


class Problems(Answer):
    """A refusal that lists what is wrong."""

    error: str
    message: str
    problems: list[str]


class Corpus(Asked):
    """The text to run on: one of these."""

    id: int | None = Field(None, description="A corpus the model has been run on.")
    upload: str | None = Field(None, description="A complete upload of kind corpus.")
    path: str | None = Field(None, description="A file or folder of the host; for its operator.")
    hub: str | None = Field(None, description="A Hugging Face dataset, with `:config` and `:split` where it has them.")
    is_tokens: bool = Field(False, description="The file is a .npy of token rows.")
    field: str = Field(
        "", max_length=100, description="Of JSON lines and Parquet: where the text is, if not in `text`."
    )
    keep_documents_apart: bool = Field(False, description="No context has tokens of two documents.")


class Options(Asked):
    """How to compute; what is left out is chosen well."""

    context_size: int = Field(0, ge=0, le=65_536, description="Tokens a context; 0: the SAE's own.")
    max_tokens: int = Field(0, ge=0, le=2**40, description="Use at most so many; 0: all.")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = Field(0, ge=0, le=2**31 - 1)
    quality_tokens: int = Field(65_536, ge=0, le=2**31 - 1, description="Quality is measured on; 0: it is not.")
    keep_index: bool | None = Field(None, description="Keep every firing to look up; null: if it is small.")
    is_forced: bool = Field(False, description="Compute also what the quick look calls pointless.")


class NewModel(Asked):
    """A model that is not hosted yet."""

    weights: str = Field(description="A Hugging Face hub name, or a folder of the host, for its operator.")
    id: Id = Field("", description="What it is called here; the last part of the name, unless given.")


class NewSource(Asked):
    """SAEs to host."""

    model: Id | NewModel = Field(description="Id of a hosted model, or where the weights of another one are.")
    upload: str | None = Field(None, description="A complete upload of kind sae.")
    neurons: str | None = Field(
        None, max_length=200, description="Instead of weights: the hook point whose neurons are the source."
    )
    weights: str | None = Field(
        None,
        max_length=4096,
        description="A folder or vector set of the host, hf:OWNER/NAME[@REVISION]:FOLDER or saelens:RELEASE/ID; "
        "for its operator.",
    )
    declared: Declared = Field(Declared(), description="What the files do not say; it wins over what they do.")
    source: Id = Field("", description="Id of one SAE; {layer}-{folder} unless given.")
    visibility: Literal["private", "unlisted", "public"] = "public"
    corpus: Corpus | None = Field(None, description="What to compute dashboards on; needed unless compute is false.")
    options: Options = Options()
    compute: bool = Field(
        True, description="False: only attach weights, for live inference; dashboards there are stay as they are."
    )
    replace: bool = Field(False, description="The id is one's own source: compute it anew from these weights.")


class Hosted(Answer):
    """Sources that are being computed, or have got their weights."""

    job: int | None
    """Null, as the next, where nothing is computed."""
    job_url: str | None
    """Its page."""
    sources: list[str]
    """model/source, of each."""
