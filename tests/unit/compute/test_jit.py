"""Where compiled loops keep their machine code."""

import subprocess
import sys
from pathlib import Path

import workers.compute
from workers.compute import jit


def test_the_cache_is_named_after_the_sources(tmp_path: Path, monkeypatch) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path)
    before = jit._cache_folder()
    assert jit._cache_folder() == before
    (tmp_path / "b.py").write_text("x = 2\n")
    assert jit._cache_folder() != before


def test_a_process_keeps_its_machine_code_there() -> None:
    code = "import numba; from workers.compute import jit; print(numba.config.CACHE_DIR)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert Path(said) == jit._cache_folder()
    assert Path(workers.compute.__file__).parent in Path(said).parents
