"""Forms: that they come from a page we gave this very browser, and where they lead afterwards.

Every form holds a token that follows from the browser's sign-in. A page of another site can send a form here, with the
cookie in old browsers, but cannot read the token. Whoever is not signed in by a cookie has none: for them the check of
the Origin (`middleware`) stands alone.
"""

import hmac
from urllib.parse import urlsplit

from fastapi import Request

from backend import errors
from backend.web.middleware import SAFE_METHODS

FIELD = "form_token"
HEADER = "x-form-token"
MULTIPART = "multipart/form-data"


async def check_token(request: Request) -> None:
    """Return if the form's token is this browser's; raises `ForbiddenError`. A dependency of every page.

    It stands in a field of the form, a header, or the query: a multipart form is read as a stream by its handler.
    """
    expected: str = request.state.form_token
    if request.method in SAFE_METHODS or not expected:
        return
    given = request.headers.get(HEADER) or request.query_params.get(FIELD)
    if given is None and not request.headers.get("content-type", "").startswith(MULTIPART):
        given = str((await request.form()).get(FIELD, ""))
    if not hmac.compare_digest((given or "").encode(), expected.encode()):
        raise errors.ForbiddenError(
            "This form is of another sign-in, or of none.", hint="Load its page again, then repeat what you did."
        )


def own_path(text: str) -> str:
    r"""`text` if it is the address of one of our pages, without a site's name, else the home page.

    Browsers read `//x` and `/\x` as another site, and leave out tabs and line ends wherever they stand.
    """
    is_path = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and "\\" not in text
    try:
        parts = urlsplit(text)
    except ValueError:
        return "/"
    return text if is_path and not parts.scheme and not parts.netloc else "/"
