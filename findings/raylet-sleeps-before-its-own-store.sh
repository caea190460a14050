#!/usr/bin/env bash
# Ray: the raylet often sleeps a second at its start, as it looks for its own store too early.
#
# A thread of the raylet opens the object store, half a millisecond before the raylet connects to
# it. If the store's socket is not there yet, the raylet sleeps and tries again, and nothing can
# join the node meanwhile. How long it sleeps is the setting of another connection, that of drivers
# and workers to the raylet: raylet_client_connect_timeout_milliseconds, which is 1,000.
#
# Seen on 2026-11-30 with Ray 2.60.0, Python 3.11, on two cores: seconds between the raylet's lines
# about its store and about its object manager, in twelve starts of a head:
#   as installed                                         1.00 in five of them, else 0.01 at most
#   RAY_raylet_client_connect_timeout_milliseconds=10    0.01 at most
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cat > "$folder/show.py" <<'PY'
import datetime
import os
import re
import sys
from pathlib import Path

import ray
from ray._private.node import Node
from ray._private.parameter import RayParams

NUM_STARTS, LATE = 12, 0.9
LINE = re.compile(r"^\[(\S+ \S+) \w .*?\] \(raylet\) (store_runner|grpc_server)\.cc")


def seconds_of_start():
    head = Node(
        RayParams(include_dashboard=False, num_cpus=1), head=True, shutdown_at_exit=False
    )
    try:
        log = Path(head.get_session_dir_path(), "logs", "raylet.out").read_text()
    finally:
        head.kill_all_processes(check_alive=False)
    at = {}
    for found in map(LINE.match, log.splitlines()):
        if found:
            at.setdefault(found[2], datetime.datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f"))
    return (at["grpc_server"] - at["store_runner"]).total_seconds()


def num_late():
    times = [seconds_of_start() for _ in range(NUM_STARTS)]
    print(" ".join(f"{seconds:.2f}" for seconds in times))
    return sum(seconds > LATE for seconds in times)


os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
usual = num_late()
os.environ["RAY_raylet_client_connect_timeout_milliseconds"] = "10"
os.environ["RAY_raylet_client_num_connect_attempts"] = "1000"
short = num_late()
print(f"starts with a second of sleep: {usual} as installed, {short} with 10 ms")
sys.exit(0 if usual and not short else 1)
PY
"$folder/venv/bin/python" "$folder/show.py"
