#!/usr/bin/env bash
# Ray: after `import ray.data`, all processes that are forked draw the same IDs.
#
# Ray's IDs (NodeID.from_random and those of workers, actors' classes and placement groups) come from
# a generator that is seeded at the first draw. `import ray` draws none, so each fork seeds its own.
# `import ray.data` draws some, as it decorates classes with @ray.remote: from then on every child of
# os.fork, or of a multiprocessing pool that forks, has the parent's generator and draws the IDs that
# its siblings draw. Nothing warns; a class of one's own under @ray.remote does the same.
#
# Seen on 2026-11-30 with ray 2.60.0, PyArrow 26.0.1, Python 3.11; the first ID of each of 3 children:
#   import ray        3 different IDs of 3
#   import ray.data   1 different IDs of 3
#   a remote class    1 different IDs of 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.60.0' numpy==2.4.4 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import subprocess
import sys

CHILDREN = """
import os
from ray import NodeID

for _ in range(3):
    if os.fork() == 0:
        os.write(1, NodeID.from_random().hex().encode() + b"\\n")
        os._exit(0)
    os.wait()
"""
STEPS = {
    "import ray": ("import ray", 3),
    "import ray.data": ("import ray.data", 1),
    "a remote class": ("import ray\n@ray.remote\nclass Counter:\n    pass", 1),
}
is_as_described = True
for name, (step, expected) in STEPS.items():
    code = f"{step}\n{CHILDREN}"
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    ids = said.stdout.split()
    print(f"{name:17} {len(set(ids))} different IDs of {len(ids)}")
    is_as_described &= (len(ids), len(set(ids))) == (3, expected)
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py"
