"""Decoders that do what a decoder must not, for files that say so; others are decoded."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from steel_batch.images.decode import Image, decode_gray

KILL = b"kills by signal"
ABORT = b"aborts"
EXIT = b"exits"
HANG = b"hangs"
FORK = b"aborts and leaves a process behind"
LATER = b"kills when the next one is decoded"

_is_doomed = False


def deadly(data: Any) -> Image:
    """Ends or holds up the process for a file that ends in one of the texts above."""
    global _is_doomed
    end = bytes(data)[-64:]
    if end.endswith(KILL) or _is_doomed:
        os.kill(os.getpid(), signal.SIGKILL)
    if end.endswith(FORK) and not os.fork():
        time.sleep(20)
        os._exit(0)
    if end.endswith((ABORT, FORK)):
        os.abort()
    if end.endswith(EXIT):
        os._exit(7)
    if end.endswith(HANG):
        time.sleep(3600)
    _is_doomed = end.endswith(LATER)
    return decode_gray(data)


def kills_what_scores(data: Any) -> Image:
    """Ends the scoring process for a file that says so, also from a process of its own."""
    if bytes(data)[-64:].endswith(KILL):
        is_child = "steel_batch.images.isolate" in sys.orig_argv
        os.kill(os.getppid() if is_child else os.getpid(), signal.SIGKILL)
    return decode_gray(data)


def chatty(data: Any) -> Image:
    """Prints while it decodes, as native libraries do."""
    print("decoding…", flush=True)
    os.write(1, b"still decoding\n")
    sys.stdout.flush()
    return decode_gray(data)


def greedy(data: Any) -> Image:
    """Needs 4 GiB for a file that says so, and more than there is for one that says very."""
    if bytes(data).endswith(b"very greedy"):
        raise MemoryError
    if bytes(data).endswith(b"greedy"):
        np.zeros(4 << 30, np.uint8)
    return decode_gray(data)


def raises_value_error(data: Any) -> Image:
    """Fails in a way that the contract does not know."""
    raise ValueError("unknown camera")


def gives_colour(data: Any) -> Image:
    """Returns channels."""
    image_HW = decode_gray(data)
    return np.dstack([image_HW] * 3)


if os.environ.get("DIE_AT_IMPORT"):
    os._exit(9)
