"""A head of a command's own has no more processes than scoring needs, and leaves none behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

HEAD = """
import sys, ray
from steel_batch.cluster.join import joined_cluster
with joined_cluster(None, with_environments=False):
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
    for absent in (
        "dashboard/dashboard.py", "dashboard/agent.py", "runtime_env/agent", "log_monitor.py",
        "autoscaler",
    ):  # fmt: skip
        assert absent not in started
    give_up = time.monotonic() + 60
    while (left := _commands_with(session)) and time.monotonic() < give_up:
        time.sleep(0.2)
    assert left == ""


PORT = """
import sys
from pathlib import Path
from ray._private import node
from steel_batch.cluster.join import joined_cluster
wait = node.wait_for_persisted_port
def wait_for_port(folder, node_id, name, **how):
    print(name, Path(folder, f"{name}_{node_id}").exists(), file=sys.__stdout__)
    return wait(folder, node_id, name, **how)
node.wait_for_persisted_port = wait_for_port
with joined_cluster(None, with_environments=False):
    pass
"""


def test_ray_is_asked_for_the_port_of_the_head_once_it_is_there() -> None:
    """Else Ray waits for a tenth of a second with the interpreter's lock, and nothing is loaded."""
    done = subprocess.run([sys.executable, "-c", PORT], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["gcs_server_port True"], done.stderr


STARTED = """
import os, subprocess, sys, time
from pathlib import Path
import ray
from steel_batch.cluster.join import joined_cluster
from steel_batch.cluster.own_cluster import starts_early
before = starts_early()
with joined_cluster(None, with_environments=False):
    node = ray._private.worker._global_node
    logs = Path(node.get_session_dir_path(), "logs")
    give_up = time.monotonic() + 60
    while len(started := list(logs.glob("worker-*.out"))) < 3 and time.monotonic() < give_up:
        time.sleep(0.05)
    found = subprocess.run(
        ["pgrep", "-f", "raylet/raylet .*" + node.session_name], capture_output=True, text=True
    )
    given = Path(f"/proc/{found.stdout.split()[0]}/environ").read_bytes().decode().split(chr(0))
    here = [name for name in os.environ if name.startswith("RAY_enable")]
    ours = sorted(entry for entry in given if entry.startswith("RAY_raylet_client"))
    print(before, starts_early(), len(started), *ours, *here, file=sys.__stdout__)
"""


def test_the_raylet_starts_three_processes_and_soon_finds_its_own_store() -> None:
    """It would look for its store a second later if it looked too early, and often does."""
    wait = "RAY_raylet_client_connect_timeout_milliseconds"
    num = "RAY_raylet_client_num_connect_attempts"
    assert _printed(STARTED) == f"False True 3 {wait}=10 {num}=1000\n"
    assert _printed(STARTED, {wait: "50"}) == f"False True 3 {wait}=50\n", "as somebody chose"


TASK = """
import os, sys, ray
from steel_batch.cluster.join import joined_cluster
from steel_batch.cluster.own_cluster import starts_early
with joined_cluster(None, with_environments={with_environments}):
    task = ray.remote(**{options})(lambda: os.environ["GIVEN"])
    print(ray.get(task.remote()), starts_early(), file=sys.__stdout__)
"""


def test_tasks_get_the_environment_that_a_hook_gives(tmp_path: Path) -> None:
    (tmp_path / "hook_of_test.py").write_text(
        "def hook(environment):\n    return {'env_vars': {'GIVEN': 'by hook'}}\n"
    )
    places = os.pathsep.join([str(tmp_path), *sys.path])
    hook = {"PYTHONPATH": places, "RAY_RUNTIME_ENV_HOOK": "hook_of_test.hook"}
    task = TASK.format(with_environments=False, options={"num_cpus": 0})
    assert _printed(task, hook) == "by hook False\n"


def test_a_task_gets_the_environment_that_it_asks_for() -> None:
    options = {"runtime_env": {"env_vars": {"GIVEN": "to task"}}}
    assert _printed(TASK.format(with_environments=True, options=options)) == "to task False\n"


def _printed(program: str, variables: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True,
        timeout=120, env={**os.environ, **(variables or {})},
    ).stdout  # fmt: skip


def _commands_with(name: str) -> str:
    return subprocess.run(
        ["pgrep", "-af", name], capture_output=True, text=True, check=False
    ).stdout
