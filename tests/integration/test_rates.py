"""How often somebody may ask, counted by a real Valkey."""

import logging
import threading

import pytest

from backend.embedded import services
from backend.embedded.data_folder import opened
from backend.services import rates
from backend.services.rates import Rates
from backend.web.pages import account
from tests.signing_in import browser, person, program


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """Of a Valkey of this module's own; the database is not needed."""
    with (
        opened(tmp_path_factory.mktemp("rates") / "data") as folder,
        services.started(folder, database_url="postgresql://x") as found,
    ):
        yield found.redis_url


@pytest.fixture
def counted(redis_url):
    counted = Rates(redis_url)
    counted._client.flushall()
    yield counted
    counted.close()


@pytest.fixture
def limited(site, counted):
    """The site with three requests a minute."""
    site.state.rates = counted
    site.state.settings = site.state.settings.model_copy(update={"requests_per_minute": 3})
    return site


def test_a_bucket_holds_one_period_s_worth(counted):
    taken = [counted.take("a", 3, 60) for _ in range(5)]
    assert [each.is_allowed for each in taken] == [True, True, True, False, False]
    assert [each.n_left for each in taken] == [2, 1, 0, 0, 0]
    assert [each.retry_after_s for each in taken[:3]] == [0, 0, 0]
    assert all(1 <= each.retry_after_s <= 20 for each in taken[3:]), "at most a third of a minute"
    assert counted.take("b", 3, 60).is_allowed, "another's bucket"


def test_it_leaks_and_is_forgotten_when_empty(counted):
    for _ in range(4):
        counted.take("a", 3, 0.3)
    key = f"{rates._KEY}a"
    assert 0 < counted._client.pttl(key) <= 300
    until_empty(counted, key)
    assert [counted.take("a", 3, 60).is_allowed for _ in range(4)] == [True, True, True, False]


def until_empty(counted, key):
    """Blocks in Redis for the key's own time to live; no clock of ours."""
    while counted._client.exists(key):
        counted._client.blpop("nothing", timeout=0.05)


def test_many_at_once_get_no_more_than_one_by_one(counted):
    allowed = []

    def take():
        allowed.extend(counted.take("a", 20, 3600).is_allowed for _ in range(10))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 20


def test_without_redis_everything_passes_and_the_log_says_so_once_in_a_while(caplog):
    lost = Rates("redis://127.0.0.1:1")
    with caplog.at_level(logging.WARNING):
        assert all(lost.take("a", 1, 60) == rates.PASSED for _ in range(5))
    assert [record.getMessage() for record in caplog.records] == ["rates.unavailable"]
    assert Rates("").take("a", 1, 60) == rates.PASSED


def test_answers_say_how_many_are_left_and_then_when_to_come_back(limited):
    client = browser(limited)
    left = [client.get("/api/jobs").headers["x-limit-remaining"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    answer = client.get("/api/jobs")
    assert (answer.status_code, answer.headers["x-limit-remaining"]) == (429, "0")
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert "x-limit-remaining" in answer.headers["access-control-expose-headers"]
    page = client.get("/")
    assert (page.status_code, "retry-after" in page.headers) == (429, True)
    assert "Too busy" in page.text
    assert client.get("/api/health").status_code == 200
    assert client.get("/static/none.js").status_code == 404


def test_accounts_are_counted_apart_whatever_they_come_with(limited, session):
    anna = person(session, limited.state.settings, "anna")
    berta = person(session, limited.state.settings, "berta")
    first, second = program(limited, session, anna), program(limited, session, anna)
    assert [client.get("/api/jobs").status_code for client in (first, second, browser(limited, anna), first)] == [
        200,
        200,
        200,
        429,
    ]
    assert browser(limited, berta).get("/api/jobs").status_code == 200
    assert browser(limited).get("/api/jobs").status_code == 200


def test_wrong_keys_are_counted_against_their_address(limited):
    client = browser(limited)
    statuses = [client.get("/api/jobs", headers={"x-api-key": f"ep_{i}"}).status_code for i in range(5)]
    assert statuses == [401, 401, 401, 429, 429]


def test_an_address_cannot_be_made_up(limited):
    spoofed = [
        browser(limited).get("/api/jobs", headers={"x-forwarded-for": f"192.0.2.{i}"}).status_code for i in range(4)
    ]
    assert spoofed == [200, 200, 200, 429]


def test_behind_a_proxy_of_ours_addresses_are_those_it_saw(limited):
    limited.state.settings = limited.state.settings.model_copy(update={"proxies": 1})

    def ask(seen):
        return browser(limited).get("/api/jobs", headers={"x-forwarded-for": seen}).status_code

    assert [ask(f"made-up-{i}, 192.0.2.1") for i in range(4)] == [200, 200, 200, 429]
    assert ask("192.0.2.2") == 200
    assert [ask(f"2001:db8:0:1::{i}") for i in range(4)] == [200, 200, 200, 429], "one network, one caller"


def test_passwords_cannot_be_tried_without_end(site, session, counted, monkeypatch):
    site.state.rates = counted
    monkeypatch.setattr(account, "ATTEMPTS", {"name": 2, "address": 4})
    person(session, site.state.settings, "anna")

    def attempt(name):
        return browser(site).post("/sign-in", data={"name": name, "password": "wrong"})

    assert [attempt("anna").status_code for _ in range(3)] == [401, 401, 429], "by name"
    assert [attempt(f"other-{i}").status_code for i in range(2)] == [401, 429], "by address"
    answer = attempt("ANNA ")
    assert answer.status_code == 429
    assert "too many attempts" in answer.text
    assert int(answer.headers["retry-after"]) > 60


def test_in_open_mode_nothing_is_counted_unless_asked_for(app, counted):
    app.state.rates = counted

    def ask():
        return browser(app).get("http://localhost/api/jobs", headers={"origin": "http://localhost"})

    assert "x-limit-remaining" not in ask().headers
    app.state.settings = app.state.settings.model_copy(update={"requests_per_minute": 2})
    assert [ask().status_code for _ in range(3)] == [200, 200, 429]
