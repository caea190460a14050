#!/usr/bin/env bash
# Ray: joining a node waits for the processes that its raylet started by itself.
#
# Two settings start workers before any task asks for them: prestart_worker_first_driver when the
# first driver joins, enable_worker_prestart when the raylet starts. The first one makes ray.init
# wait until a process for each CPU has loaded Python and Ray, and without it ray.init returns at
# once. With enable_worker_prestart it waits for them again, also with prestart_worker_first_driver
# off, although nothing of the driver needs them yet.
#
# Seen on 2026-11-30 with Ray 2.60.0, Python 3.11, on two cores, a head of eight CPUs; seconds from
# ray.init until it returns, and processes that have registered by then:
#   prestart_worker_first_driver (default)    1.52 to 1.60, 8
#   neither                                   0.02, 0
#   enable_worker_prestart alone              1.08 to 1.14, 8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cat > "$folder/show.py" <<'PY'
import os
import sys
import time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_maximum_startup_concurrency"] = "8"  # as if there were as many cores
os.environ["RAY_raylet_client_connect_timeout_milliseconds"] = "10"  # or a raylet may sleep first
os.environ["RAY_raylet_client_num_connect_attempts"] = "1000"

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

NUM_CPUS = 8


def joined(first_driver, at_start):
    os.environ["RAY_prestart_worker_first_driver"] = first_driver
    os.environ["RAY_enable_worker_prestart"] = at_start
    head = Node(
        RayParams(include_dashboard=False, num_cpus=NUM_CPUS), head=True, shutdown_at_exit=False
    )
    try:
        began = time.monotonic()
        ray.init(head.address, log_to_driver=False, logging_level="ERROR")
        seconds = time.monotonic() - began
        logs = Path(head.get_session_dir_path(), "logs")
        return seconds, len(list(logs.glob("worker-*.out")))
    finally:
        ray.shutdown()
        head.kill_all_processes(check_alive=False)


found = [joined("1", "0"), joined("0", "0"), joined("0", "1")]
for name, (seconds, num) in zip(
    ("prestart_worker_first_driver", "neither", "enable_worker_prestart alone"), found
):
    print(f"{name:30} {seconds:.2f} s, {num} processes")
(usual, _), (without, num_without), (at_start, num_at_start) = found
is_so = num_without < NUM_CPUS <= num_at_start and at_start > 2 * without < usual
sys.exit(0 if is_so else 1)
PY
"$folder/venv/bin/python" "$folder/show.py"
