"""A Ray head on this machine, for one command, with only the processes that scoring needs.

`ray.init` starts more of them: the server of the dashboard and of jobs, which it waits for even
without a dashboard, the autoscaler, the monitor that copies logs to the driver, and the dashboard's
agent, which serves metrics and logs. Together they take two seconds of CPU before the first worker
can start.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import node, services, utils, worker
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.state import GlobalState

from steel_batch.cluster.replaced import replaced

POLL_SECONDS: Final = 0.02
PORT_SECONDS: Final = 1.0
"""How long to look for the head's port before Ray does."""
WAIT_SECONDS: Final = 30.0
"""As long as Ray itself waits."""
STARTS_AT_ONCE: Final = 3
"""Processes that the raylet starts by itself, and the fewest that start at the same time: the
dispatcher, a scoring actor and a read task. With as many at once as there are CPUs, the read task's
starts last; with more, Ray starts others than those that it waits for."""

PRELOADED: Final = "RAY_preload_python_modules"
"""Names the modules that each process of a cluster loads when it starts."""
EARLY_GPU: Final = "steel_batch.cluster.early_gpu"
MOST_AT_ONCE: Final = "RAY_worker_maximum_startup_concurrency"
FIRST_DRIVER_WAITS: Final = "RAY_prestart_worker_first_driver"
"""Until a process for each CPU has loaded Python."""
STARTS_EARLY: Final = "RAY_enable_worker_prestart"
"""The raylet starts the first processes as soon as it runs, while the command loads Ray Data."""
CONNECTION: Final = {
    "RAY_raylet_client_connect_timeout_milliseconds": "10",
    "RAY_raylet_client_num_connect_attempts": "1000",
}
"""How often the raylet looks for the object store, which one of its own threads opens: once a
second, by default, and the first time often too early. As long in all as by default."""
NUM_EARLY: Final = "--num_prestart_python_workers="
DASHBOARD_AGENT: Final = "--dashboard_agent_command="
ENVIRONMENT_AGENT: Final = "--runtime_env_agent_command="
PORTS: Final = {
    DASHBOARD_AGENT: (
        ray._raylet.METRICS_AGENT_PORT_NAME,
        ray._raylet.METRICS_EXPORT_PORT_NAME,
        ray._raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    ),
    ENVIRONMENT_AGENT: (ray._raylet.RUNTIME_ENV_AGENT_PORT_NAME,),
}
"""The ports that an agent of the raylet states, by the raylet's flag for it."""
STAND_IN: Final = (sys.executable, "-IS", "-c", "import sys; sys.stdin.read()")
"""Ray gives an agent a pipe that ends with the raylet."""


_starting: Final = threading.Lock()
"""Held by the thread that starts a head, whose settings are variables of the whole process."""


@dataclass(frozen=True, slots=True)
class OwnHead:
    """A head that runs."""

    address: str
    """To be joined with `ray.init`."""
    starts_early: bool
    """Whether its raylet starts the first processes by itself."""


@contextlib.contextmanager
def own_head(*, with_environments: bool) -> Iterator[OwnHead]:
    """Start a head for a `with` block; it ends with this process, too.

    Args:
        with_environments: Whether tasks may ask for runtime environments: an agent makes them. It
            is started as well if this process has one itself, which all of its tasks get.
    """
    has_environments = with_environments or _has_environment()
    settings = {
        MOST_AT_ONCE: str(max(STARTS_AT_ONCE, os.cpu_count() or 1)),
        FIRST_DRIVER_WAITS: "0",
        # A process that is started without an environment would be of no use.
        STARTS_EARLY: "0" if has_environments else "1",
    }
    if os.environ.keys().isdisjoint(CONNECTION):
        settings |= CONNECTION
    if not with_environments:  # else a network is trained, by processes that open their GPU
        settings[PRELOADED] = EARLY_GPU
    with contextlib.ExitStack() as running:
        with _starting, _set(settings):
            is_set = os.environ.get(STARTS_EARLY, "").lower() in ("1", "true")
            head = (_HeadWithEnvironments if has_environments else _Head)(
                RayParams(
                    no_monitor=True,
                    include_log_monitor=False,
                    include_dashboard=False,
                ),
                head=True,
                shutdown_at_exit=False,
                spawn_reaper=True,
                ray_init_cluster=True,
            )
            running.callback(head.kill_all_processes, check_alive=False, allow_graceful=True)
        yield OwnHead(str(head.address), starts_early=is_set and not has_environments)


@contextlib.contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables that nobody has set, for the processes that start in a `with` block."""
    ours = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _has_environment() -> bool:
    """Whether Ray gives this process a runtime environment: for `uv run`, a hook, or a job."""
    is_job = RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ
    return is_job or bool(worker._maybe_modify_runtime_env(None, False))


class _Head(Node):  # type: ignore[misc]
    """A head without the server of the dashboard and of jobs, that is there once it answers."""

    absent_agents: Sequence[str] = (DASHBOARD_AGENT, ENVIRONMENT_AGENT)

    def start_api_server(self, **_: object) -> None:
        """Start none."""

    def start_gcs_server(self) -> None:
        """Start it, and look for its port more often than Ray does, without the interpreter's lock.

        Ray looks ten times a second, and the thread that loads Ray Data cannot run meanwhile.
        """
        wait = node.wait_for_persisted_port

        def wait_for_port(folder: str, node_id: str, name: str, **how: Any) -> Any:
            give_up = time.monotonic() + PORT_SECONDS
            while not Path(folder, f"{name}_{node_id}").exists() and time.monotonic() < give_up:
                time.sleep(POLL_SECONDS)
            return wait(folder, node_id, name, **how)

        with replaced(node, "wait_for_persisted_port", wait_for_port):
            super().start_gcs_server()

    def start_raylet(self, *args: Any, **kwargs: Any) -> None:
        """Start it without the agents that nobody needs, and with few processes.

        The raylet cannot do without a process in the place of each, and ends if that one does: a
        process that waits for the raylet's end. Ports of -1 state that the agent serves nothing, as
        in an installation without the dashboard.
        """
        absent = self.absent_agents
        for name in itertools.chain(*(PORTS[flag] for flag in absent)):
            ray._raylet.persist_port(self.get_session_dir_path(), self.node_id, name, -1)
        stand_in = subprocess.list2cmdline([*STAND_IN, self.session_name])
        start = services.start_ray_process

        def start_process(command: Sequence[str], *args: Any, **kwargs: Any) -> Any:
            values = {**dict.fromkeys(absent, stand_in), NUM_EARLY: str(STARTS_AT_ONCE)}
            words = [
                next((f"{flag}{values[flag]}" for flag in values if word.startswith(flag)), word)
                for word in command
            ]
            return start(words, *args, **kwargs)

        with (
            replaced(services, "start_ray_process", start_process),
            # Else Ray loads what the dashboard needs, to find out whether it is installed.
            replaced(utils, "get_dashboard_dependency_error", lambda: ImportError("not needed")),
        ):
            super().start_raylet(*args, **kwargs)

    def start_ray_processes(self) -> None:
        """Start them, and wait until the head knows this node: Ray looks for that once a second.

        Raises:
            RuntimeError: One of them ended, for which Ray would wait half a minute.
        """
        super().start_ray_processes()
        state = GlobalState()
        state._initialize_global_state(
            ray._raylet.GcsClientOptions.create(
                self.gcs_address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
            )
        )
        give_up = time.monotonic() + WAIT_SECONDS
        while not state.node_table() and time.monotonic() < give_up:
            if not self.remaining_processes_alive():
                self.kill_all_processes(check_alive=False)
                raise RuntimeError("One of its processes ended as soon as it was started.")
            time.sleep(POLL_SECONDS)
        state.disconnect()


class _HeadWithEnvironments(_Head):
    """One that can make runtime environments."""

    absent_agents = (DASHBOARD_AGENT,)
