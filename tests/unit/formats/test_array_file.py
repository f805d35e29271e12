from pathlib import Path

import numpy as np
import pytest

from backend.formats import array_file


def test_arrays_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    arrays = {
        "a": np.arange(10, dtype=np.uint16),
        "b": np.random.default_rng(0).random((3, 4)),
        "none": np.zeros((0, 2)),
    }
    array_file.write(path, arrays, {"job": 3})
    found = array_file.read(path)
    assert found.meta == {"job": 3}
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum at 'b'"):
        array_file.read(path)
    path.write_bytes(data[:-40])
    with pytest.raises(ValueError, match="cut short"):
        array_file.read(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(ValueError, match="not an array file"):
        array_file.read(path)
