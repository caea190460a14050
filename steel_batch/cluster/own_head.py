"""A Ray head on this machine, for one command, with only the processes that scoring needs.

`ray.init` starts more of them: the server of the dashboard and of jobs, which it waits for even
without a dashboard, the autoscaler and the monitor that copies logs to the driver. Together they
take more than a second of CPU before the first worker can start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray._private.node import Node
from ray._private.parameter import RayParams


@contextlib.contextmanager
def own_head() -> Iterator[str]:
    """Start a head for a `with` block; it ends with this process, too.

    Yields:
        Its address, to be joined with `ray.init`.
    """
    head = _Head(
        RayParams(no_monitor=True, include_log_monitor=False, include_dashboard=False),
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
    """A head without the server of the dashboard and of jobs."""

    def start_api_server(self, **_: object) -> None:
        """Start none."""
