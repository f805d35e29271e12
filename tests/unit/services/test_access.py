"""Who may change what."""

import pytest
from sqlalchemy.orm import Session

from backend import errors
from backend.services import access
from backend.services.access import NOBODY, OPERATOR, Viewer

OWNER = Viewer(1, "owner", frozenset({"read", "write"}))
READER = Viewer(1, "owner", frozenset({"read"}))
ADMIN = Viewer(2, "admin", frozenset({"read", "write", "admin"}))


@pytest.mark.parametrize("viewer", [OWNER, ADMIN, OPERATOR])
def test_who_is_signed_in_may_write(viewer):
    access.check_may_write(viewer)


def test_nobody_is_asked_to_sign_in():
    with pytest.raises(errors.UnauthorizedError):
        access.check_may_write(NOBODY)


def test_a_key_that_reads_may_only_read():
    with pytest.raises(errors.ForbiddenError, match="only read"):
        access.check_may_write(READER)


@pytest.mark.parametrize(
    ("viewer", "owner_id"), [(OWNER, 1), (ADMIN, 1), (ADMIN, None), (OPERATOR, 1), (OPERATOR, None)]
)
def test_owners_and_admins_may_change(viewer, owner_id):
    access.check_may_change(viewer, owner_id)


@pytest.mark.parametrize(
    ("viewer", "owner_id", "refusal"),
    [
        (OWNER, 2, errors.ForbiddenError),
        (OWNER, None, errors.ForbiddenError),
        (READER, 1, errors.ForbiddenError),
        (NOBODY, None, errors.UnauthorizedError),
        (NOBODY, 1, errors.UnauthorizedError),
    ],
)
def test_nobody_else_may(viewer, owner_id, refusal):
    with pytest.raises(refusal):
        access.check_may_change(viewer, owner_id)


def test_a_session_without_a_viewer_is_the_operators():
    assert access.viewer_of(Session()) is OPERATOR
    assert access.viewer_of(Session(info={"viewer": NOBODY})) is NOBODY
