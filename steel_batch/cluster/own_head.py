"""A Ray head on this machine, for one command, with only the processes that scoring needs.

`ray.init` starts more of them: the server of the dashboard and of jobs, which it waits for even
without a dashboard, the autoscaler, the monitor that copies logs to the driver, and the dashboard's
agent, which serves metrics and logs. Together they take two seconds of CPU before the first worker
can start.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import ray
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.state import GlobalState

POLL_SECONDS: Final = 0.02
WAIT_SECONDS: Final = 30.0
"""As long as Ray itself waits."""
STARTS_AT_ONCE: Final = 8
"""Fewest processes that start at the same time. A dataset needs three, of which the scoring actor
and the first read task take longest to load; with as many at once as there are CPUs, the read
task's starts last."""

AGENT: Final = "--dashboard_agent_command="
AGENT_PORTS: Final = (
    ray._raylet.METRICS_AGENT_PORT_NAME,
    ray._raylet.METRICS_EXPORT_PORT_NAME,
    ray._raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
)
STAND_IN: Final = (sys.executable, "-IS", "-c", "import sys; sys.stdin.read()")
"""Ray gives an agent a pipe that ends with the raylet."""


@contextlib.contextmanager
def own_head() -> Iterator[str]:
    """Start a head for a `with` block; it ends with this process, too.

    Yields:
        Its address, to be joined with `ray.init`.
    """
    # Or joining would wait until a process for each CPU has loaded Python; they start when needed.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    at_once = max(STARTS_AT_ONCE, os.cpu_count() or 1)
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(at_once))
    head = _Head(
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
    try:
        yield str(head.address)
    finally:
        head.kill_all_processes(check_alive=False, allow_graceful=True)


class _Head(Node):  # type: ignore[misc]
    """A head without the server of the dashboard and of jobs, that is there once it answers."""

    def start_api_server(self, **_: object) -> None:
        """Start none."""

    def start_raylet(self, *args: Any, **kwargs: Any) -> None:
        """Start it without the dashboard's agent.

        The raylet cannot do without a process in its place, and ends if that one does: a process
        that waits for the raylet's end. Ports of -1 state that the agent serves nothing, as in an
        installation without the dashboard.
        """
        for name in AGENT_PORTS:
            ray._raylet.persist_port(self.get_session_dir_path(), self.node_id, name, -1)
        stand_in = subprocess.list2cmdline([*STAND_IN, self.session_name])
        start = services.start_ray_process

        def start_process(command: Sequence[str], *args: Any, **kwargs: Any) -> Any:
            words = [f"{AGENT}{stand_in}" if word.startswith(AGENT) else word for word in command]
            return start(words, *args, **kwargs)

        services.start_ray_process = start_process
        try:
            super().start_raylet(*args, **kwargs)
        finally:
            services.start_ray_process = start

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
