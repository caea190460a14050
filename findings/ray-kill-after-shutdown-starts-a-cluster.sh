#!/usr/bin/env bash
# Ray: ray.kill after ray.shutdown starts a new cluster on this machine, and leaves it running.
#
# Ray starts a cluster for a call without one, also for calls that only end something. A clean-up
# that kills its actors after a shutdown so starts a head with all of the machine's CPUs, is told
# that the actor is not known there, and where it suppresses RayError, as clean-ups do, nobody hears
# of it: seconds, and processes that stay until this one ends. RAY_ENABLE_AUTO_CONNECT=0 stops that,
# but only if it is set before Ray is imported: afterwards it is ignored.
#
# Seen on 2026-11-30 with ray 2.60.0, Python 3.11:
#   as installed               ActorHandleNotFoundError, a cluster afterwards: True
#   variable set after import  ActorHandleNotFoundError, a cluster afterwards: True
#   variable set before        RaySystemError, a cluster afterwards: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cat > "$folder/show.py" <<'PY'
import os
import subprocess
import sys

CODE = """
import os
import ray
if VARIABLE_LATE:
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
actor = ray.remote(num_cpus=0)(type("Counter", (), {})).remote()
ray.get(actor.__ray_ready__.remote())
ray.shutdown()
try:
    ray.kill(actor)
except ray.exceptions.RayError as error:
    print(f"{type(error).__name__}, a cluster afterwards: {ray.is_initialized()}")
"""
LOST = "ActorHandleNotFoundError, a cluster afterwards: True"
CASES = {
    "as installed": (False, {}, LOST),
    "variable set after import": (True, {}, LOST),
    "variable set before": (
        False,
        {"RAY_ENABLE_AUTO_CONNECT": "0"},
        "RaySystemError, a cluster afterwards: False",
    ),
}
is_as_described = True
for name, (is_late, variables, expected) in CASES.items():
    code = CODE.replace("VARIABLE_LATE", str(is_late))
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = said.stdout.strip()
    print(f"{name:26} {found}", flush=True)
    is_as_described &= found == expected
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
