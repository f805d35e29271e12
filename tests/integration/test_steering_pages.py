"""Who reaches the page where a model is steered, and a saved run, by the address of a source that is in no list."""

import pytest
from sqlalchemy import update

from backend.db.tables import Source
from backend.formats import messages
from backend.services import inference, steering
from tests import hosted
from tests.hosted import MODEL, SOURCE
from tests.signing_in import browser, person

PAGE = f"/{MODEL}/steer"
NAMED = (f"{PAGE}?feature={SOURCE}/1:2", f"{PAGE}?through={SOURCE}")


@pytest.fixture
def owner(site, session):
    """Of the only source of the only model."""
    hosted.host(session)
    return person(session, site.state.settings, "owner")


@pytest.fixture
def run_id(owner, session):
    pushed = steering.SteeredFeature(source=SOURCE, index=1, strength=2.0)
    sampling = messages.Sampling(n_tokens=1)
    asked = steering.Asked(kind="completion", model=MODEL, prompt="The cat", features=(pushed,), sampling=sampling)
    text = messages.Generated("The cat", " sat", (messages.GeneratedToken(" sat", -1.0),), is_done=True)
    answer = messages.SteerReply(id="", steered=text, default=text, is_done=True)
    question = steering.Question(asked, inference.places(session, MODEL, [SOURCE]), ())
    return steering.save(session, question, answer, n_kept=10)


def hide(session, owner, visibility: str) -> None:
    session.execute(update(Source).values(owner_id=owner.id, visibility=visibility))
    session.commit()


def test_an_unlisted_source_is_steered_by_who_has_its_address(site, session, owner):
    hide(session, owner, "unlisted")
    stranger = browser(site)
    assert [stranger.get(url).status_code for url in ("/steer", PAGE, *NAMED)] == [404, 404, 200, 200]
    assert f'data-push="{SOURCE}/1"' in stranger.get(NAMED[0]).text
    assert browser(site, owner).get("/steer").headers["location"] == PAGE


def test_a_private_source_is_steered_by_its_owner_only(site, session, owner, run_id):
    hide(session, owner, "private")
    urls = (PAGE, *NAMED, f"/steer/{run_id}")
    assert [browser(site).get(url).status_code for url in urls] == [404] * 4
    assert [browser(site, owner).get(url).status_code for url in urls] == [200] * 4


def test_a_saved_run_is_read_by_who_has_its_address(site, session, owner, run_id):
    hide(session, owner, "unlisted")
    page = browser(site).get(f"/steer/{run_id}")
    assert page.status_code == 200
    assert all(text in page.text for text in ("The cat", " sat", f"{SOURCE}/1", "try it yourself"))
