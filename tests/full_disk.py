"""A full disk of temporary files, for code in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Final

_LIMITED: Final = """
import resource, signal
from steel_batch.errors import LakeError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
{code}
except LakeError as error:
    print(error)
"""


def error_of_a_full_disk(code: str, folder: Path) -> str:
    """The `LakeError` that some code ends with if files of temporary data have 1 MiB at most.

    A limit on files stands for a full disk: the system's words are others, and known as well.

    Args:
        code: Writes more than that.
        folder: Of the temporary files; nothing may be left there.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED.format(code=indent(code, "    "))],
        capture_output=True, text=True, check=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert list(folder.iterdir()) == []
    return done.stdout
