"""Writes every page, rendered from `samples`, to a folder: `python -m tests.pages.preview /tmp/preview`.

For looking at pages while designing them; serve the folder with `python -m http.server`.
"""

import sys
from pathlib import Path

from backend.settings import Settings
from backend.web.pages import features
from backend.web.rendering import Renderer
from tests.pages import samples


def main(folder: Path) -> None:
    renderer = Renderer(Settings().assets)
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "feature": ("pages/feature.html", features.context(samples.feature())),
        "genuine": ("pages/feature.html", features.context(samples.genuine())),
        "dead": ("pages/feature.html", features.context(samples.dead_feature())),
    }
    for name, (template, context) in pages.items():
        (folder / f"{name}.html").write_text(renderer.html(template, context))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
