"""What a request says of where it comes from and where it goes: names, origins, addresses, keys and cookies.

All of it is what the caller wrote. Each function says what may be believed.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from backend import errors
from backend.settings import Access, Settings

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_SITE_OF_IPV6 = 64
"""Bits of an address that a network gives to one household; the rest it may choose at will."""


def public_origins(settings: Settings) -> tuple[str, ...]:
    """Where people find the site, such as `https://eyepiece.example.org`; none in `open` mode.

    Raises `InvalidInputError` where `public_url` does not say.
    """
    if settings.access is Access.OPEN:
        return ()
    origins = tuple(_origin(url.strip()) for url in settings.public_url.split(",") if url.strip())
    if not origins or None in origins or len({origin.split(":")[0] for origin in origins if origin}) != 1:
        raise errors.InvalidInputError(
            f"With accounts the site must know its address; EYEPIECE_PUBLIC_URL is '{settings.public_url}'.",
            hint="Set it to what people open, such as https://eyepiece.example.org; several, all https or all http, by commas.",
        )
    return tuple(filter(None, origins))


def site_url(headers: Headers, settings: Settings) -> str:
    """Where people find the site, without a path: links that leave it begin with it.

    In `open` mode the Host header, which `middleware.KnownCallers` has seen to be a name of this machine.
    """
    origins = public_origins(settings)
    return origins[0] if origins else f"http://{headers.get('host', '')}"


def is_secure(settings: Settings) -> bool:
    """True if people reach the site over TLS, so that cookies may insist on it."""
    return any(origin.startswith("https:") for origin in public_origins(settings))


def cookie_name(settings: Settings) -> str:
    """Of the cookie that says who is signed in; `__Host-` binds it to this very name, path / and TLS."""
    return "__Host-eyepiece" if is_secure(settings) else "eyepiece"


def host_name(host: str) -> str:
    """A Host header without its port; empty if it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_own_origin(headers: Headers, origins: tuple[str, ...]) -> bool:
    """True unless a browser says that a page of another site sent this; programs say nothing.

    Browsers name the page's origin on every request that may change something, and do not let pages lie about it.
    """
    origin, host = headers.get("origin"), headers.get("host", "").lower()
    if origin is None:
        return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    if host_name(host) in {host_name(urlsplit(known).netloc) for known in origins}:
        return origin.lower() in origins and urlsplit(origin.lower()).netloc == host
    return origin.lower() in (f"http://{host}", f"https://{host}")


def api_key(headers: Headers) -> str | None:
    """What a program sent to say who it is; None if nothing. Only the right one means anything."""
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given if scheme.lower() == "bearer" else None
    return key.strip() if key and key.strip() else None


def is_ours(headers: Headers, prefix: str) -> bool:
    """True unless the key is sent as Neuronpedia's clients send theirs and does not begin as ours do."""
    key = headers.get("x-api-key", "").strip()
    return not key or key.startswith(prefix)


def client_address(scope: Scope, n_proxies: int) -> str:
    """The address the request came from.

    Behind `n_proxies` of ours it is what the first of them saw: each adds the address it was reached from at the end of
    X-Forwarded-For, and what stands before that anybody may have written.
    """
    own = scope["client"][0] if scope.get("client") else "unknown"
    if n_proxies == 0:
        return str(own)
    lines = Headers(scope=scope).getlist("x-forwarded-for")
    seen = [part.strip() for line in lines for part in line.split(",") if part.strip()]
    return seen[-min(n_proxies, len(seen))][:64] if seen else str(own)


def network_of(address: str) -> str:
    """Whom an address is counted as: itself, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, _SITE_OF_IPV6), strict=False))


def _origin(url: str) -> str | None:
    """Scheme, name and port, as browsers write them; None if it is not an address of a site."""
    try:
        parts = urlsplit(url.lower())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.username:
        return None
    usual = {"http": 80, "https": 443}[parts.scheme]
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}" + ("" if port in (None, usual) else f":{port}")
