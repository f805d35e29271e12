"""Tokens at rest."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import errors
from backend.db.tables import Account, Secret
from backend.services import secrets
from backend.settings import Settings

TOKEN = "hf_" + "aB3" * 10


def settings(folder: Path, key: str = "") -> Settings:
    return Settings(data=folder, secret_key=key)


def test_a_token_is_sealed_by_a_key_only_its_owner_reads(session: Session, tmp_path: Path) -> None:
    given = settings(tmp_path)
    secrets.put(session, given, "huggingface", f" {TOKEN}\n", None)
    secrets.put(session, given, "huggingface", TOKEN + "2", None)
    assert secrets.get(session, given, "huggingface", None) == TOKEN + "2"
    assert TOKEN.encode() not in session.scalars(select(Secret.sealed)).one()
    assert stat.S_IMODE((tmp_path / secrets.KEY_FILE).stat().st_mode) == 0o600
    assert [found.name for found in secrets.of_owner(session, None)] == ["huggingface"]
    assert secrets.forget(session, "huggingface", None)
    assert not secrets.forget(session, "huggingface", None)
    assert secrets.get(session, given, "huggingface", None) is None


def test_accounts_have_their_own_and_never_the_hosts(session: Session, tmp_path: Path) -> None:
    account = Account(name="somebody", password_hash="")
    session.add(account)
    session.flush()
    secrets.put(session, settings(tmp_path), "huggingface", TOKEN, None)
    assert secrets.get(session, settings(tmp_path), "huggingface", account.id) is None


def test_another_key_opens_nothing(session: Session, tmp_path: Path) -> None:
    secrets.put(session, settings(tmp_path, "one"), "huggingface", TOKEN, None)
    assert secrets.get(session, settings(tmp_path, "one"), "huggingface", None) == TOKEN
    with pytest.raises(errors.UnavailableError, match="another key"):
        secrets.get(session, settings(tmp_path, "two"), "huggingface", None)
    assert "one" not in repr(settings(tmp_path, "one").secret_key)


def test_what_is_no_token_is_refused_without_showing_it(session: Session, tmp_path: Path) -> None:
    for token in ("", "a b c d e f g", "x" * 600):
        with pytest.raises(errors.InvalidInputError, match="no token") as refused:
            secrets.put(session, settings(tmp_path), "huggingface", token, None)
        assert not token or token not in str(refused.value)
    with pytest.raises(errors.NotFoundError, match="huggingface"):
        secrets.put(session, settings(tmp_path), "elsewhere", TOKEN, None)
