"""The folder in which Ray keeps its logs and sockets: one that is full stops a run without a word.

Ray starts its processes with a full disk, and what needs a file then fails and is tried again for
ever: a run stays at "starting".
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from steel_batch.errors import MachineError

LEAST_BYTES: Final = 64 << 20
"""What must be free: a run of an hour writes some 10 MB of logs."""


def check_ray_folder(*, least_bytes: int = LEAST_BYTES) -> None:
    """Refuse to start Ray here where its folder cannot take what it writes.

    Args:
        least_bytes: What must be free.

    Raises:
        MachineError: It names the folder, and what is free.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    remedy = "Make room there, or set RAY_TMPDIR to a folder of another disk."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        num_free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(
            f"Ray cannot start here: its folder {folder} cannot be written: "
            f"{error.strerror or error}. {remedy}"
        ) from error
    if num_free < least_bytes:
        raise MachineError(
            f"Ray cannot start here: {num_free / 1e6:,.1f} MB are free in its folder {folder}, "
            f"expected {least_bytes / 1e6:,.0f} MB or more. {remedy}"
        )
