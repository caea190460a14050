"""Decoding in child processes, for images that kill or hold up the process that decodes them.

A child gets files on its standard input and gives pixels back on its standard output, one after the
other. If it dies, what it gave back stands, and the next child begins with the image that was being
decoded: an image that ends a process in which nothing came before it is the culprit, every other
one is decoded. So a culprit costs two children, however large the shard. The protocol is lengths
and raw bytes; nothing is unpickled.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import BinaryIO, Final

import numpy as np

from steel_batch.decode import Image, load_decoder
from steel_batch.errors import ClusterError, DecodeError, ImageError

START_SECONDS: Final = 60.0
"""For the interpreter and the decoder's module."""
SECONDS_PER_IMAGE: Final = 10.0
"""The largest image that is decoded takes about one."""
_STARTS: Final = 3
_LENGTH: Final = struct.Struct("<q")
_HEAD: Final = struct.Struct("<cqq")
_READY: Final = b"R"
_PIXELS: Final = b"P"
_ERROR: Final = b"E"


def decode_isolated(
    contents: Sequence[bytes], decoder: str, *, seconds_per_image: float = SECONDS_PER_IMAGE
) -> list[Image | ImageError]:
    """Decode files where a crash cannot hurt.

    Args:
        contents: The files.
        decoder: The ``module:function`` that decodes one.
        seconds_per_image: How long one image may take.

    Returns:
        Per file its pixels, or what is wrong with it: the decoder's own error, or the code
        ``crashed_decoder`` for a file that killed a process of its own, or ``hung_decoder`` for one
        that held it up.

    Raises:
        ClusterError: No process could be started, which is no image's fault.
    """
    results: list[Image | ImageError] = []
    while len(results) < len(contents):
        decoded, end = _decode_in_child(contents[len(results) :], decoder, seconds_per_image)
        results += decoded
        if len(results) < len(contents) and not decoded:
            results.append(_explain(end, seconds_per_image))
    return results


def child_environment() -> dict[str, str]:
    """What a child's interpreter needs to find the modules of this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _explain(exit_code: int | None, seconds_per_image: float) -> DecodeError:
    if exit_code in (None, -signal.SIGALRM):
        return DecodeError(
            f"decoding it took more than {seconds_per_image:g} s in a process of its own.",
            code="hung_decoder",
        )
    how = f"exit {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = signal.Signals(-exit_code).name
    return DecodeError(
        f"decoding it ended a process of its own ({how}).",
        code="crashed_decoder",
    )


def _decode_in_child(
    contents: Sequence[bytes], decoder: str, seconds_per_image: float
) -> tuple[list[Image | ImageError], int | None]:
    """What one child gave back, and its exit code; None if it had to be stopped."""
    message = b"".join([_LENGTH.pack(len(contents)), *(_LENGTH.pack(len(c)) + c for c in contents)])
    end: int | None = None
    for _ in range(_STARTS):
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "steel_batch.isolate", decoder, str(seconds_per_image)],
                input=message,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # The child's own alarm comes first, unless the decoder turned it off.
                timeout=START_SECONDS + (seconds_per_image + 1) * len(contents),
                env=child_environment(),
                check=False,
            )
            end, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            end, output = None, error.stdout or b""
        if output.startswith(_READY):
            return _parse(output), end
    raise ClusterError(
        f"a process that decodes with {decoder!r} ended before its first image, {_STARTS} times "
        f"(exit {end}): look for memory or a limit of processes that is used up."
    )


def _parse(output: bytes) -> list[Image | ImageError]:
    """The results that are complete."""
    results: list[Image | ImageError] = []
    position = len(_READY)
    while len(output) - position >= _HEAD.size:
        kind, first, second = _HEAD.unpack_from(output, position)
        position += _HEAD.size
        size = first * second if kind == _PIXELS else first + second
        if len(output) - position < size:
            break
        if kind == _PIXELS:
            pixels = np.frombuffer(output, np.uint8, size, position)
            results.append(pixels.reshape(first, second))
        else:
            code = output[position : position + first].decode()
            message = output[position + first : position + size].decode()
            results.append(DecodeError(message, code=code))
        position += size
    return results


def _serve(decoder: str, seconds_per_image: float, source: BinaryIO, sink: BinaryIO) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever code it is in
    decode = load_decoder(decoder)
    sink.write(_READY)
    sink.flush()
    (num,) = _LENGTH.unpack(source.read(_LENGTH.size))
    for _ in range(num):
        (size,) = _LENGTH.unpack(source.read(_LENGTH.size))
        data = source.read(size)
        signal.setitimer(signal.ITIMER_REAL, seconds_per_image)
        try:
            image_HW = decode(data)
        except ImageError as error:
            code, message = error.code.encode(), error.message.encode()
            result = [_HEAD.pack(_ERROR, len(code), len(message)), code, message]
        else:
            result = [_HEAD.pack(_PIXELS, *image_HW.shape), image_HW.tobytes()]
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.writelines(result)
        sink.flush()


if __name__ == "__main__":
    # What a decoder prints must not get among the pixels.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        _serve(sys.argv[1], float(sys.argv[2]), sys.stdin.buffer, answers)
