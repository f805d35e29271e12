"""Pages inside other pages: what an embedded page shows, and the code with which another page embeds it.

The parameters are Neuronpedia's (hijohnnylin/neuronpedia at ebb8426f, `apps/webapp/app/[modelId]/[layer]/[index]/page.tsx`):
`embed=true` asks for the bare page, and every part of it is there unless its parameter says `false`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi.responses import HTMLResponse
from markupsafe import Markup

from backend.web import middleware

WIDTH, HEIGHT = 540, 360
"""Pixels, of a frame nobody said anything else about."""
MOST_TEXT = 2_000
"""Characters of a text to try; longer ones make no sensible address."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an embedded feature shows."""

    explanation: bool = True
    """What the feature is called, and the tokens it fires on."""
    plots: bool = True
    test: bool = True
    """A text's activations, `test_text`'s first."""
    test_field: bool = True
    """The field for another text; without `test` there is none."""
    activations: bool = True
    link: bool = True
    """The way to the whole page."""
    steer: bool = True
    test_text: str = ""


TOGGLES = (
    ("embedexplanation", "what it fires on", "explanation"), ("embedplots", "charts", "plots"),
    ("embedtest", "a text's activations", "test"), ("embedtestfield", "field for a text", "test_field"),
    ("embedactivations", "top contexts", "activations"), ("embedlink", "link here", "link"),
    ("embedsteer", "link to steering", "steer"),
)  # fmt: skip
"""Parameter, words, field of `Parts`."""


def is_asked(query: Mapping[str, str]) -> bool:
    """Whether the page is to be bare."""
    return query.get("embed") == "true"


def parts(query: Mapping[str, str]) -> Parts:
    """What the query asks to be shown."""
    shown = {field: query.get(name) != "false" for name, _, field in TOGGLES}
    return Parts(**shown, test_text=query.get("defaulttesttext", "")[:MOST_TEXT])


def parameters(shown: Parts) -> dict[str, str]:
    """The query that asks for these parts; what is as usual is left out."""
    hidden = {name: "false" for name, _, field in TOGGLES if not getattr(shown, field)}
    return {"embed": "true"} | hidden | ({"defaulttesttext": shown.test_text} if shown.test_text else {})


def code(url: str, title: str, *, width: int = WIDTH, height: int = HEIGHT, shown: Parts = Parts()) -> str:
    """The HTML with which another page shows the page at `url`."""
    frame = Markup('<iframe src="{}" title="{}" width="{}" height="{}" loading="lazy"></iframe>')
    return str(frame.format(f"{url}?{urlencode(parameters(shown))}", title, width, height))


def frameable(response: HTMLResponse) -> HTMLResponse:
    """The same answer, which any page may show inside itself."""
    response.headers["Content-Security-Policy"] = middleware.EMBEDDED_CONTENT_SECURITY_POLICY
    return response
