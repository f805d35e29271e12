"""Commands that pages give readers to copy."""

import shlex

from backend.services.catalog import SourceView

ADD = "eyepiece add my-model path/to/model --sae path/to/sae --text corpus.txt"


def compute(source: SourceView) -> str:
    """Computes the dashboards of a source that is hosted."""
    return shlex.join(["eyepiece", "compute", f"{source.model}/{source.name}", "--text", "corpus.txt"])
