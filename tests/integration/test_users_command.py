"""`eyepiece users` and `eyepiece keys`, run in this process on the test's transaction."""

import re
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from backend.cli import connection
from backend.cli.main import app
from backend.services import accounts, invitations, keys, sign_ins
from backend.settings import Settings

PASSWORD = "correct horse battery"


@pytest.fixture
def run(sessions, monkeypatch):
    """Runs a command line; what is typed is a line of standard input."""
    settings = Settings(public_url="https://eyepiece.example.org", database_url="x", redis_url="x")

    @contextmanager
    def opened(data, **_):
        yield connection.Connection(settings, sessions, lambda: None, "http://127.0.0.1:3000")

    monkeypatch.setattr(connection, "opened", opened)
    return lambda *words, typed="": CliRunner().invoke(app, list(words), input=typed)


def test_an_account_is_added_with_a_password_nobody_else_reads(run, session):
    done = run("users", "add", "Anna", "--admin", typed=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    assert accounts.get(session, accounts.authenticate(session, "anna", PASSWORD)).is_admin
    assert run("users", "add", "anna", typed=f"{PASSWORD}\n").exit_code == 1
    assert "anna" in run("users", "list").output


@pytest.mark.parametrize("typed", ["", "\n", "short\n"])
def test_a_password_that_is_none_is_refused(run, session, typed):
    assert run("users", "add", "anna", typed=typed).exit_code == 1
    assert not accounts.is_any(session)


def test_a_link_stands_for_the_password(run, session):
    done = run("users", "add", "anna", "--link")
    token = re.search(r"https://eyepiece\.example\.org/set-up/([\w-]+)", done.output)[1]
    assert invitations.accept(session, token, PASSWORD) == accounts.authenticate(session, "anna", PASSWORD)
    assert "/set-up/" in run("users", "password", "anna", "--link").output


def test_a_new_password_and_disabling_sign_out(run, session):
    run("users", "add", "root", "--admin", typed=f"{PASSWORD}\n")
    run("users", "add", "anna", typed=f"{PASSWORD}\n")
    account = accounts.named(session, "anna")
    token = sign_ins.start(session, account.id, Settings(), browser="", address="")
    session.commit()
    assert run("users", "password", "anna", typed="another good one\n").exit_code == 0
    assert sign_ins.viewer(session, token, Settings()) is None
    assert run("users", "disable", "anna").exit_code == 0
    with pytest.raises(accounts.errors.UnauthorizedError):
        accounts.authenticate(session, "anna", "another good one")
    assert "disabled" in run("users", "list").output
    assert run("users", "enable", "anna").exit_code == 0
    accounts.authenticate(session, "anna", "another good one")
    assert "last admin" in run("users", "disable", "root").stderr
    assert run("users", "disable", "nobody").exit_code == 1


def test_keys_are_made_listed_and_revoked(run, session):
    run("users", "add", "anna", typed=f"{PASSWORD}\n")
    key = run("keys", "add", "anna", "--scope", "read", "--days", "0", "--name", "notebook").output.strip()
    assert keys.viewer(session, key, Settings()).scopes == {"read"}
    listed = run("keys", "list", "anna").output
    assert key[: keys.SHOWN] in listed
    assert key not in listed
    (shown,) = keys.of_account(session, accounts.named(session, "anna").id)
    assert run("keys", "revoke", "anna", str(shown.id)).exit_code == 0
    with pytest.raises(keys.errors.UnauthorizedError):
        keys.viewer(session, key, Settings())
    assert run("keys", "revoke", "anna", str(shown.id)).exit_code == 1
    assert run("keys", "add", "anna", "--scope", "admin").exit_code == 1
