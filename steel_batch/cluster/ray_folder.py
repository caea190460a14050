"""The folder of Ray's logs and sockets: if it is full, a run stops without a message.

Ray starts its processes on a full disk; whatever needs a file then fails and is retried without
end, and a run stays at "starting".
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from steel_batch.errors import MachineError

LEAST_BYTES: Final = 64 << 20
"""Space that must be free: a run of an hour writes some 10 MB of logs."""


def make_folders_absolute() -> None:
    """Make the variables that name Ray's folder mean what they mean to Python.

    Ray takes them as they are, even if empty, and its processes start in other folders.
    """
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if folder := os.environ.pop(name, ""):
            os.environ[name] = str(Path(folder).absolute())


def check_ray_folder(*, least_bytes: int = LEAST_BYTES) -> None:
    """Refuse to start Ray here if its folder lacks space.

    Args:
        least_bytes: Space that must be free.

    Raises:
        MachineError: It names the folder, and its free space.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    remedy = "Free space there, or set RAY_TMPDIR to a folder on another disk."
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
