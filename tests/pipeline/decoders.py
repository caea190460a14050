"""Decoders of tests, named by `--decoder module:function`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from steel_batch.images.decode import Image, decode_gray


def slow(data: Any) -> Image:
    """Takes a tenth of a second an image, so that a test has time to kill something."""
    time.sleep(0.1)
    return decode_gray(data)


def very_slow(data: Any) -> Image:
    """Takes a second an image, so that a test has time to start processes."""
    time.sleep(1.0)
    return decode_gray(data)


def noting(data: Any) -> Image:
    """Notes its process in the folder whose path stands behind an image's bytes."""
    image, _, folder = bytes(data).partition(NOTE)
    (Path(folder.decode().strip()) / str(os.getpid())).touch()
    return decode_gray(image)


NOTE = b"\nnote "
GATE = b"\ngate "


def reached(gate: Path) -> Path:
    """A file that is there once a decoder waits at the gate."""
    return gate.with_suffix(".reached")


def gated(data: Any) -> Image:
    """Waits for the file whose path stands behind an image's bytes, where one stands there."""
    image, _, path = bytes(data).partition(GATE)
    if path:
        gate = Path(path.decode().strip())
        reached(gate).touch()
        while not gate.exists():
            time.sleep(0.02)
    return decode_gray(image)
