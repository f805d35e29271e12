"""The page of an injection scan, and its REST API, over samples and over the application with a stand-in live worker."""

import csv
import io
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

from backend import errors
from backend.formats.messages import ScanReply, ScanRequest
from backend.services import inference
from backend.web import links, numerals, scan_results, schemas
from backend.web.api import scan as api
from backend.web.pages import scan
from backend.web.scan_schemas import InjectionScan, ScanQuery
from tests import hosted
from tests.pages import dom, samples, scan_samples
from tests.pages.test_app import app as app
from tests.pages.test_app import client as client
from tests.pages.test_app import site as site

BASE = f"/{samples.MODEL}/{samples.SOURCE}/12345"
HOSTED = f"/{hosted.MODEL}/{hosted.SOURCE}/{hosted.RICH}"
JSON = {"model": hosted.MODEL, "source": hosted.SOURCE, "index": hosted.RICH, "text": "a b", "token": " c"}
Rows = dict[str, dom.Element]


def rows_of(page: dom.Element) -> Rows:
    """By component, as the table calls it."""
    return {
        row.one("th").text.split(" before")[0].strip(): row
        for row in page.one("table").all("tr")
        if "data-part" in row.attributes
    }


def numbers(row: dom.Element) -> list[str]:
    return [cell.text for cell in row.all("td")]


class TestThePage:
    def test_the_table_has_every_component_with_its_values(self, rendered):
        reply, rows = scan_samples.reply(), rows_of(rendered("scan"))
        assert len(rows) == len(reply.components) + 2, "with the logit and the norm's scale"
        for component in reply.components:
            row = rows[scan_results.name_of(component)]
            values = [float(value) for value in row["data-values"].split()]
            assert values == pytest.approx(component.values, abs=0.006)
            low, at, high, swing = (float(text.replace("−", "-")) for text in numbers(row))
            assert (low, at, high) == (values[0], values[20], values[-1])
            assert swing == pytest.approx(max(component.values) - min(component.values), abs=0.006)

    def test_values_of_the_parts_and_of_the_logit_are_the_scans(self, rendered):
        rows = rows_of(rendered("scan"))
        total = scan_samples.reply().total
        assert [float(value) for value in rows["logit"]["data-values"].split()] == pytest.approx(total, abs=0.006)

    def test_rows_and_lines_carry_the_colour_of_their_cluster(self, rendered):
        page = rendered("scan")
        rows = rows_of(page)
        for component in scan_samples.reply().components:
            kind = "flat" if component.cluster < 0 else f"k{component.cluster + 1}"
            row = rows[scan_results.name_of(component)]
            assert kind in row.one("span", "swatch").classes
            lines = [path for path in page.all("path") if path.get("data-part") == row["data-part"]]
            assert len(lines) == (1 if component.cluster < 0 else 2), "in the whole and in its cluster"
            assert all(line.classes == [kind] for line in lines)

    def test_clusters_come_by_number_and_components_by_swing(self, rendered):
        page = rendered("scan")
        heads = [th.text for th in page.all("th", "rows")]
        assert heads == [
            "Cluster 1 · 3 components", "Cluster 2 · 2 components", "Cluster 3 · 5 components", "Unchanged · 1 component",
        ]  # fmt: skip
        assert list(rows_of(page))[2:] == [
            "injected", "MLP 2", "attention 2", "MLP 3", "attention 3", "MLP 0", "MLP 1", "embedding", "attention 1",
            "attention 0", "rest",
        ]  # fmt: skip

    def test_a_clusters_lines_start_from_where_they_are_without_the_vector(self, rendered):
        chart = rendered("scan").all("svg", "curves")[1]
        zero = [float(line["y1"]) for line in chart.all("line", "base")]
        middles = {path["d"].split("L")[20].split()[1] for path in chart.all("path")}
        assert [float(each) for each in middles] == pytest.approx(zero, abs=0.06)

    def test_what_was_written_before_is_marked(self, rendered):
        marked = {name for name, row in rows_of(rendered("scan")).items() if " before" in row.one("th").text}
        assert marked == {"embedding", "attention 0", "MLP 0", "attention 1", "MLP 1"}

    @pytest.mark.parametrize(
        ("place", "also"),
        [("hook_resid_pre", set()), ("attn.hook_z", {"attention 1"}), ("hook_mlp_out", {"attention 1", "MLP 1"})],
    )
    def test_in_the_block_itself_it_depends_on_the_place(self, place, also):
        found = scan_results.result(scan_samples.reply(hook_point=f"blocks.1.{place}"))
        marked = {row.name for cluster in found.clusters for row in cluster.rows if row.is_before}
        assert marked == {"embedding", "attention 0", "MLP 0"} | also

    def test_each_token_leads_to_the_same_scan_read_there(self, rendered):
        tokens = rendered("scan").one("p", "read-text").all("a")
        assert [i for i, token in enumerate(tokens) if token.get("aria-current")] == [10]
        asked = parse_qs(urlsplit(tokens[4]["href"]).query)
        assert asked == {
            "text": [scan_samples.TEXT], "token": [" Brigade"], "n_coefficients": ["41"], "n_clusters": ["3"],
            "position": ["4"],
        }  # fmt: skip
        assert tokens[9].text == ">"

    def test_the_form_holds_what_was_asked_and_leads_to_what_was_found(self, rendered):
        form = rendered("scan").one("form", "ask")
        assert form["action"] == f"{BASE}/scan#scan"
        assert form.one("textarea").text.lstrip("\n") == scan_samples.TEXT
        values = {field["name"]: field["value"] for field in form.all("input") if field["type"] == "text"}
        assert values == {
            "token": " Brigade", "minus_token": "", "lowest": "-10", "highest": "10", "n_coefficients": "41",
            "position": "-1", "n_clusters": "3",
        }  # fmt: skip
        assert not any("checked" in field.attributes for field in form.all("input"))

    def test_it_says_where_another_token_was_read_than_asked_for(self, rendered):
        assert "only after a space" in rendered("scan-minus").one("section", "scan").text
        assert "only after a space" not in rendered("scan").one("section", "scan").text

    def test_a_single_coefficient_has_a_table_and_no_curves(self, rendered):
        page = rendered("scan-single")
        assert not page.all("svg", "curves")
        assert not page.all("div", "slider")
        assert [len(numbers(row)) for row in rows_of(page).values()] == [1] * 13

    def test_of_many_components_those_that_swing_most_are_shown(self, rendered):
        page = rendered("scan-heads")
        assert len(rows_of(page)) == scan_results.MAX_SHOWN + 2
        assert "17 components that swing less are in the CSV" in page.one("div", "scan-table").text
        assert "head 12.8" in rows_of(page)
        assert "head 0.0" not in rows_of(page)

    def test_a_form_nobody_filled_in_suggests_the_strongest_example_and_the_token_it_promotes(self, rendered):
        page = rendered("scan-empty")
        example = samples.feature().groups[0].examples[0]
        assert page.one("textarea").text.lstrip("\n") == "".join(example.tokens[: example.max_position + 1][-40:])
        assert next(field for field in page.all("input") if field["name"] == "token")["value"] == " Brigade"
        assert "No live worker runs." in page.one("p", "partial").text
        assert not page.all("section", "scan")

    def test_without_example_or_lens_nothing_is_suggested(self):
        bare = samples.feature(groups=(), logit_lens=None)
        page = scan.context(bare, ScanQuery(), None)
        assert (page.asked.text, page.asked.token) == ("", "")


def test_defaults_are_left_out_of_urls():
    assert scan.parameters(ScanQuery(text="x", token="y", heads_apart=True, lowest=-10)) == {
        "text": "x", "token": "y", "heads_apart": 1,
    }  # fmt: skip
    assert links.scan_url("m", "s", 3) == "/m/s/3/scan"


def test_numbers_get_the_sign_of_pages():
    assert numerals.minus("-0.5") == "−0.5"


Asked = list[ScanRequest]


@pytest.fixture
def live(app, monkeypatch) -> Asked:
    """A live worker that answers with the sample, and what it was asked."""
    asked: Asked = []

    async def ask(self: inference.Client, request: ScanRequest, **_: object) -> ScanReply:
        asked.append(request)
        return scan_samples.reply()

    monkeypatch.setattr(inference.Client, "check_worker", lambda self, session: None)
    monkeypatch.setattr(inference.Client, "ask", ask)
    return asked


@pytest.fixture
def refusing(monkeypatch) -> Callable[[errors.SiteError], None]:
    def refuse(error: errors.SiteError) -> None:
        async def ask(*_: object, **__: object) -> ScanReply:
            raise error

        monkeypatch.setattr(inference.Client, "ask", ask)

    return refuse


@pytest.mark.usefixtures("site")
class TestTheRoutes:
    def test_the_page_asks_what_its_url_says(self, client, live):
        more = (
            "minus_token=+d&lowest=-3&highest=4.5&n_coefficients=9&position=-2&only_there=1&heads_apart=1&n_clusters=2"
        )
        answer = client.get(f"{HOSTED}/scan?text=a%0D%0Ab&token=c&{more}")
        assert answer.status_code == 200
        (request,) = live
        assert (request.model, request.push.source, request.push.index) == (hosted.MODEL, hosted.SOURCE, hosted.RICH)
        assert (request.text, request.token, request.minus_token) == ("a\nb", "c", " d"), (
            "a line's end is one character"
        )
        assert (request.lowest, request.highest, request.n_coefficients, request.position) == (-3.0, 4.5, 9, -2)
        assert (request.is_only_there_injected, request.are_heads_apart, request.n_clusters) == (True, True, 2)
        assert request.versions.keys() == {"", hosted.SOURCE}
        assert dom.parse(answer.text).one("section", "scan")

    def test_fields_left_empty_are_what_they_are_by_default(self, client, live):
        assert client.get(f"{HOSTED}/scan?text=a&token=b&minus_token=&lowest=&n_coefficients=").status_code == 200
        assert (live[0].minus_token, live[0].lowest, live[0].n_coefficients) == ("", -10.0, 128)

    def test_nothing_is_asked_until_text_and_token_are_given(self, client, live):
        for query in ("", "?text=a", "?token=b"):
            assert client.get(f"{HOSTED}/scan{query}").status_code == 200
        assert not live

    def test_without_a_live_worker_the_page_says_so_and_still_shows_the_form(self, client):
        for query, status in (("", 200), ("?text=a&token=b", 503)):
            answer = client.get(f"{HOSTED}/scan{query}")
            assert answer.status_code == status
            page = dom.parse(answer.text)
            assert "No live worker runs. `eyepiece up` starts one." in " ".join(page.one("p", "partial").text.split())
            assert page.one("form", "ask")

    def test_what_the_worker_refuses_is_said_above_the_form(self, client, live, refusing):
        refusing(errors.InvalidInputError("“cat” is not one token of this model.", hint="Give one."))
        answer = client.get(f"{HOSTED}/scan?text=a&token=cat")
        assert answer.status_code == 400
        assert "“cat” is not one token of this model." in dom.parse(answer.text).one("p", "partial").text
        assert "retry-after" not in answer.headers

    def test_a_busy_worker_says_when_to_come_back(self, client, live, refusing):
        refusing(errors.BusyError("64 requests wait.", retry_after_s=2))
        answer = client.get(f"{HOSTED}/scan?text=a&token=b")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")

    def test_the_file_has_a_row_for_each_component_and_coefficient(self, client, live):
        answer = client.get(f"{HOSTED}/scan.csv?text=a%0D%0Ab&token=b")
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="injection-scan.csv"'
        assert live[0].text == "a\nb"
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        reply = scan_samples.reply()
        assert tuple(rows[0]) == api.COLUMNS
        assert len(rows) == len(reply.components) * len(reply.coefficients)
        expected = [
            (c, each.name, each.kind, "" if each.layer is None else str(each.layer), "", str(each.cluster), v)
            for each in reply.components
            for c, v in zip(reply.coefficients, each.values, strict=True)
        ]
        keys = ("component", "kind", "layer", "head", "cluster")
        found = [(float(r["coefficient"]), *(r[key] for key in keys), float(r["attribution"])) for r in rows]
        assert found == expected
        assert [float(row["total"]) for row in rows[:41]] == list(reply.total)
        assert [float(row["scale"]) for row in rows[:41]] == list(reply.scale)

    def test_the_api_answers_with_what_it_describes(self, client, live):
        answer = client.post("/api/injection-scan", json=JSON | {"n_coefficients": 41, "only_there": True})
        assert "Accept" in answer.headers["vary"].split(", ")
        found, reply = InjectionScan.model_validate(answer.json()), scan_samples.reply()
        assert (found.model, found.source, found.index) == (hosted.MODEL, hosted.SOURCE, hosted.RICH)
        assert [each.name for each in found.components] == [each.name for each in reply.components]
        assert found.components[1].values == list(reply.components[1].values)
        assert found.components[1].swing == max(reply.components[1].values) - min(reply.components[1].values)
        assert (found.total, found.coefficients, found.scale) == (
            list(reply.total), list(reply.coefficients), list(reply.scale),
        )  # fmt: skip
        assert (live[0].is_only_there_injected, live[0].text) == (True, "a b")

    @pytest.mark.parametrize(
        ("query", "accept", "kind"),
        [
            ("?format=csv", "application/json", "text/csv"), ("", "text/csv", "text/csv"),
            ("?format=json", "text/csv", "application/json"), ("", "*/*", "application/json"),
        ],
    )  # fmt: skip
    def test_json_or_csv_as_asked_for(self, client, live, query, accept, kind):
        answer = client.post(f"/api/injection-scan{query}", json=JSON, headers={"accept": accept})
        assert answer.headers["content-type"].startswith(kind)

    def test_a_vector_of_ones_own_is_added_at_its_hook_point(self, client, live):
        mine = {"model": hosted.MODEL, "hook_point": "blocks.1.hook_resid_post", "vector": [0.5, -1.0]}
        answer = client.post("/api/injection-scan", json=mine | {"text": "a", "token": "b"})
        assert (answer.json()["source"], answer.json()["index"]) == (None, None)
        assert (live[0].push.hook_point, live[0].push.vector) == ("blocks.1.hook_resid_post", (0.5, -1.0))
        assert live[0].versions.keys() == {""}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"text": ""}, "text"), ({"token": ""}, "token"), ({"n_coefficients": 513}, "n_coefficients"),
            ({"n_coefficients": 0}, "n_coefficients"), ({"n_clusters": 9}, "n_clusters"), ({"lowest": "nan"}, "lowest"),
            ({"source": ""}, "either source and index"), ({"vector": [1.0], "hook_point": "x"}, "either source"),
            ({"source": "", "vector": [1.0]}, "either source"), ({"position": 2**40}, "position"),
        ],
    )  # fmt: skip
    def test_malformed_questions_are_refused_before_anything_is_asked(self, client, live, changes, words):
        answer = client.post("/api/injection-scan", json=JSON | changes)
        assert answer.status_code == 400
        assert words in schemas.Error.model_validate(answer.json()).message
        assert not live

    def test_what_is_not_hosted_is_not_asked_about(self, client, live):
        for changes in ({"model": "none"}, {"source": "none"}, {"index": 99_999}):
            answer = client.post("/api/injection-scan", json=JSON | changes)
            assert (answer.status_code, bool(live)) == (404, False)
        assert client.get(f"/{hosted.MODEL}/{hosted.SOURCE}/99999/scan?text=a&token=b").status_code == 404
