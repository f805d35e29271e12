"""What others read of a job tells nothing of the host's folders."""

import pytest
from sqlalchemy import update

from backend.db.tables import Account, Job
from backend.services import access, events, host_paths, jobs, visibility
from tests import hosted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is no '/srv/My data/a b.txt'.", "There is no '…/a b.txt'."),
        ("[Errno 2] No such file: /srv/data/a.txt", "[Errno 2] No such file: …/a.txt"),
        ("path=/srv, (/home/me/saes/)", "path=…/srv, (…/saes)"),
        ("\"/srv/x\" and '/srv/y/'", "\"…/x\" and '…/y'"),
        ("m/source at 3 tokens/s, 1/2; https://hub.org/a/b", "m/source at 3 tokens/s, 1/2; https://hub.org/a/b"),
        ("GET /api/corpora/m lists them.", "GET /api/corpora/m lists them."),
    ],
)
def test_only_the_last_name_of_a_path_is_left(text: str, expected: str) -> None:
    assert host_paths.without(text) == expected


def test_its_owner_and_admins_read_the_path(session) -> None:
    made = hosted.host(session)
    account = Account(name="owner", password_hash="")
    session.add(account)
    session.flush()
    job_id = jobs.create(session, [made.source_id], {"corpus": "a.txt"}, owner_id=account.id)
    said = "There is no '/srv/secret/a.txt'."
    session.execute(update(Job).values(error=said))
    events.note(session, job_id, said)
    scopes = frozenset({"read", "write"})
    owner, other = access.Viewer(account.id, "owner", scopes), access.Viewer(account.id + 1, "other", scopes)
    for viewer, expected in (
        (access.OPERATOR, said), (owner, said), (other, "There is no '…/a.txt'."), (access.NOBODY, "There is no '…/a.txt'."),
    ):  # fmt: skip
        visibility.see_as(session, viewer)
        view = jobs.get(session, job_id)
        assert view.error == events.of_job(session, job_id)[-1].text == events.newest(session, job_id)[-1].text
        assert view.error == expected
        assert view.owner_id == account.id
