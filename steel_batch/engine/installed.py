"""Which steel-batch is installed on this machine: the version, and a digest of its code.

Two installations of one version from different commits differ only in the code; then a node of the
cluster could score differently than the command that started it expects.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Final

from steel_batch import __version__

DIGEST_CHARS: Final = 8


@functools.cache
def installed() -> str:
    """Version and code of this installation, such as ``0.1.0 (code 1f2e3d4c)``."""
    return f"{__version__} (code {digest_code(Path(__file__).parents[1])})"


def digest_code(package: Path) -> str:
    """A digest of a package's Python files, by name and content.

    Args:
        package: Folder of the package. Files without the suffix ``.py`` are ignored.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:DIGEST_CHARS]
