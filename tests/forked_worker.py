"""Stands in for a Ray worker, which is forked from a process that has imported what it needs.

A worker that starts by itself spends one to two seconds of CPU on imports, and most runs have two
or three. Ray runs this file in place of its `default_worker.py`. The first one of a raylet and job
starts that process, `tests.worker_forks`, in its own environment: Ray's native code reads that when
it is imported, and the job is part of it. This file imports only what is quick to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

WORKER_PATH = __file__
"""For `RayParams`."""
WAIT_SECONDS = 60.0


def server_address(raylet: int) -> str:
    """The abstract socket of the process that forks a raylet's workers for this process's job."""
    return f"\0steel-batch-workers-{raylet}-{os.environ.get('RAY_JOB_ID')}"


def main() -> None:
    """Have a worker forked with this process's arguments, environment, output and folder."""
    raylet = os.getppid()
    words = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
    folder = os.open(".", os.O_RDONLY)
    for _ in range(2):  # the other side may just be ending
        with contextlib.suppress(OSError), connection(raylet) as server:
            socket.send_fds(server, [json.dumps(words).encode() + b"\n"], [0, 1, 2, folder])
            if told := server.makefile().readline():
                end(int(told))
    raise SystemExit("no process forks workers here")


def connection(raylet: int) -> socket.socket:
    """A connection to that process, which is started if there is none."""
    server = socket.socket(socket.AF_UNIX)
    give_up = time.monotonic() + WAIT_SECONDS
    is_started = False
    while True:
        try:
            server.connect(server_address(raylet))
        except ConnectionRefusedError:
            if time.monotonic() > give_up or os.getppid() != raylet:
                raise
        else:
            return server
        if not is_started:  # of several that are started at once, one gets the address
            start_server(raylet)
            is_started = True
        time.sleep(0.01)


def start_server(raylet: int) -> None:
    """Start that process."""
    from pathlib import Path

    subprocess.Popen(
        [sys.executable, "-m", "tests.worker_forks", str(raylet)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def end(status: int) -> None:
    """End as the worker did: with its exit code, or by a signal, which is negative."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
