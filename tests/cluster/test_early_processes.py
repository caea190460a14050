"""Processes of Ray that start while the command loads Ray Data."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

ACTOR = """
import os, sys, time
from pathlib import Path
import ray
from steel_batch.cluster.early_processes import start_processes
from steel_batch.cluster.join import joined_cluster

class Actor:
    def pid(self):
        return os.getpid()

with joined_cluster(None):
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")

    def started():
        return {int(log.stem.split("-")[-1]) for log in logs.glob("worker-*.out")}

    def is_idle(pid):
        return b"ray::IDLE" in Path(f"/proc/{pid}/cmdline").read_bytes()

    before = started()
    start_processes()
    give_up = time.monotonic() + 60
    while not any(map(is_idle, early := started())) and time.monotonic() < give_up:
        time.sleep(0.1)
    pid = ray.get(ray.remote(num_cpus=0)(Actor).remote().pid.remote())
    print(before, pid in early, file=sys.__stdout__, flush=True)
"""


def test_an_actor_is_given_a_process_that_was_started_ahead() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ACTOR], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "set() True\n"
