#!/usr/bin/env bash
# Ray: while a process that starts a head waits for the head's port, none of its threads runs.
#
# The head writes its port to a file, and wait_for_persisted_port looks for the file ten times a
# second. It is a function in C++ that sleeps between two looks, and keeps the interpreter's lock
# while it does. So whatever a program has other threads do while Ray starts, such as loading
# modules, stands still until the port is there, and for up to a tenth of a second longer. A Python
# function that sleeps lets them run.
#
# Seen on 2026-11-30 with Ray 2.60.0, Python 3.11: a thread that counts every millisecond, beside a
# wait of one second for a port that nobody writes, and beside time.sleep(1); what it counted:
#   wait_for_persisted_port  at most 20
#   time.sleep               more than 300
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cat > "$folder/show.py" <<'PY'
import contextlib
import sys
import tempfile
import threading
import time

from ray._raylet import wait_for_persisted_port

NODE = "0" * 56
SECONDS = 1.0


def counted_beside(wait):
    stop, count = threading.Event(), 0

    def run():
        nonlocal count
        while not stop.is_set():
            time.sleep(0.001)
            count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait()
    finally:
        stop.set()
        thread.join()
    return count


def wait_for_port():
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
        wait_for_persisted_port(folder, NODE, "gcs_server_port", timeout_ms=int(SECONDS * 1000))


found = counted_beside(wait_for_port), counted_beside(lambda: time.sleep(SECONDS))
for name, count, expected in zip(
    ("wait_for_persisted_port", "time.sleep"), found, ("at most 20", "more than 300")
):
    print(f"{name:24} {count}, expected {expected}")
sys.exit(0 if found[0] <= 20 and found[1] > 300 else 1)
PY
"$folder/venv/bin/python" "$folder/show.py"
