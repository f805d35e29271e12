"""The packed row: every number back, and the layout that databases already hold."""

import zlib
from dataclasses import astuple, replace
from hashlib import sha256

import numpy as np
import pytest

from backend.formats import dashboards
from tests import hosted

LAYOUT_OF_VERSION_1 = "29ec7d4a841c68946ee4aff12c586768c7cce13007ca9ae191c3d765c4e15fce"


def test_version_1_keeps_its_layout() -> None:
    """Rows in databases are read by it: another layout needs another version."""
    raw = b"".join(zlib.decompress(dashboards.pack(d)[1:]) for d in hosted.every_kind())
    assert sha256(raw).hexdigest() == LAYOUT_OF_VERSION_1


@pytest.mark.parametrize("level", [1, 6, 9])
def test_rows_of_any_zlib_level_are_read(level: int) -> None:
    for made in hosted.every_kind():
        data = dashboards.pack(made)
        again = dashboards.unpack(data[:1] + zlib.compress(zlib.decompress(data[1:]), level))
        assert dashboards.pack(again) == data
        np.testing.assert_equal(astuple(again), astuple(made))


def test_positions_and_counts_of_any_size_come_back() -> None:
    rich = hosted.every_kind()[hosted.RICH]
    position = rich.examples.position + np.uint16(60_000)
    many = np.full(50, 2**40, np.int64)
    made = replace(
        rich, n_firings=50 * 2**40, linear_histogram=many, examples=replace(rich.examples, position=position)
    )
    again = dashboards.unpack(dashboards.pack(made))
    assert again.n_firings == 50 * 2**40
    assert again.linear_histogram.tolist() == many.tolist()
    assert again.examples.position.tolist() == position.tolist()


@pytest.mark.parametrize("data", [b"", b"\x09rest"])
def test_an_unknown_version_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="version"):
        dashboards.unpack(data)
