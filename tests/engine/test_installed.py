"""Two installs of one version whose code differs are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from steel_batch import __version__
from steel_batch.engine.installed import digest_code, installed


def _package(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "images" / "decode.py").write_text("BITS = 8\n")
    return folder


def test_an_install_is_named_by_its_version_and_code() -> None:
    assert installed().startswith(f"{__version__} (code ")
    assert installed() == installed()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "images" / "decode.py").write_text("BITS = 16\n"),
        lambda folder: (folder / "images" / "more.py").write_text(""),
        lambda folder: (folder / "images" / "decode.py").rename(folder / "images" / "other.py"),
        lambda folder: (folder / "__init__.py").unlink(),
    ],
    ids=["a line", "a new file", "a file's name", "a file that is gone"],
)
def test_any_difference_of_the_code_is_another_install(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    one, other = _package(tmp_path / "one"), _package(tmp_path / "other")
    assert digest_code(one) == digest_code(other)
    change(other)
    assert digest_code(one) != digest_code(other)


def test_what_python_compiled_is_no_difference(tmp_path: Path) -> None:
    one, other = _package(tmp_path / "one"), _package(tmp_path / "other")
    (other / "__pycache__").mkdir()
    (other / "__pycache__" / "decode.cpython-311.pyc").write_bytes(b"compiled")
    assert digest_code(one) == digest_code(other)
