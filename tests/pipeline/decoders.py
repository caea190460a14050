"""Decoders of tests, named by `--decoder module:function`."""

from __future__ import annotations

import time
from typing import Any

from steel_batch.decode import Image, decode_gray


def slow(data: Any) -> Image:
    """Takes a tenth of a second an image, so that a test has time to kill something."""
    time.sleep(0.1)
    return decode_gray(data)
