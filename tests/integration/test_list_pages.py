"""Pages of lists, quick lists, comments and bookmarks over a real database, by their forms."""

import json
from urllib.parse import quote

import pytest
from sqlalchemy import select, update

from backend.db.tables import Bookmark, FeatureComment, FeatureList, Source
from backend.names import FeatureRef
from backend.services import feature_lists
from backend.services.feature_lists import ListText, NewItem
from backend.web.pages import lists
from tests import hosted
from tests.hosted import DEAD, MODEL, RICH, SINGLE, SOURCE
from tests.pages import dom
from tests.signing_in import browser, person

REF = f"{MODEL}/{SOURCE}/{RICH}"


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


@pytest.fixture
def anna(site, session):
    return person(session, site.state.settings, "anna")


class Reader:
    """A browser that fills in forms as its pages have them."""

    def __init__(self, client, token: str = ""):
        self.client, self.token = client, token

    def page(self, path: str, status: int = 200) -> dom.Element:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return dom.parse(answer.text)

    def send(self, path: str, action: str, **filled: str) -> str:
        """Sends the form of a page that leads to `action`; where that leads on to."""
        (form, *_) = [form for form in self.page(path).all("form") if form.get("action") == action]
        given = {field["name"]: field.get("value") or "" for field in form.all("input") if field.get("name")}
        answer = self.client.post(action, data=given | filled)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]


@pytest.fixture
def reader(site, anna):
    return Reader(browser(site, anna), anna.form_token)


def new(session, *indexes: int, owner_id: int | None = None, **given: str) -> str:
    items = [NewItem(FeatureRef(MODEL, SOURCE, index)) for index in indexes]
    list_id = feature_lists.create(session, ListText(name="Some", **given), items).id
    session.execute(update(FeatureList).where(FeatureList.id == list_id).values(owner_id=owner_id))
    session.commit()
    return list_id


def features(page: dom.Element) -> list[str]:
    return [each["id"] for each in page.all("li", "listed-feature")]


def test_a_list_is_made_filled_changed_and_deleted_by_its_forms(reader):
    url = reader.send("/lists", "/lists", name="Brigades")
    assert features(reader.page(url)) == []
    assert reader.send(url, f"{url}/add", features=f"{REF}, http://localhost/{MODEL}/{SOURCE}/{DEAD}?x=1") == url
    page = reader.page(url)
    assert features(page) == [REF, f"{MODEL}/{SOURCE}/{DEAD}"]
    assert len(page.all("li", "listed-feature")[0].all("li")) == 3, "its top contexts"
    assert "steer with these" in page.text
    reader.send(url, f"{url}/describe", description="the <rich> one")
    assert [said.text for said in reader.page(url).all("p", "said")] == ["the <rich> one"]
    reader.send(url, f"{url}/remove")
    assert features(reader.page(url)) == [f"{MODEL}/{SOURCE}/{DEAD}"]
    reader.send(url, f"{url}/edit", name="Others", description="why", test_text="a cat", visibility="public")
    page = reader.page(url)
    assert "Others" in page.one("h1").text
    assert [field.text for field in page.all("textarea")[:2]] == ["why", "a cat"]
    (link,) = [a for a in page.all("a", "ref") if a.text.endswith(f"/{DEAD}")]
    assert link["href"].endswith("?text=a+cat")
    assert reader.send(url, f"{url}/delete") == "/lists"
    reader.page(url, 404)


def test_a_list_is_commented_on(reader, site, session):
    list_id = new(session)
    url = f"/list/{list_id}"
    assert reader.send(url, f"{url}/comments", text="I like\nthese") == f"{url}#comments"
    (comment,) = reader.page(url).one("ol", "comments").all("li")
    assert comment.one("p", "said").text == "I like\nthese"
    (action,) = [form["action"] for form in comment.all("form")]
    others = Reader(browser(site)).page(url)
    assert [form.get("action") for form in others.all("form") if form.get("method") == "post"] == []
    reader.send(url, action)
    assert not reader.page(url).all("ol", "comments")


def test_a_long_list_has_pages(reader, session, monkeypatch):
    monkeypatch.setattr(lists, "PER_PAGE", 2)
    url = f"/list/{new(session, RICH, SINGLE, DEAD)}"
    first, second = reader.page(url), reader.page(f"{url}?page=2")
    assert (len(features(first)), features(second)) == (2, [f"{MODEL}/{SOURCE}/{DEAD}"])
    assert first.one("a", rel="next")["href"] == f"{url}?page=2"
    assert second.one("a", rel="prev")["href"] == url
    assert "past the last" in reader.page(f"{url}?page=3").text


@pytest.mark.parametrize("visibility", ["private", "unlisted", "public"])
def test_lists_name_what_is_for_everybody_and_ones_own(reader, site, session, anna, visibility):
    new(session, owner_id=anna.id, visibility=visibility)
    assert "Some" in reader.page("/lists").text
    page = Reader(browser(site)).page("/lists")
    assert ("Some" in page.text) == (visibility == "public")
    assert not [form for form in page.all("form") if form.get("method") == "post"]


def test_a_feature_is_bookmarked_and_listed_from_its_page(reader, session):
    url = f"/{REF}"
    assert reader.send(url, f"{url}/bookmark") == url
    assert reader.page(url).one("button", aria_pressed="true").text == "★ bookmarked"
    assert REF in reader.page("/lists").text
    reader.send(url, f"{url}/bookmark")
    assert session.scalar(select(Bookmark)) is None
    made = reader.send(url, f"{url}/lists", name="New")
    assert features(reader.page(made)) == [REF]
    assert "New" in [a.text for a in reader.page(url).one("ul", "in-lists").all("a")]
    other = f"/{MODEL}/{SOURCE}/{SINGLE}"
    option = reader.page(other).one("option")
    assert reader.send(other, f"{other}/lists", list_id=option["value"]) == made
    assert len(features(reader.page(made))) == 2


def test_a_feature_is_commented_on_from_its_page(reader, session):
    url = f"/{REF}"
    assert reader.send(url, f"{url}/comments", text="Fires on cats.") == f"{url}#comments"
    (action,) = [f["action"] for f in reader.page(url).one("ol", "comments").all("form")]
    reader.send(url, action)
    assert session.scalar(select(FeatureComment)) is None
    assert reader.client.post(f"{url}/comments", data={"form_token": "no", "text": "hello"}).status_code == 403


# --- quick lists ---------------------------------------------------------------------------------------------------


def quick(*given: object, name: str = "temporary_list") -> str:
    return f"/quick-list/?name={quote(name)}&features={quote(json.dumps(given))}"


def test_a_quick_list_is_shown_and_saved(reader):
    named = [{"modelId": MODEL, "layer": SOURCE, "index": str(RICH)}, {"modelId": "none", "layer": "x", "index": 1}]
    named.append({"modelId": MODEL, "source": SOURCE, "index": SINGLE, "description": "why"})
    url = quick(*named, named[0])
    page = reader.page(url)
    assert features(page) == [REF, "none/x/1", f"{MODEL}/{SOURCE}/{SINGLE}"]
    assert "not hosted here" in page.text
    saved = reader.page(reader.send(url, "/quick-list"))
    assert features(saved) == [REF, f"{MODEL}/{SOURCE}/{SINGLE}"]
    assert saved.one("title").text == "temporary_list · Eyepiece"


def test_who_may_not_write_sees_a_quick_list_and_saves_none(site):
    page = Reader(browser(site)).page(quick({"modelId": MODEL, "layer": SOURCE, "index": 1}))
    assert features(page) == [REF]
    assert "Sign in to save it" in page.text


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("features=[{", "cannot be read: Invalid JSON"),
        ("features={}", "valid array"),
        ('features=[{"modelId":"x"}]', "0.source: Field required"),
        ('features=[{"modelId":"x","layer":"y","index":"z"}]', "0.index"),
        ("features=[" + ",".join(['{"modelId":"x","layer":"y","index":1}'] * 151) + "]", "names 151 features"),
    ],
)
def test_a_quick_list_that_cannot_be_read_is_said_to_be(reader, query, told):
    page = reader.page(f"/quick-list?{query}", 400)
    assert told in page.text
    assert (
        reader.client.post("/quick-list", data={"features": query[9:], "form_token": reader.token}).status_code == 400
    )


def test_a_hidden_source_is_not_in_a_quick_list(site, session):
    session.execute(update(Source).values(visibility="private"))
    session.commit()
    page = Reader(browser(site)).page(quick({"modelId": MODEL, "layer": SOURCE, "index": 1}))
    assert "not hosted here" in page.text
    assert not page.all("ol", "lines")
