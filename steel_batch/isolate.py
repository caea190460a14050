"""Decoding in child processes, for images that kill the process that decodes them.

A child gets a batch of files on its standard input and gives pixels back on its standard output.
If it dies, the batch is cut in two, down to the image that kills: that one is an error, every other
one is decoded. The protocol is lengths and raw bytes; nothing is unpickled.
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
from steel_batch.errors import DecodeError, ImageError

START_SECONDS: Final = 30.0
SECONDS_PER_IMAGE: Final = 10.0
_LENGTH: Final = struct.Struct("<q")
_PIXELS: Final = b"P"
_ERROR: Final = b"E"


def decode_isolated(contents: Sequence[bytes], decoder: str) -> list[Image | ImageError]:
    """Decode files where a crash cannot hurt.

    Args:
        contents: The files.
        decoder: The ``module:function`` that decodes one.

    Returns:
        Per file its pixels, or what is wrong with it: the decoder's own error, or the code
        ``crashed_decoder`` for a file that killed a process of its own.
    """
    if not contents:
        return []
    try:
        return _decode_in_child(contents, decoder)
    except _ChildDiedError as died:
        if len(contents) == 1:
            return [
                DecodeError(
                    f"decoding it {died} a process that had nothing else to do.",
                    code="crashed_decoder",
                )
            ]
    middle = len(contents) // 2
    first = decode_isolated(contents[:middle], decoder)
    return first + decode_isolated(contents[middle:], decoder)


class _ChildDiedError(Exception):
    """How a child ended."""


def _decode_in_child(contents: Sequence[bytes], decoder: str) -> list[Image | ImageError]:
    message = b"".join([_LENGTH.pack(len(contents)), *(_LENGTH.pack(len(c)) + c for c in contents)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "steel_batch.isolate", decoder],
            input=message,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=START_SECONDS + SECONDS_PER_IMAGE * len(contents),
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _ChildDiedError("took too long for") from error
    if done.returncode < 0:
        raise _ChildDiedError(f"killed ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        raise _ChildDiedError(f"ended (exit {done.returncode})")
    return _parse(done.stdout, len(contents))


def _parse(data: bytes, num: int) -> list[Image | ImageError]:
    results: list[Image | ImageError] = []
    position = 0
    for _ in range(num):
        kind = data[position : position + 1]
        first, second = struct.unpack_from("<qq", data, position + 1)
        position += 17
        if kind == _PIXELS:
            pixels = np.frombuffer(data, np.uint8, first * second, position)
            results.append(pixels.reshape(first, second))
            position += first * second
        else:
            code = data[position : position + first].decode()
            message = data[position + first : position + first + second].decode()
            results.append(DecodeError(message, code=code))
            position += first + second
    return results


def _serve(decoder: str, source: BinaryIO, sink: BinaryIO) -> None:
    decode = load_decoder(decoder)
    (num,) = _LENGTH.unpack(source.read(_LENGTH.size))
    for _ in range(num):
        (size,) = _LENGTH.unpack(source.read(_LENGTH.size))
        try:
            image_HW = decode(source.read(size))
        except ImageError as error:
            code, message = error.code.encode(), error.message.encode()
            sink.write(_ERROR + struct.pack("<qq", len(code), len(message)) + code + message)
        else:
            sink.write(_PIXELS + struct.pack("<qq", *image_HW.shape))
            sink.write(np.ascontiguousarray(image_HW).tobytes())
    sink.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
