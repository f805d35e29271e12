"""Absolute paths of the host in texts about a job: for its owner and admins only, since they tell how the host is laid out.

Messages keep them in the database, as whoever gave a path has to find it. Everybody else reads `…/name`.
"""

import re

from sqlalchemy.orm import Session

from backend.db.tables import Job
from backend.services import access

_QUOTED = re.compile(r"""(?P<quote>['"])/(?:(?!(?P=quote)).)*/(?P<name>(?:(?!(?P=quote))[^/])+)/?(?P=quote)""")
"""May hold spaces."""
_PLAIN = re.compile(r"""(?<![\w/.~…-])/(?!/|api/)(?:[^\s/'"`,;:()<>]+/)*(?P<name>[^\s/'"`,;:()<>]+)/?""")
"""Neither the rest of `model/source` or of a URL, nor an address of ours."""


def shown(session: Session, job: Job, text: str) -> str:
    """A text about the job as the session's viewer may read it."""
    return text if access.owns(access.viewer_of(session), job.owner_id) else without(text)


def without(text: str) -> str:
    """The text with the last name only of each absolute path."""
    text = _QUOTED.sub(lambda found: f"{found['quote']}…/{found['name']}{found['quote']}", text)
    return _PLAIN.sub(lambda found: f"…/{found['name']}", text)
