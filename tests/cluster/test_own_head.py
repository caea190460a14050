"""A head of a command's own has no more processes than scoring needs, and leaves none behind."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.ray

HEAD = """
import sys, ray
from steel_batch.cluster.join import joined_cluster
with joined_cluster(None):
    session = ray._private.worker._global_node.session_name
    print(session, len(ray.nodes()), file=sys.__stdout__, flush=True)
    sys.stdin.read()
"""


def test_it_starts_no_server_of_a_dashboard_and_ends_with_its_command() -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert command.stdout is not None
        session, num_nodes = command.stdout.readline().split()
        assert num_nodes == "1"
        started = _commands_with(session)
    finally:
        command.kill()
        command.communicate()
    assert "raylet" in started
    assert "gcs_server" in started
    for absent in ("dashboard/dashboard.py", "dashboard/agent.py", "log_monitor.py", "autoscaler"):
        assert absent not in started
    give_up = time.monotonic() + 60
    while (left := _commands_with(session)) and time.monotonic() < give_up:
        time.sleep(0.2)
    assert left == ""


def _commands_with(name: str) -> str:
    return subprocess.run(
        ["pgrep", "-af", name], capture_output=True, text=True, check=False
    ).stdout
