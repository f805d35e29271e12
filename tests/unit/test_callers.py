"""What a request says of where it comes from, and how far it is believed."""

import pytest
from starlette.datastructures import Headers

from backend import errors
from backend.settings import Access, Settings
from backend.web import callers


def with_accounts(public_url):
    return Settings(access=Access.ACCOUNTS, public_url=public_url)


@pytest.mark.parametrize(
    ("url", "origins"),
    [
        ("https://eyepiece.example.org", ("https://eyepiece.example.org",)),
        ("HTTPS://Eyepiece.Example.org:443/", ("https://eyepiece.example.org",)),
        ("http://localhost:3000", ("http://localhost:3000",)),
        ("http://[::1]:3000, http://a.b", ("http://[::1]:3000", "http://a.b")),
    ],
)
def test_the_site_s_address_is_read_as_browsers_write_origins(url, origins):
    assert callers.public_origins(with_accounts(url)) == origins
    assert callers.is_secure(with_accounts(url)) == url.lower().startswith("https")


@pytest.mark.parametrize(
    "url", ["", ",", "eyepiece.example.org", "ftp://a", "https://a/b", "https://u@a", "https://a:x", "https://a,http://b", "https://["]
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(errors.InvalidInputError, match="EYEPIECE_PUBLIC_URL"):
        callers.public_origins(with_accounts(url))


def test_in_open_mode_there_is_none():
    assert callers.public_origins(Settings(public_url="anything")) == ()


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None), ({"x-api-key": " k "}, "k"), ({"x-api-key": ""}, None), ({"authorization": "Bearer k"}, "k"),
        ({"authorization": "Basic k"}, None), ({"authorization": "Bearer"}, None),
        ({"x-api-key": "a", "authorization": "Bearer b"}, "a"),
    ],
)  # fmt: skip
def test_keys_are_found_in_either_header(headers, key):
    assert callers.api_key(Headers(headers)) == key


@pytest.mark.parametrize(
    ("n_proxies", "seen", "address"),
    [
        (0, "192.0.2.1", "10.0.0.9"), (1, "made-up, 192.0.2.1", "192.0.2.1"), (2, "made-up, 192.0.2.1, 10.0.0.1", "192.0.2.1"),
        (2, "192.0.2.1", "192.0.2.1"), (1, "", "10.0.0.9"), (1, None, "10.0.0.9"),
    ],
)  # fmt: skip
def test_only_what_our_proxies_saw_is_believed(n_proxies, seen, address):
    headers = [] if seen is None else [(b"x-forwarded-for", seen.encode())]
    assert callers.client_address({"type": "http", "client": ("10.0.0.9", 1), "headers": headers}, n_proxies) == address


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"), ("2001:db8:0:1::7", "2001:db8:0:1::/64"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", "unknown"),
    ],
)  # fmt: skip
def test_a_household_counts_once(address, network):
    assert callers.network_of(address) == network
