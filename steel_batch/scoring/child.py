"""One of our modules in a process of its own, which answers one request at a time.

An actor on a GPU makes many small calls to its device, and each waits for the interpreter's lock if
other threads hold it. So there, what needs no GPU is done in child processes. Requests and answers
are a length and so many bytes, on pipes; nothing is unpickled. A child imports no more than its
work needs, and starts with what is in this process's environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from steel_batch.errors import ClusterError
from steel_batch.scoring.memory import keep_freed_memory

PIPE_BYTES: Final = 1 << 20
"""Room in a pipe, so that a usual answer is read in one call: each waits for the lock once more."""
NICENESS: Final = 4
"""How much lower its priority is than the actor's, whose threads keep the GPU busy: Ray's workers
have niceness 15, and 19 is the most."""
END_SECONDS: Final = 5.0
"""Time for a child that answers no more to end, so that its exit code is its own."""
_LENGTH: Final = struct.Struct("<q")
_STARTS: Final = 2


class Child:
    """A child process, replaced if it ends. Used by one thread at a time.

    It ends when this process closes it or ends, whatever it is doing.

    Args:
        module: The module; run as a program, it calls `serve`.
        arguments: Its command-line arguments, which all users of the machine can see.
        work: What it does, for messages.
        pass_fds: File descriptors that it inherits.

    Raises:
        ClusterError: It cannot be started.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], *, work: str, pass_fds: Sequence[int] = ()
    ) -> None:
        self._module, self._arguments, self._work = module, arguments, work
        self._pass_fds = pass_fds
        self._process: Any = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Its process; None once it is closed."""
        return None if self._process is None else int(self._process.pid)

    def ask(self, *parts: Any) -> bytes:
        """Send a request and wait for its answer; if the child ends, another one is asked again.

        Args:
            parts: The request, in pieces that are sent as one: bytes or buffers.

        Raises:
            ClusterError: The process ended, and so did its replacement, or none can be started.
        """
        request = b"".join([_LENGTH.pack(sum(map(len, parts))), *parts])
        for _ in range(_STARTS):
            if self._process is None:
                self._start()
            answer = self._ask(request)
            if answer is not None:
                return answer
            end = self._stop(END_SECONDS)
        raise ClusterError(
            f"the process that {self._work} ended {_STARTS} times (exit {end}). Check the node's "
            "memory, its limit of processes, and the logs of Ray's workers."
        )

    def close(self) -> None:
        """End the process; idempotent."""
        self._stop()

    def _start(self) -> None:
        from steel_batch.images.isolate import start_child  # a child needs no OpenCV for `serve`

        self._process = start_child(
            self._module, *self._arguments, niceness=NICENESS, pass_fds=self._pass_fds
        )
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # more than this user may have
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def _ask(self, request: bytes) -> bytes | None:
        """Send a request and return the answer; None if the child is gone."""
        process = self._process
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        head = process.stdout.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        answer: bytes = process.stdout.read(length)
        return answer if len(answer) == length else None

    def _stop(self, seconds: float = 0.0) -> int | None:
        """End the child, if it does not end in so many seconds, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()  # what it had begun is done again
        process.communicate()
        return int(process.returncode)


def serve(answer: Callable[[bytes], Any]) -> None:
    """Answer requests on standard input until it is closed; in the child.

    Args:
        answer: Gets a request and returns the answer, bytes or a buffer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the actor ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    source = sys.stdin.buffer
    # What a library prints must not mix with the answers.
    with os.fdopen(os.dup(1), "wb") as sink:
        os.dup2(2, 1)
        sys.meta_path.insert(0, _NoPandas)
        pa.array(np.zeros(1))  # looks for pandas now
        while head := source.read(_LENGTH.size):
            body = answer(source.read(*_LENGTH.unpack(head)))
            sink.write(_LENGTH.pack(len(body)))
            sink.write(body)
            sink.flush()


class _NoPandas:
    """Finds no pandas, which PyArrow loads for its first array: 0.2 s of CPU in each child."""

    @staticmethod
    def find_spec(name: str, path: object, target: object = None) -> None:  # noqa: ARG004
        """See `importlib.abc.MetaPathFinder`."""
        if name == "pandas":
            raise ModuleNotFoundError("a child process needs no pandas", name=name)


def _end_with_parent() -> None:
    """End this process once nobody can write to its standard input, even during a request."""
    hangup = select.poll()
    hangup.register(sys.stdin.fileno(), 0)
    hangup.poll()
    os._exit(0)
