"""A live worker of a test's site, and an application it answers."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.testclient import TestClient

from backend.cli import children
from backend.embedded.data_folder import DataFolder
from backend.embedded.processes import Child
from backend.web.app import create_app
from tests.site import Site
from tests.unit.embedded.waiting import until

PATIENCE_S = 300.0


@contextmanager
def worker(site: Site) -> Iterator[Child]:
    """The live worker as `eyepiece up` starts it; ends with the block."""
    folder = DataFolder(site.settings.data)
    folder.logs.mkdir(parents=True, exist_ok=True)
    (child,) = [each for each in children.all_of(site.settings, folder) if each.name == "live worker"]
    child.start()
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def answering(site: Site, model: str) -> Iterator[TestClient]:
    """A client of an application whose live worker answers about the model; the site's folder has the assets."""
    app = create_app(site.settings.model_copy(update={"assets": site.folder}))
    with worker(site), TestClient(app, base_url="http://localhost/api/") as client:
        tokens = {"prompt": "a", "modelId": model}
        until(lambda: client.post("tokenize", json=tokens).status_code == 200, deadline_s=PATIENCE_S)
        yield client
