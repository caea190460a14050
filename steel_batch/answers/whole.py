"""Local files and folders that are written completely or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from steel_batch.errors import ConfigError


def check_new(path: Path) -> None:
    """Refuse to replace an existing file or folder.

    Raises:
        ConfigError: The path exists.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} already exists: give another path, or remove it.")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill: it gets its name if the block succeeds, and is deleted otherwise.

    Raises:
        ConfigError: The path exists.
        OSError: It cannot be written.
    """
    check_new(path)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}-", dir=path.parent))
    try:
        partial.chmod(0o755)
        yield partial
        check_new(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; see `new_folder`."""
    check_new(path)
    with contextlib.ExitStack() as stack:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}-", dir=path.parent))
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        with (partial / "whole").open("wb") as file:
            yield file
        check_new(path)
        (partial / "whole").rename(path)
