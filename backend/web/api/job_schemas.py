"""Bodies of the REST API about jobs, beside those in `backend/web/schemas.py`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend import errors
from backend.services import rerun
from backend.web.schemas import Answer, Int32

Ref = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$", max_length=257)]


class NewJob(BaseModel):
    """Sources of one model to compute again; what is left out stays as it was the last time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[Ref] = Field(min_length=1, description="Each model/source, all of one model.")
    corpus_id: Int32 | None = Field(None, description="A corpus the model was run on before.")
    corpus_path: str | None = Field(None, description="A file or folder of the host, for its operator.")
    is_tokens: bool = Field(False, description="The path is a .npy of token rows.")
    context_size: Int32 | None = Field(None, description="Tokens a context; 0: the SAE's own.")
    max_tokens: Int32 | None = Field(None, description="Use at most so many; 0: all.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    seed: Int32 | None = None
    quality_tokens: Int32 | None = Field(None, description="Quality is measured on; 0: it is not.")
    keep_index: bool | None = Field(None, description="Keep every firing to look up; null: if it is small.")

    def changed(self) -> dict[str, Any]:
        """Options that are not to stay as they were; null keeps them, but for `keep_index`, where it means something."""
        given = self.model_dump(include=set(rerun.OPTIONS), exclude_unset=True)
        return {name: value for name, value in given.items() if value is not None or name == "keep_index"}

    def model_and_sources(self) -> tuple[str, list[str]]:
        """The model's id and the sources' names; raises `InvalidInputError` where they are of several models."""
        refs = [ref.split("/") for ref in self.sources]
        if len({model for model, _ in refs}) > 1:
            raise errors.InvalidInputError("a job's sources are of one model.", hint="Ask for a job for each.")
        return refs[0][0], [name for _, name in refs]


class JobEvent(Answer):
    """A line of a job's log."""

    id: int
    at: datetime
    level: Literal["info", "warning", "error"]
    text: str


class SourceDeleted(Answer):
    """The source that is no more."""

    model: str
    source: str
