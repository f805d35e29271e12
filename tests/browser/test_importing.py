"""Handing over dashboards of another tool in a real browser: a folder chosen, sent, checked, imported, read, exported.

The site is whole: web server, database, queue and a worker, in processes of their own.
"""

import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests import exports
from tests.browser.conftest import browser as browser
from tests.browser.test_adding import address as address
from tests.browser.test_adding import choose_folder
from tests.browser.test_adding import page as page
from tests.site import Site
from tests.site import site as site

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _worker(site: Site) -> None:
    site.start_worker()


def test_an_export_s_folder_is_imported_read_and_exported_again(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "6-made"
    exports.write(folder, n_features=12, n_contexts=8, model="made-model")
    page.goto("/")
    page.get_by_role("link", name="imported").click()
    expect(page.get_by_role("button", name="Import")).to_be_disabled()
    choose_folder(page, folder)
    expect(page.locator("[data-part=speed]")).to_have_text("all here, and checked")
    page.get_by_label("Source id").fill("6-mine")
    page.get_by_role("button", name="Import").click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator(".log")).to_contain_text("12 features with 540 texts are imported.")
    page.get_by_role("heading", level=1).get_by_role("link").click()
    page.wait_for_url("**/made-model/6-mine")
    expect(page.locator("#imported")).to_contain_text("12 features from 2 files")
    with page.expect_download() as given:
        page.get_by_role("link", name="Neuronpedia's files").click()
    assert given.value.suggested_filename == "made-model-6-mine.zip"
    with zipfile.ZipFile(given.value.path()) as archive:
        assert {"release.jsonl", "features/batch-0.jsonl.gz", "activations/batch-0.jsonl.gz"} < set(archive.namelist())
    page.locator(".features tbody a").first.click()
    page.wait_for_url("**/made-model/6-mine/*")
    expect(page.locator("h1")).to_contain_text("feature")


def test_the_operator_names_a_folder_and_is_told_what_is_wrong(page: Page, tmp_path: Path) -> None:
    page.goto("/import")
    place = page.get_by_label("Or a folder of this host, or an address")
    place.fill(str(tmp_path))
    page.get_by_role("button", name="Import").click()
    expect(page.locator("[data-part=refusal]")).to_contain_text("is of an export")
    exports.write(tmp_path / "in", n_features=3, n_contexts=2, model="made-model", source="7-made")
    place.fill(str(tmp_path / "in"))
    page.get_by_role("button", name="Import").click()
    page.wait_for_url("**/jobs/*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("import of made-model/7-made")


def test_files_that_are_no_export_are_refused(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    page.goto("/import")
    page.locator("[data-part=files]").set_input_files(tmp_path / "notes.txt")
    expect(page.locator(".problems li")).to_contain_text("is of an export")
    expect(page.get_by_role("button", name="Import")).to_be_disabled()
