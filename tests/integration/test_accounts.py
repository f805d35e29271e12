"""Signing in and out, forms, keys, links: what a browser and a program meet, and what attackers do."""

import re
from datetime import timedelta
from threading import BoundedSemaphore

import pytest
from sqlalchemy import func, select, update

from backend.db.tables import Account, ApiKey, Invitation, SignIn
from backend.services import accounts, invitations, tokens
from backend.web import forms, middleware
from tests import hosted
from tests.signing_in import ORIGIN, PASSWORD, browser, person, program

COOKIE = "__Host-eyepiece"
JSON = {"accept": "application/json"}


@pytest.fixture
def anna(session, site):
    return person(session, site.state.settings, "anna")


@pytest.fixture
def admin(session, site):
    return person(session, site.state.settings, "root", is_admin=True)


def sign_in(client, name="anna", password=PASSWORD, **more):
    return client.post("/sign-in", data={"name": name, "password": password, **more})


def test_signing_in_sets_a_cookie_no_script_and_no_other_site_can_use(site, anna):
    answer = sign_in(browser(site), next="/jobs?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?x=1")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "secure", "samesite=lax", "path=/", "max-age=2592000"} == parts, "no domain: this name only"
    assert answer.headers["cache-control"] == "no-store"


def test_who_signed_in_is_named_on_every_page_until_signing_out(site, anna):
    client = browser(site)
    assert "Sign in" in client.get("/definitions").text
    sign_in(client)
    assert ">anna</a>" in client.get("/definitions").text
    old = client.cookies[COOKIE]
    answer = client.post("/sign-out", data={"form_token": form_token_of(client)})
    assert answer.headers["location"] == "/"
    assert COOKIE not in client.cookies
    client.cookies.set(COOKIE, old)
    assert "Sign in" in client.get("/definitions").text, "a copy of the cookie means nothing any more"


def form_token_of(client):
    return re.search(r'name="form_token" value="([0-9a-f]{64})"', client.get("/account").text)[1]


def test_tokens_and_keys_are_kept_as_hashes_only(site, session, anna):
    client = browser(site, anna)
    page = client.post("/account/keys", data={"name": "x", "scope": "read", "days": "1", "form_token": anna.form_token})
    key = re.search(r"ep_[\w-]{43}", page.text)[0]
    link = invitations.invite(session, anna.id)
    for table in (Account, ApiKey, SignIn, Invitation):
        for row in session.execute(select(table.__table__)).all():
            assert not any(secret in str(tuple(row)) for secret in (key, anna.token, link, PASSWORD))
    assert session.scalar(select(Account.password_hash)).startswith("$argon2id$")
    assert session.scalar(select(SignIn.token_hash)) == tokens.digest(anna.token)


@pytest.mark.parametrize(
    ("name", "password"), [("anna", "wrong horse"), ("nobody", PASSWORD), ("anna", ""), ("", ""), ("anna\0", PASSWORD)]
)
def test_what_is_wrong_is_not_told(site, anna, name, password):
    answer = sign_in(browser(site), name, password)
    assert answer.status_code == 401
    assert "Name and password do not fit." in answer.text
    assert "set-cookie" not in answer.headers


def test_a_name_that_is_not_there_takes_the_work_of_one_that_is(session, anna, monkeypatch):
    """Counted, not timed: every attempt verifies one hash."""
    verified = []
    real = accounts._hasher()

    class Counting:
        def verify(self, known, password):
            verified.append(known)
            return real.verify(known, password)

    monkeypatch.setattr(accounts, "_hasher", Counting)
    accounts._of_nobody()
    for name in ("anna", "nobody"):
        with pytest.raises(accounts.errors.UnauthorizedError):
            accounts.authenticate(session, name, "wrong")
    assert len(verified) == 2
    assert verified[0].split("$")[:4] == verified[1].split("$")[:4], "the same parameters, so the same work"


def test_a_crowd_that_signs_in_does_not_keep_others_waiting(site, anna, monkeypatch):
    waiting = BoundedSemaphore(1)
    monkeypatch.setattr(accounts, "_waiting", waiting)
    with waiting:
        answer = sign_in(browser(site))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, str(accounts.RETRY_AFTER_S))
        assert browser(site, anna).get("/account").status_code == 200
    assert sign_in(browser(site)).status_code == 303


def test_a_cookie_of_the_attackers_choice_is_never_signed_in(site, session, anna):
    """Session fixation: the token after signing in is new."""
    client = browser(site)
    client.cookies.set(COOKIE, "chosen-by-somebody-else")
    answer = sign_in(client)
    assert "chosen-by-somebody-else" not in answer.headers["set-cookie"]
    fixed = browser(site)
    fixed.cookies.set(COOKIE, "chosen-by-somebody-else")
    assert fixed.get("/account").status_code == 303


def test_signing_in_again_ends_the_sign_in_before(site, session, anna):
    client = browser(site, anna)
    answer = client.post("/sign-in", data={"name": "anna", "password": PASSWORD, "form_token": anna.form_token})
    assert answer.status_code == 303
    assert browser(site, anna).get("/account").headers["location"].startswith("/sign-in")


@pytest.mark.parametrize(
    "there",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "evil", "",
     "/\t/evil.example", "/\n/evil.example", "///evil.example", "/x\r\nset-cookie: a=b", "http:evil.example", "/[//["],
)  # fmt: skip
def test_signing_in_leads_to_our_own_pages_only(site, anna, there):
    assert sign_in(browser(site), next=there).headers["location"] in ("/", "/[//[")
    page = browser(site).get("/sign-in", params={"next": there}).text
    assert "evil" not in re.search(r'name="next" value="([^"]*)"', page)[1]
    assert browser(site, anna).get("/sign-in", params={"next": there}).headers["location"] in ("/", "/[//[")


def test_our_own_pages_are_kept():
    for path in ("/", "/jobs", "/gpt2/6-res-jb?sort=density&token=%22", "/a/b/3#x", "/a?next=//b"):
        assert forms.own_path(path) == path


def test_a_page_that_needs_an_account_leads_to_the_sign_in_and_back(site):
    assert browser(site).get("/account").headers["location"] == "/sign-in?next=%2Faccount"
    assert browser(site).get("/admin?x=1").headers["location"] == "/sign-in?next=%2Fadmin%3Fx%3D1"
    assert browser(site).get("/account", headers=JSON).status_code == 401


def test_signing_in_is_over_when_it_expires(site, session, anna):
    session.execute(update(SignIn).values(expires_at=func.now() - timedelta(seconds=1)))
    session.commit()
    assert browser(site, anna).get("/account").status_code == 303


def test_disabling_an_account_ends_its_sign_ins_and_keys(site, session, anna, admin):
    key = program(site, session, anna)
    assert key.get("/api/jobs").status_code == 200
    answer = browser(site, admin).post(f"/admin/accounts/{anna.id}/disable", data={"form_token": admin.form_token})
    assert answer.status_code == 303
    assert browser(site, anna).get("/account").status_code == 303
    assert key.get("/api/jobs").status_code == 401
    assert sign_in(browser(site)).status_code == 401


def test_the_last_admin_stays(site, session, anna, admin):
    for path in ("disable", "admin"):
        answer = browser(site, admin).post(f"/admin/accounts/{admin.id}/{path}", data={"form_token": admin.form_token})
        assert answer.status_code == 409
    assert browser(site, admin).get("/admin").status_code == 200


# Forms.


@pytest.mark.parametrize("token", [None, "", "0" * 64, "another's"])
def test_a_form_without_the_browsers_token_changes_nothing(site, session, anna, admin, token):
    given = admin.form_token if token == "another's" else token
    data = {"name": "x", "scope": "write", "days": "1"} | ({} if given is None else {"form_token": given})
    answer = browser(site, anna).post("/account/keys", data=data)
    assert answer.status_code == 403
    assert session.scalar(select(func.count()).select_from(ApiKey)) == 0


def test_every_way_to_send_the_token_is_taken(site, session, anna):
    client = browser(site, anna)
    data = {"name": "x", "scope": "read", "days": "1"}
    assert client.post("/account/keys", data=data | {"form_token": anna.form_token}).status_code == 201
    assert client.post("/account/keys", data=data, headers={"x-form-token": anna.form_token}).status_code == 201
    assert client.post("/account/keys", data=data, params={"form_token": anna.form_token}).status_code == 201


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://eyepiece.example.org", ORIGIN + ":8443", "http://["]
)
def test_a_form_of_another_origin_changes_nothing_even_with_the_token(site, session, anna, origin):
    data = {"name": "x", "scope": "write", "days": "1", "form_token": anna.form_token}
    assert browser(site, anna).post("/account/keys", data=data, headers={"origin": origin}).status_code == 403
    assert session.scalar(select(func.count()).select_from(ApiKey)) == 0


def test_a_form_token_does_not_tell_the_cookie(anna):
    assert anna.token not in anna.form_token
    assert tokens.digest(anna.token).hex() != anna.form_token


def test_forms_that_are_too_large_are_refused_before_they_are_read(site, anna):
    answer = browser(site).post("/sign-in", data={"name": "x", "password": "x" * 100_000})
    assert answer.status_code == 413

    def slowly():
        yield b"name=x&password="
        for _ in range(100):
            yield b"x" * 1000

    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert browser(site).post("/sign-in", content=slowly(), headers=headers).status_code in (400, 413)
    assert browser(site).post("/api/model/list", json={"x": "x" * 2**23}).status_code == 413


# API keys.


def test_a_key_says_who_asks(site, session, anna):
    made = hosted.host(session)
    session.execute(
        update(hosted.Source).where(hosted.Source.id == made.source_id).values(owner_id=anna.id, visibility="private")
    )
    session.commit()
    path = f"/api/source/{hosted.MODEL}/{hosted.SOURCE}"
    assert browser(site).get(path).status_code == 404
    key = program(site, session, anna, "read").headers["x-api-key"]
    listed = browser(site).post("/api/model/list", headers={"x-api-key": key}).json()
    assert [source["visibility"] for model in listed for of in model["sourceSets"] for source in of["sources"]] == [
        "PRIVATE"
    ]
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}):
        assert browser(site).get(path, headers=headers).status_code == 200
    assert session.scalar(select(ApiKey.used_at)) is not None


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "ep_wrong"}, {"authorization": "Bearer wrong"}, {"x-api-key": "ep_" + "é" * 5000}]
)
def test_an_unknown_key_is_refused_even_beside_a_good_cookie(site, anna, headers):
    encoded = {name: value.encode("utf-8") for name, value in headers.items()}
    answer = browser(site, anna).get("/api/jobs", headers=encoded)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert browser(site, anna).get("/account", headers=encoded).status_code == 401


@pytest.mark.parametrize("key", ["sk-np-1234", "any", "é" * 5000])
def test_what_is_no_key_of_ours_is_nobodys_even_beside_a_good_cookie(site, session, anna, key):
    """Neuronpedia's clients send a key of its whatever they ask."""
    made = hosted.host(session)
    of = update(hosted.Source).where(hosted.Source.id == made.source_id)
    session.execute(of.values(owner_id=anna.id, visibility="private"))
    session.commit()
    headers, path = {"x-api-key": key.encode("utf-8")}, f"/api/source/{hosted.MODEL}/{hosted.SOURCE}"
    assert browser(site, anna).get("/api/jobs", headers=headers).status_code == 200
    assert browser(site, anna).get(path).status_code == 200
    assert browser(site, anna).get(path, headers=headers).status_code == 404
    assert browser(site, anna).patch(path, json={"visibility": "public"}, headers=headers).status_code == 404
    assert browser(site, anna).get("/account", headers=headers).status_code == 401


def test_expired_and_revoked_keys_are_refused(site, session, anna):
    for change in ({"expires_at": func.now()}, {"revoked_at": func.now()}):
        client = program(site, session, anna)
        assert client.get("/api/jobs").status_code == 200
        session.execute(update(ApiKey).values(change))
        session.commit()
        assert client.get("/api/jobs").status_code == 401


def test_a_key_does_what_its_scope_and_its_account_may(site, session, anna, admin):
    hosted.host(session)
    session.commit()
    path, change = f"/api/source/{hosted.MODEL}/{hosted.SOURCE}", {"visibility": "unlisted"}
    for scope, status in (("read", 403), ("write", 403), ("admin", 200)):
        assert program(site, session, admin, scope).patch(path, json=change).status_code == status
    session.execute(update(Account).where(Account.id == admin.id).values(is_admin=False))
    session.commit()
    keys = session.scalars(select(ApiKey).where(ApiKey.scope == "admin")).all()
    assert len(keys) == 1, "the key stays, and is worth what its account is now"
    answer = browser(site, anna).post(
        "/account/keys", data={"name": "x", "scope": "admin", "days": "1", "form_token": anna.form_token}
    )
    assert answer.status_code == 403


def test_a_key_cannot_do_what_belongs_to_its_owners_browser(site, session, anna):
    client = program(site, session, anna, "write")
    for path, data in (
        ("keys", {"name": "x", "scope": "write", "days": "1"}),
        ("password", {"current": PASSWORD, "password": "y" * 12}),
    ):
        assert client.post(f"/account/{path}", data=data).status_code == 401
    assert client.get("/account").status_code == 401


def test_keys_and_browsers_of_others_cannot_be_revoked(site, session, anna, admin):
    other = person(session, site.state.settings, "other")
    program(site, session, anna)
    key_id = session.scalar(select(ApiKey.id))
    sign_in_id = session.scalar(select(SignIn.id).where(SignIn.account_id == anna.id))
    data = {"form_token": other.form_token}
    assert browser(site, other).post(f"/account/keys/{key_id}/revoke", data=data).status_code == 404
    browser(site, other).post(f"/account/sign-ins/{sign_in_id}/end", data=data)
    assert browser(site, anna).get("/account").status_code == 200
    data = {"form_token": anna.form_token}
    assert browser(site, anna).post(f"/account/keys/{key_id}/revoke", data=data).status_code == 303
    assert session.scalar(select(ApiKey.revoked_at)) is not None


@pytest.mark.parametrize(
    "field", [{"name": ""}, {"name": "a\nb"}, {"scope": "all"}, {"days": "-1"}, {"days": "9" * 30}, {"days": "x"}]
)
def test_a_key_that_makes_no_sense_is_not_made(site, session, anna, field):
    data = {"name": "x", "scope": "read", "days": "1", "form_token": anna.form_token} | field
    assert browser(site, anna).post("/account/keys", data=data).status_code == 400
    assert session.scalar(select(func.count()).select_from(ApiKey)) == 0


# Other sites' pages.


def test_a_page_elsewhere_reads_with_a_key_and_never_with_the_cookie(site, session, anna):
    elsewhere = {"origin": "https://notebook.example"}
    key = program(site, session, anna)
    asked = elsewhere | {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    answer = browser(site).options("/api/model/list", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
    assert "x-api-key" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    answer = key.post("/api/model/list", headers=elsewhere)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert browser(site, anna).post("/api/model/list", headers=elsewhere).status_code == 403
    answer = browser(site).post("/api/model/list", headers=elsewhere)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert browser(site).post("/api/vector/list-owned", headers=elsewhere).status_code == 403
    assert "access-control-allow-origin" not in key.post("/account/keys", headers=elsewhere).headers


def test_in_open_mode_a_key_is_ignored_and_opens_nothing(app):
    client = browser(app)
    client.headers["origin"] = "http://localhost"
    assert client.get("http://localhost/api/jobs", headers={"x-api-key": "anything"}).status_code == 200
    elsewhere = {"origin": "https://evil.example", "x-api-key": "anything"}
    answer = client.post("http://localhost/api/model/new", headers=elsewhere)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = client.options("http://localhost/api/model/new", headers=asked)
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD"


@pytest.mark.parametrize("slash", ["", "/"])
def test_in_open_mode_a_page_elsewhere_reads_by_post_too(app, slash):
    client = browser(app)
    elsewhere = {"origin": "https://notebook.example", "x-api-key": "anything"}
    asked = elsewhere | {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    allowed = client.options(f"http://localhost/api/model/list{slash}", headers=asked).headers
    assert allowed["access-control-allow-methods"] == "GET, HEAD, POST"
    assert "x-api-key" in allowed["access-control-allow-headers"]
    answer = client.post(f"http://localhost/api/model/list{slash}", headers=elsewhere)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_routes_that_read_by_post_are_there(app):
    posts = {path for path, verbs in app.openapi()["paths"].items() if "post" in verbs}
    assert posts >= middleware.READING


@pytest.mark.parametrize("path", ["/sign-in", "/account", "/set-up/x"])
def test_in_open_mode_there_is_nothing_to_sign_in_to(app, path):
    assert browser(app).get(f"http://localhost{path}", headers=JSON).status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "eyepiece.example.org.evil.example", "eyepiece.example.org@evil.example"]
)
def test_other_names_are_refused(site, host):
    assert browser(site).get("/definitions", headers={"host": host, **JSON}).status_code == 400


def test_headers_of_proxies_do_not_change_the_site_s_name(site, anna):
    spoofed = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "http", "forwarded": "host=evil.example"}
    client = browser(site)
    answer = client.post("/sign-in", data={"name": "anna", "password": PASSWORD}, headers=spoofed)
    assert answer.headers["location"] == "/"
    assert "secure" in answer.headers["set-cookie"].lower()


# Links.


def test_a_link_makes_the_first_account_once(site, session):
    token = invitations.invite(session, None)
    session.commit()
    client, data = browser(site), {"name": "Root", "password": PASSWORD}
    assert "The first account" in client.get(f"/set-up/{token}").text
    assert client.post(f"/set-up/{token}", data=data | {"password": "short"}).status_code == 400
    assert client.post(f"/set-up/{token}", data=data).headers["location"] == "/"
    assert client.get("/admin").status_code == 200
    assert accounts.named(session, "root").is_admin
    assert browser(site).post(f"/set-up/{token}", data=data | {"name": "second"}).status_code == 404


def test_no_link_makes_a_second_first_account(site, session, anna):
    token = invitations.invite(session, None)
    session.commit()
    data = {"name": "mallory", "password": PASSWORD}
    assert browser(site).get(f"/set-up/{token}").status_code == 404
    assert browser(site).post(f"/set-up/{token}", data=data).status_code == 404


def test_an_admins_link_lets_somebody_in(site, session, admin):
    client = browser(site, admin)
    page = client.post("/admin/accounts", data={"name": "Berta", "form_token": admin.form_token})
    link = re.search(rf"{ORIGIN}(/set-up/[\w-]+)", page.text)[1]
    berta = browser(site)
    assert "berta" in berta.get(link).text
    assert berta.post(link, data={"password": PASSWORD}).status_code == 303
    assert berta.get("/account").status_code == 200
    assert berta.get("/admin", headers=JSON).status_code == 404
    assert browser(site).post(link, data={"password": PASSWORD}).status_code == 404


def test_a_new_link_and_time_end_the_old_one(site, session, anna):
    first, second = invitations.invite(session, anna.id), invitations.invite(session, anna.id)
    session.commit()
    assert browser(site).get(f"/set-up/{first}").status_code == 404
    assert browser(site).get(f"/set-up/{second}").status_code == 200
    session.execute(update(Invitation).values(expires_at=func.now()))
    session.commit()
    assert browser(site).get(f"/set-up/{second}").status_code == 404


def test_a_new_password_signs_out_everywhere_else(site, session, anna):
    client, other = browser(site, anna), browser(site)
    sign_in(other)
    data = {"current": PASSWORD, "password": "another good one", "form_token": anna.form_token}
    assert client.post("/account/password", data=data | {"current": "wrong"}).status_code == 400
    assert client.post("/account/password", data=data | {"password": "short"}).status_code == 400
    assert other.get("/account").status_code == 200
    assert client.post("/account/password", data=data).status_code == 303
    assert client.get("/account").status_code == 200
    assert other.get("/account").status_code == 303
    assert sign_in(browser(site)).status_code == 401
    assert sign_in(browser(site), password="another good one").status_code == 303


def test_others_can_be_signed_out(site, session, anna):
    client, other = browser(site, anna), browser(site)
    sign_in(other)
    assert client.get("/account").text.count("Sign out in ") == 1
    assert client.post("/account/sign-ins/others/end", data={"form_token": anna.form_token}).status_code == 303
    assert other.get("/account").status_code == 303
    assert client.get("/account").status_code == 200


def test_an_admin_sets_quotas(site, session, anna, admin):
    client, data = browser(site, admin), {"form_token": admin.form_token}
    path = f"/admin/accounts/{anna.id}/quota"
    assert client.post(path, data=data | {"gigabytes": "1.5", "n_jobs": "0", "requests": ""}).status_code == 303
    account = accounts.get(session, anna.id)
    assert (account.quota_bytes, account.quota_jobs, account.requests_per_minute) == (1_500_000_000, 0, None)
    quota = accounts.quota(account, site.state.settings)
    assert (quota.n_bytes, quota.n_jobs, quota.requests_per_minute) == (1_500_000_000, None, 600)
    for wrong in ({"gigabytes": "-1"}, {"gigabytes": "nan"}, {"n_jobs": "1.5"}, {"requests": "many"}):
        assert client.post(path, data=data | wrong).status_code == 400


def test_others_see_no_admin_page(site, anna):
    assert browser(site, anna).get("/admin").status_code == 404
    assert "Admin</a>" not in browser(site, anna).get("/definitions").text


def test_names_are_the_same_whatever_their_case_and_nobody_gets_a_strange_one(session):
    accounts.add(session, " Anna ", PASSWORD)
    with pytest.raises(accounts.errors.ConflictError):
        accounts.add(session, "ANNA", PASSWORD)
    for name in ("", "a b", "<script>", "é", "x" * 41, "-a", "a\n"):
        with pytest.raises(accounts.errors.InvalidInputError):
            accounts.add(session, name.replace("a\n", "a\nb"), PASSWORD)


def test_no_cache_between_gives_one_person_s_answer_to_another(site, app, anna):
    for path in ("/api/jobs", "/api/nope", "/openapi.json"):
        assert browser(site, anna).get(path).headers["cache-control"] == "private, no-cache"
    assert browser(site, anna).get("/").headers["cache-control"] == "no-cache"
    assert "cache-control" not in browser(app).get("http://localhost/api/jobs").headers


def test_pages_of_secrets_are_not_stored(site, session, anna):
    page = browser(site, anna).post(
        "/account/keys", data={"name": "x", "scope": "read", "days": "0", "form_token": anna.form_token}
    )
    assert page.headers["cache-control"] == "no-store"
    token = invitations.invite(session, anna.id)
    session.commit()
    # Other sites are not told the address; with "no-referrer" browsers would send the form's origin as null.
    assert browser(site).get(f"/set-up/{token}").headers["referrer-policy"] == "same-origin"
