"""A Ray head on this machine, for one command, with only the processes that scoring needs.

`ray.init` starts more of them: the server of the dashboard and of jobs, which it waits for even
without a dashboard, the autoscaler and the monitor that copies logs to the driver. Together they
take more than a second of CPU before the first worker can start.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.state import GlobalState

POLL_SECONDS: Final = 0.02
WAIT_SECONDS: Final = 30.0
"""As long as Ray itself waits."""
STARTS_AT_ONCE: Final = 8
"""Fewest processes that start at the same time. A dataset needs six, of which the scoring actor and
the first read task take longest to load; with as many at once as there are CPUs, the read task's
starts last."""


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
            # Any free port: Ray waits 3.5 s for its usual one if another cluster here has it.
            dashboard_agent_listen_port=0,
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
