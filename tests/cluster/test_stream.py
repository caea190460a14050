"""A stream ends whatever became of Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

SHUT_DOWN = """
import threading
from types import SimpleNamespace
import ray
from steel_batch.cluster.join import joined_cluster
from steel_batch.cluster.pool import ActorPool
from steel_batch.cluster.stream import ShardStream
pool = ActorPool(num_actors=1, num_cpus=0.5, num_gpus=0.0, num_threads=1, num_slots=1)
setup = SimpleNamespace()  # for actors, of which none starts here
seen = threading.Event()  # with a call in flight, Ray may end the process when it is shut down
with joined_cluster(None):
    observe = lambda status: status.is_over and seen.set()
    with ShardStream(setup, pool, num_works=1, num_parts=1, observe=observe):
        seen.wait()
        ray.shutdown()
    has_cluster = ray.is_initialized()
print("a cluster" if has_cluster else "no cluster")
"""


def test_leaving_a_stream_after_a_shutdown_starts_no_cluster() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHUT_DOWN], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("no cluster\n", 0), done.stderr
    assert "Traceback" not in done.stderr
