"""What an SAE handed over is run on: each kind of corpus over REST, with a real worker."""

import io

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from backend.db import tables
from backend.db.session import transaction
from tests import tiny
from tests.fake_hub import FakeHub
from tests.integration.test_hosting import MODEL, hand_over, wait
from tests.integration.test_hosting import api as api
from tests.site import Site
from tests.site import site as site

DOCUMENTS = [document for document in tiny.text(200).split(tiny.SEPARATOR) if document.strip()]


def parquet(documents):
    file = io.BytesIO()
    pq.write_table(pa.table({"text": documents}), file)
    return file.getvalue()


def lines():
    return b"".join(orjson.dumps({"story": document}) + b"\n" for document in DOCUMENTS[:150])


def token_rows():
    rows = np.random.default_rng(0).integers(1, 50, (64, tiny.N_CONTEXT), np.int64)
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


@pytest.fixture(scope="module")
def fake_hub(tmp_path_factory):
    data = tmp_path_factory.mktemp("hub") / "datasets" / "a" / "stories" / "data"
    data.mkdir(parents=True)
    (data / "train-00000.parquet").write_bytes(parquet(DOCUMENTS[50:]))
    with FakeHub(data.parents[3]).running() as found:
        yield found


@pytest.fixture(scope="module")
def worker(site: Site, fake_hub):
    """Started anew, not forked: the hub's library reads where the hub is when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", fake_hub.url)
        return site.start_worker()


@pytest.fixture
def wish(site, api, worker, tmp_path):
    folder = tiny.save_sae(tmp_path / "1-x", d_sae=64, seed=1, metadata={"hook_name": "blocks.1.hook_resid_post"})
    model = {"weights": str(site.folder / "tiny-gpt2"), "id": MODEL}
    return {"model": model, "upload": hand_over(api, folder), "options": {"quality_tokens": 0}}


def host(site, api, wish, **changed):
    answer = api.post("sources", json=wish | changed)
    assert answer.status_code == 200, answer.text
    site.wake()
    wait(site, answer.json()["job"])


def shown(site, source):
    """The id of the corpus that readers see the source on."""
    query = select(tables.Revision.corpus_id).join(tables.Source, tables.Source.revision_id == tables.Revision.id)
    with transaction(site.sessions) as session:
        return session.scalars(query.where(tables.Source.name == source)).one()


def upload_text(api, name, data):
    upload_id = api.post(f"uploads/whole?kind=corpus&name={name}", content=data).json()["id"]
    assert api.get(f"uploads/{upload_id}").json()["state"] == "complete"
    return upload_id


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("story.txt", tiny.SEPARATOR.join(DOCUMENTS).encode(), {}),
        ("story.jsonl", lines(), {"field": "story"}),
        ("story.parquet", parquet(DOCUMENTS[100:]), {}),
        ("rows.npy", token_rows(), {"is_tokens": True}),
    ],
)
def test_an_uploaded_corpus_is_run_on_and_then_by_its_id(site, api, wish, name, content, said):
    source = f"1-{name.replace('.', '-')}"
    host(site, api, wish, source=source, corpus={"upload": upload_text(api, name, content)} | said)
    listed = {corpus["id"]: corpus for corpus in api.get(f"corpora/{MODEL}").json()}
    chosen = shown(site, source)
    assert (listed[chosen]["name"], listed[chosen]["used_by"]) == (name, [source])

    cut = wish | {"source": f"{source}-again", "corpus": {"id": chosen}, "options": {"context_size": 16}}
    refused = api.post("sources", json=cut)
    assert (refused.status_code, "prepared already" in refused.json()["message"]) == (400, True), refused.text
    host(site, api, wish, source=f"{source}-again", corpus={"id": chosen})
    assert shown(site, f"{source}-again") == chosen
    assert site.rows(f"{source}-again") == site.rows(source)


def test_a_data_set_of_the_hub_is_run_on(site, api, wish):
    refused = api.post("sources", json=wish | {"corpus": {"hub": "a/stories:b:c:d"}})
    assert (refused.status_code, "no data set" in refused.json()["message"]) == (400, True), refused.text
    host(site, api, wish, source="1-hub", corpus={"hub": "a/stories"})
    listed = {corpus["id"]: corpus["name"] for corpus in api.get(f"corpora/{MODEL}").json()}
    assert listed[shown(site, "1-hub")] == "a/stories"
