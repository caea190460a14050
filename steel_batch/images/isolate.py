"""Decodes in a child process, for images that crash or hang the process that decodes them.

The child gets one file at a time on its standard input and gives its pixels back on its standard
output. It has a limit of memory of its own. If it dies, the next child begins with the image that
was being decoded: an image that ends a process in which nothing came before it is the culprit,
every other one is decoded. So a culprit costs two children, however large the shard. The protocol
is lengths and raw bytes; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from steel_batch.config import LIMITS, Limits
from steel_batch.errors import ClusterError, DecodeError, ImageError
from steel_batch.images.decode import Image, load_decoder

START_SECONDS: Final = 60.0
"""Time for starting the interpreter and importing the decoder's module."""
SECONDS_PER_IMAGE: Final = 10.0
"""The largest accepted image takes about one."""
_STARTS: Final = 3
_RUN_MODULE: Final = (
    "import os, sys; nice = int(sys.argv.pop(2)); nice and os.nice(nice); "
    "sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_LENGTH: Final = struct.Struct("<q")
_HEAD: Final = struct.Struct("<cqq")
_READY: Final = b"R"
_PIXELS: Final = b"P"
_ERROR: Final = b"E"


def decode_isolated(
    contents: Iterable[bytes | memoryview],
    decoder: str,
    *,
    bits: int | None = None,
    limits: Limits = LIMITS,
    only_size: tuple[int, int] | None = None,
    seconds_per_image: float = SECONDS_PER_IMAGE,
) -> Generator[Image | ImageError]:
    """Decode files in a child process, one after the other, as they are requested.

    Args:
        contents: The files.
        decoder: The ``module:function`` that decodes one.
        bits: See `decode.load_decoder`, as of the next two.
        limits: The memory that one image may take is their `decoder_bytes`.
        only_size: Height and width of an engine that takes no other size.
        seconds_per_image: How long one image may take.

    Yields:
        Of each file its pixels, or what is wrong with it: the decoder's own error, or the code
        ``crashed_decoder`` for a file that killed a process of its own, ``hung_decoder`` for one
        that held it up, or ``too_large`` for one that took more memory than `limits` allow.

    Raises:
        ClusterError: No child process could be started; no image is to blame.
    """
    child: _Child | None = None
    settings = {"bits": bits, "limits": asdict(limits), "only_size": only_size}
    try:
        for data in contents:
            result = None
            while result is None:
                child = child or _Child(decoder, settings, seconds_per_image)
                result = child.decode(data)
                if result is None:
                    exit_code, is_culprit = child.end(), child.num_decoded == 0
                    child = None
                    if is_culprit:
                        result = _explain(exit_code, seconds_per_image)
            yield result
    finally:
        if child is not None:
            child.end()


def start_child(module: str, *arguments: str, niceness: int = 0, **how: Any) -> Any:
    """Start one of our modules in a child process with pipes and this process's import path.

    It imports nothing from the folder that it is started in. ``-P`` says that from Python 3.11 on.

    Args:
        module: The module, run as by ``python -m``.
        arguments: Its command-line arguments.
        niceness: How much lower its priority is than this process's.
        how: Further arguments of `subprocess.Popen`.

    Raises:
        ClusterError: The system cannot start a process.
    """
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-c", _RUN_MODULE, module, str(niceness), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
            **how,
        )
    except OSError as error:
        raise ClusterError(
            f"cannot start a child process of {module}: {error}. Check the node's memory and its "
            "limit of processes."
        ) from error


def _explain(exit_code: int | None, seconds_per_image: float) -> DecodeError:
    if exit_code in (None, -signal.SIGALRM):
        return DecodeError(
            f"decoding took more than {seconds_per_image:g} s in a child process of its own.",
            code="hung_decoder",
        )
    how = f"exit {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = signal.Signals(-exit_code).name
    return DecodeError(
        f"decoding crashed a child process of its own ({how}).",
        code="crashed_decoder",
    )


class _Child:
    """A child process that decodes one file after the other.

    Raises:
        ClusterError: No child could be started.
    """

    def __init__(self, decoder: str, settings: Mapping[str, Any], seconds_per_image: float) -> None:
        self.num_decoded = 0
        # The child's own alarm fires first, unless the decoder turned it off.
        self._seconds = seconds_per_image + 1
        for _ in range(_STARTS):
            self._is_late = self._has_ended = False
            self._process = start_child(
                "steel_batch.images.isolate",
                decoder,
                str(seconds_per_image),
                json.dumps(settings),
                stderr=subprocess.DEVNULL,
            )
            if self._answer(len(_READY), START_SECONDS):
                return
            exit_code = self.end()
        raise ClusterError(
            f"a child process with decoder {decoder!r} ended before its first image, {_STARTS} "
            f"times (exit {exit_code}). Check the node's memory and its limit of processes."
        )

    def decode(self, data: bytes | memoryview) -> Image | ImageError | None:
        """Return the pixels or the file's error; None if the child ended or must be ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            stdin.write(_LENGTH.pack(len(data)))
            stdin.write(data)
            stdin.flush()
        except BrokenPipeError:
            self._has_ended = True
            return None
        head = self._answer(_HEAD.size, self._seconds)
        if head is None:
            return None
        kind, first, second = _HEAD.unpack(head)
        size = first * second if kind == _PIXELS else first + second
        body = stdout.read(size)
        if len(body) < size:
            self._has_ended = True
            return None
        self.num_decoded += 1
        if kind == _PIXELS:
            return np.frombuffer(body, np.uint8).reshape(first, second)
        return DecodeError(body[first:].decode(), code=body[:first].decode())

    def end(self) -> int | None:
        """Stop the child if it still runs; return its exit code, None if it took too long."""
        if self._has_ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._seconds)
        self._process.kill()
        self._process.wait()
        # Not read to the end: processes forked by the decoder may still hold the other side.
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return None if self._is_late else self._process.returncode

    def _answer(self, size: int, seconds: float) -> bytes | None:
        """Read the head of an answer; None if the child ended or is late."""
        if not wait([self._process.stdout], seconds):
            self._is_late = True
            return None
        data: bytes = self._process.stdout.read(size)
        self._has_ended = len(data) < size
        return None if self._has_ended else data


def _serve(
    decoder: str,
    seconds_per_image: float,
    settings: Mapping[str, Any],
    source: BinaryIO,
    sink: BinaryIO,
) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever code it is in
    limits, only_size = Limits(**settings["limits"]), settings["only_size"]
    decode = load_decoder(
        decoder,
        bits=settings["bits"],
        limits=limits,
        only_size=None if only_size is None else tuple(only_size),
    )
    _limit_memory(limits.decoder_bytes)
    sink.write(_READY)
    sink.flush()
    while length := source.read(_LENGTH.size):
        data = source.read(*_LENGTH.unpack(length))
        signal.setitimer(signal.ITIMER_REAL, seconds_per_image)
        try:
            image_HW = decode(data)
            result = [_HEAD.pack(_PIXELS, *image_HW.shape), image_HW.tobytes()]
        except (ImageError, MemoryError) as caught:
            error = _too_large(limits) if isinstance(caught, MemoryError) else caught
            code, message = error.code.encode(), error.message.encode()
            result = [_HEAD.pack(_ERROR, len(code), len(message)), code, message]
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.writelines(result)
        sink.flush()
        del data, result


def _limit_memory(num_bytes: int) -> None:
    """Let this process have so much more memory than it has; a decoder that wants more fails."""
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force already
        num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = num_pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _too_large(limits: Limits) -> ImageError:
    return DecodeError(
        f"decoding it took more than {limits.decoder_bytes:,} bytes of memory in a process of its "
        "own (limit decoder-bytes).",
        code="too_large",
    )


if __name__ == "__main__":
    # Output that a decoder prints must not mix with the pixels.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        _serve(sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]), sys.stdin.buffer, answers)
