"""Forks the workers of a raylet for one job: ``python -m tests.worker_forks PID_OF_THE_RAYLET``.

It has imported what workers import, and has no thread that a fork would lose: with
``OMP_NUM_THREADS=1``, OpenBLAS starts none, and ONNX Runtime, which starts one as soon as it is
imported, is loaded by the workers that use it. What a run did in a worker is not left for the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forked_worker import server_address

MODULES = (
    "argparse",
    "pydantic.types",
    "pydantic.v1",
    "ray.util.state",
    "steel_batch.cluster.check_machine",
    "steel_batch.cluster.merging",
    "steel_batch.cluster.read_stage",
    "steel_batch.cluster.score_stage",
    "steel_batch.cluster.stream",
)
"""What workers import, by public names: the last one imports Ray Data."""
WORKER = "ray._private.workers.default_worker"
"""The file that Ray starts where it is given none."""
IDLE_SECONDS = 10.0
BACKLOG = 256
MOST_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Child:
    """A worker, and who waits for its end."""

    pid: int
    client: socket.socket


def main() -> None:
    """Fork a worker for each connection, until the raylet ends or there is none for a while."""
    raylet = int(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as listening, selectors.DefaultSelector() as ready:
        try:
            listening.bind(server_address(raylet))
        except OSError:  # another one was started at the same time
            return
        listening.listen(BACKLOG)
        ready.register(os.pidfd_open(raylet), selectors.EVENT_READ)
        ready.register(listening, selectors.EVENT_READ)
        import_all()
        while True:
            events = ready.select(IDLE_SECONDS)
            if not events and len(ready.get_map()) == len(("the raylet", "connections")):
                return
            for key, _ in events:
                if key.fileobj is listening:
                    client, _ = listening.accept()
                    pid = fork(client, ready)
                    ready.register(os.pidfd_open(pid), selectors.EVENT_READ, Child(pid, client))
                elif key.data is None:
                    return
                else:
                    ready.unregister(key.fileobj)
                    os.close(key.fd)
                    bury(key.data)


class ClassIds:
    """Draws IDs of actors' classes, as Ray does wherever an import defines one.

    From Ray's own random numbers, all workers would draw the same IDs afterwards.
    """

    @staticmethod
    def from_random() -> Any:
        """A new ID."""
        from ray import ActorClassID

        return ActorClassID(os.urandom(ActorClassID.size()))


class UsedLater(types.ModuleType):
    """A module that is imported by its first use."""

    def __getattr__(self, name: str) -> Any:
        """What is in it."""
        del sys.modules[self.__name__]
        vars(self).update(vars(importlib.import_module(self.__name__)))
        return vars(self)[name]


def import_all() -> None:
    """Import what workers import: not before this process is the one that does."""
    import ray.actor

    sys.modules["onnxruntime"] = UsedLater("onnxruntime")
    drawing, ray.actor.ActorClassID = ray.actor.ActorClassID, ClassIds
    for module in MODULES:
        importlib.import_module(module)
    ray.actor.ActorClassID = drawing
    gc.freeze()  # or collections would copy the pages that workers share


def bury(child: Child) -> None:
    """Tell who waits how a worker ended."""
    _, status = os.waitpid(child.pid, 0)
    with child.client, contextlib.suppress(OSError):
        child.client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def fork(client: socket.socket, ready: selectors.BaseSelector) -> int:
    """Start a worker as a connection asks; in its process, this does not return."""
    data, descriptors, _, _ = socket.recv_fds(client, MOST_BYTES, 4)
    while data and not data.endswith(b"\n"):
        data += client.recv(MOST_BYTES)
    if pid := os.fork():
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    try:
        os.setsid()  # once a worker has ended, the raylet kills its group
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for key in list(ready.get_map().values()):
            os.close(key.fd)
            if key.data is not None:
                key.data.client.close()
        ready.close()
        client.close()
        *output, folder = descriptors
        for target, descriptor in enumerate(output):
            os.dup2(descriptor, target)
        os.fchdir(folder)
        for descriptor in descriptors:
            os.close(descriptor)
        work(**json.loads(data))
    except Exception:  # noqa: BLE001 - it is shown where Ray's worker would show it
        traceback.print_exc()
    finally:
        os._exit(1)


def work(arguments: list[str], environment: dict[str, str]) -> None:
    """Be the worker that Ray asked for."""
    import numpy as np

    found = importlib.util.find_spec(WORKER)
    assert found is not None
    worker = Path(str(found.origin))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(worker), *arguments]
    sys.path[0] = str(worker.parent)
    np.random.seed()  # noqa: NPY002 - the state that all of them share
    runpy.run_path(str(worker), run_name="__main__")


if __name__ == "__main__":
    main()
