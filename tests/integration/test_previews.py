"""What other sites are shown of ours: frames, pictures and oEmbed, and that they are shown no more than that."""

import io
from urllib.parse import quote, urlencode

import pytest
from PIL import Image
from sqlalchemy import update

from backend.db.tables import Source
from backend.services import feature_lists
from backend.services.feature_lists import ListText
from backend.web import feature_card, middleware, schemas
from tests import hosted
from tests.hosted import DEAD, MODEL, NO_LENS, RICH, SINGLE, SOURCE
from tests.pages import dom
from tests.signing_in import ORIGIN, browser, person

FEATURE = f"/{MODEL}/{SOURCE}/{RICH}"


@pytest.fixture(autouse=True)
def made(session):
    made = hosted.host(session)
    session.commit()
    return made


@pytest.fixture
def client(site):
    return browser(site)


@pytest.fixture
def list_id(session):
    found = feature_lists.create(session, ListText(name="Some & others", visibility="public")).id
    session.commit()
    return found


# --- frames --------------------------------------------------------------------------------------------------------


def test_only_embedded_pages_may_be_framed_by_others(client, list_id):
    for page in (FEATURE, f"/list/{list_id}"):
        policies = [client.get(page + query).headers["content-security-policy"] for query in ("", "?embed=true")]
        assert policies == [middleware.CONTENT_SECURITY_POLICY, middleware.EMBEDDED_CONTENT_SECURITY_POLICY]
        assert client.get(f"{page}?embed=1").headers["content-security-policy"] == middleware.CONTENT_SECURITY_POLICY
    assert "frame-ancestors 'self'" in middleware.CONTENT_SECURITY_POLICY
    assert "frame-ancestors" not in middleware.EMBEDDED_CONTENT_SECURITY_POLICY


@pytest.mark.parametrize("index", [RICH, DEAD, SINGLE, NO_LENS])
def test_an_embedded_page_is_bare_and_leads_out_of_its_frame(client, index):
    page = dom.parse(client.get(f"/{MODEL}/{SOURCE}/{index}?embed=true").text)
    assert page.one("base")["target"] == "_blank"
    assert not page.all("header", "site")
    assert not [form for form in page.all("form") if form.get("method") == "post"], "nothing that changes anything"


def shown(page: dom.Element) -> set[str]:
    present = {
        "embedexplanation": bool(page.all("p", "small")) and "density" in page.all("header")[0].text,
        "embedplots": bool(page.all("div", "embedded-plots")),
        "embedtest": bool(page.all("section", "trying")),
        "embedtestfield": bool([form for form in page.all("form", "asking") if form.get("hidden") is None]),
        "embedactivations": len(page.all("ol", "lines")) > len(page.all("ol", "own")),
        "embedlink": "open in Eyepiece" in page.text,
        "embedsteer": "steer" in [a.text for a in page.all("a")],
    }
    return {name for name, is_there in present.items() if is_there}


def test_every_part_can_be_left_out(client):
    every = shown(dom.parse(client.get(f"{FEATURE}?embed=true").text))
    assert len(every) == 7
    for name in every:
        left = shown(dom.parse(client.get(f"{FEATURE}?embed=true&{name}=false").text))
        assert left == every - ({name, "embedtestfield"} if name == "embedtest" else {name})
        assert shown(dom.parse(client.get(f"{FEATURE}?embed=true&{name}=true").text)) == every
    none = urlencode(dict.fromkeys(every, "false"))
    assert shown(dom.parse(client.get(f"{FEATURE}?embed=true&{none}").text)) == set()


def test_a_text_is_tried_as_the_frame_opens(client):
    page = dom.parse(client.get(f"{FEATURE}?embed=true&embedtestfield=false&defaulttesttext=a+%22cat").text)
    (row,) = page.one("ol", "own").all("li")
    assert row["data-text"] == 'a "cat'
    assert page.one("form", "asking").get("hidden") is not None


def test_a_feature_says_how_it_is_embedded_and_pictured(client):
    page = dom.parse(client.get(FEATURE).text)
    told = {e.get("property") or e.get("name"): e["content"] for e in page.all("meta") if e.get("content")}
    assert told["og:url"] == ORIGIN + FEATURE
    assert told["og:image"] == f"{ORIGIN}{FEATURE}/card.png"
    assert told["og:title"] == FEATURE[1:]
    assert told["twitter:card"] == "summary_large_image"
    assert "Fires on" in told["og:description"]
    answer = client.get(page.one("link", type="application/json+oembed")["href"])
    assert page.one("code", id="embed-code").text == answer.json()["html"]


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [RICH, DEAD, SINGLE, NO_LENS])
def test_a_feature_is_a_picture(client, index):
    answer = client.get(f"/{MODEL}/{SOURCE}/{index}/card.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (feature_card.WIDTH, feature_card.HEIGHT) == (1200, 630)
    assert len(picture.getcolors(maxcolors=2**20) or ()) > 20, "something is drawn"


def test_a_picture_that_is_known_is_not_sent_again(client, session, made):
    first = client.get(f"{FEATURE}/card.png")
    again = client.get(f"{FEATURE}/card.png", headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get(f"{FEATURE}/card.png", headers={"if-none-match": '"x"'}).content == first.content
    assert client.get(f"/{MODEL}/{SOURCE}/{SINGLE}/card.png").headers["etag"] != first.headers["etag"]
    revision_id = hosted.add_revision(session, made.source_id, made.corpus_id)
    for dashboard in hosted.every_kind():
        hosted.add_feature(session, revision_id, dashboard)
    session.commit()
    assert client.get(f"{FEATURE}/card.png").headers["etag"] != first.headers["etag"], "computed anew"


@pytest.mark.parametrize(
    ("visibility", "cache"),
    [("public", "public, max-age=3600"), ("unlisted", "private, no-cache"), ("private", "private, no-cache")],
)
def test_only_a_public_sources_picture_is_kept_on_the_way(site, session, visibility, cache):
    admin = browser(site, person(session, site.state.settings, "root", is_admin=True))
    etag = admin.get(f"{FEATURE}/card.png").headers["etag"]
    session.execute(update(Source).values(visibility=visibility))
    session.commit()
    assert admin.get(f"{FEATURE}/card.png").headers["cache-control"] == cache
    others = browser(site).get(f"{FEATURE}/card.png", headers={"if-none-match": etag, "accept": "application/json"})
    assert others.status_code == (404 if visibility == "private" else 304)


# --- oEmbed --------------------------------------------------------------------------------------------------------


def ask(client, url: str, **given: object):
    return client.get(f"/oembed?{urlencode({'url': url} | given)}", headers={"accept": "application/json"})


def test_a_feature_is_embedded(client):
    answer = ask(client, ORIGIN + FEATURE, format="json").json()
    assert answer == {
        "version": "1.0", "type": "rich", "title": FEATURE[1:], "provider_name": "Eyepiece", "provider_url": ORIGIN,
        "cache_age": 3600, "width": 540, "height": 360,
        "html": f'<iframe src="{ORIGIN}{FEATURE}?embed=true" title="{FEATURE[1:]}" width="540" height="360" '
        'loading="lazy"></iframe>',
        "thumbnail_url": f"{ORIGIN}{FEATURE}/card.png", "thumbnail_width": 1200, "thumbnail_height": 630,
    }  # fmt: skip


def test_what_the_address_leaves_out_is_left_out_and_the_frame_fits(client):
    url = f"{ORIGIN}{FEATURE}/?embedplots=false&other=1&defaulttesttext={quote('<b> &')}"
    answer = ask(client, url, maxwidth=300, maxheight=9_000).json()
    assert (answer["width"], answer["height"]) == (300, 360)
    frame = dom.parse(answer["html"]).one("iframe")
    assert frame["src"].endswith("?embed=true&embedplots=false&defaulttesttext=%3Cb%3E+%26")
    page = dom.parse(client.get(frame["src"]).text)
    assert page.one("ol", "own").one("li")["data-text"] == "<b> &"


def test_a_list_is_embedded(client, list_id):
    answer = ask(client, f"{ORIGIN}/list/{list_id}").json()
    assert (answer["title"], "thumbnail_url" in answer) == ("Some & others", False)
    frame = dom.parse(answer["html"]).one("iframe")
    assert (frame["src"], frame["title"]) == (f"{ORIGIN}/list/{list_id}?embed=true", "Some & others")
    assert dom.parse(client.get(frame["src"]).text).one("h1").text == "Some & others"


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "https://elsewhere.example/x", f"{ORIGIN}.evil.example{FEATURE}", ORIGIN, f"{ORIGIN}/", f"{ORIGIN}/jobs",
        f"{ORIGIN}/list/none", f"{ORIGIN}/{MODEL}/{SOURCE}", f"{ORIGIN}/{MODEL}/{SOURCE}/99", f"{ORIGIN}/x{FEATURE}",
        f"{ORIGIN}{FEATURE}/cofiring", f"{ORIGIN}/api/feature{FEATURE}", f"{ORIGIN}/\0",
    ],
)  # fmt: skip
def test_other_addresses_are_not_embedded(client, url):
    answer = ask(client, url)
    assert answer.status_code == 404
    schemas.Error.model_validate(answer.json())


def test_other_forms_of_answer_are_refused(client):
    answer = ask(client, ORIGIN + FEATURE, format="xml")
    assert answer.status_code == 501
    assert "format=json" in schemas.Error.model_validate(answer.json()).error
    assert ask(client, ORIGIN + FEATURE, maxwidth="wide").status_code == 400
