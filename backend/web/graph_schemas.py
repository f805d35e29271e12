# ruff: noqa: N815 - Neuronpedia's keys are what they are
"""Bodies of the routes of attribution graphs: Neuronpedia's keys, with what Eyepiece adds marked as ours.

Keys that its client reads: PyPI's neuronpedia 1.2.1, `requests/graph_request.py`; of rows, hijohnnylin/neuronpedia at
ebb8426f, `apps/webapp/prisma/schema.prisma` (GraphMetadata, GraphMetadataSubgraph).
"""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat

from backend.services.access import Visibility
from backend.web.live_schemas import Given
from backend.web.schemas import Answer, Id, Int32

MOST_FEATURES = 5_000
MOST_NODES = 2_000
MOST_GROUPS = 500
MOST_BYTES = 10**12
Words = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
"""A name somebody chose, or the id of a node."""
NamedNodes = Annotated[list[Words], Field(min_length=1, max_length=MOST_NODES)]
NodeName = Annotated[list[Words], Field(min_length=2, max_length=2)]
Threshold = Annotated[FiniteFloat, Field(ge=0, le=1)]


class NewGraphUpload(Given):
    """Which file will be put."""

    filename: Annotated[Words, Field(min_length=1)]
    contentLength: Annotated[int, Field(ge=0, le=MOST_BYTES)]
    """Bytes as they are sent: gzipped, if they are."""
    contentType: Words = "application/json"


class GraphPut(Answer):
    """Where to put the file, within the hour; the address holds a secret, so no key need be sent to it."""

    url: str
    key: str
    putRequestId: str


class GraphReceived(Answer):
    """The file is there; POST /api/graph/save-to-db makes a graph of it."""

    putRequestId: str
    contentLength: int


class GraphToSave(Given):
    """Which file to make a graph of."""

    putRequestId: Id
    visibility: Visibility = "public"
    """Ours: who may see it, as of a source."""


class GraphSaved(Answer):
    """A graph is there, at `url`."""

    message: str
    url: str
    numNodes: int
    numLinks: int


class GraphAddress(Given):
    """One graph."""

    modelId: Id
    slug: Id


class GraphUser(Answer):
    """Whose a graph is."""

    id: str
    name: str


class GraphMetadata(Answer):
    """A graph without its nodes and links, which are at `url`."""

    id: str
    modelId: str
    slug: str
    sourceSetName: str | None
    promptTokens: list[str]
    prompt: str
    titlePrefix: str
    isFeatured: bool
    """Never here."""
    url: str
    """Of circuit-tracer's JSON."""
    userId: str | None
    user: GraphUser | None
    """Told to the graph's owner only."""
    createdAt: datetime
    updatedAt: datetime
    numNodes: int
    """Ours, as the next two."""
    numLinks: int
    visibility: str


class GraphFile(Answer):
    """A graph as it was handed over: circuit-tracer's JSON, with `qParams` and whatever else it holds."""

    model_config = ConfigDict(extra="allow")

    metadata: dict[str, Any]
    nodes: list[dict[str, Any]]
    links: list[dict[str, Any]]


class GraphDeleted(Answer):
    """A graph is gone, and so is what was saved of it."""

    message: str


class GraphFeature(Given):
    """A feature that nodes of a graph are of."""

    layer: Annotated[int, Field(ge=-1, le=10_000)]
    index: Int32


class GraphFeaturesRequest(GraphAddress):
    """Which features of a graph to tell about."""

    features: Annotated[list[GraphFeature], Field(max_length=MOST_FEATURES)]


class HostedFeature(Answer):
    """What is known here of a feature in a graph."""

    layer: int
    index: int
    source: str
    url: str
    """Of its page."""
    label: str
    """Empty: it has no name."""
    firesOn: list[str]
    promotes: list[str]
    density: float
    """Firings per token, 0–1."""


class GraphFeatures(Answer):
    """Those of the features that are hosted here, and that who asks sees in lists."""

    features: list[HostedFeature]


class SubgraphToSave(GraphAddress):
    """A state of a graph's page."""

    displayName: Words = ""
    pinnedIds: list[Words] = Field([], max_length=MOST_NODES)
    supernodes: list[NamedNodes] = Field([], max_length=MOST_GROUPS)
    """Each a name and the ids of its nodes."""
    clerps: list[NodeName] = Field([], max_length=MOST_NODES)
    """Each the id of a node and what it is called."""
    pruningThreshold: Threshold | None = None
    densityThreshold: Threshold | None = None
    overwriteId: Id = ""
    """A saved state of yours to replace."""


class SubgraphSaved(Answer):
    """A state is saved."""

    subgraphId: str


class SubgraphId(Given):
    """A saved state."""

    subgraphId: Id


class Subgraph(Answer):
    """A saved state of a graph's page."""

    id: str
    displayName: str
    pinnedIds: list[str]
    supernodes: list[list[str]]
    clerps: list[list[str]]
    pruningThreshold: float | None
    densityThreshold: float | None
    createdAt: datetime
    updatedAt: datetime


class Subgraphs(Answer):
    """Yours of a graph, newest first."""

    subgraphs: list[Subgraph]


class SubgraphDeleted(Answer):
    """A saved state is gone."""

    message: str
