"""What an export may be asked for."""

from pydantic import BaseModel, ConfigDict, Field

from backend.services.exports import Format

ZIP = "application/zip"


class ExportQuery(BaseModel):
    """How a source is exported. Other parameters are passed over, as in Neuronpedia's routes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Format = Field("neuronpedia", description="Neuronpedia's layout of gzipped JSON lines, or Parquet.")
    features: str = Field("", max_length=40, description="A range such as `0:1000`, its end left out; empty: all.")
