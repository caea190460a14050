"""A process that Ray gives a GPU opens it before it loads what scores; others do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from steel_batch.cluster.own_head import EARLY_GPU

pytestmark = pytest.mark.ray

ACTORS = """
import json, os, sys, time
import ray

class Actor:
    def seen(self):
        give_up = time.monotonic() + (20 if os.environ.get("CUDA_VISIBLE_DEVICES") else 1)
        while "steel_batch.engine.gpu" not in sys.modules and time.monotonic() < give_up:
            time.sleep(0.05)
        return os.environ.get("CUDA_VISIBLE_DEVICES"), "steel_batch.engine.gpu" in sys.modules

ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
actors = [ray.remote(num_gpus=num, num_cpus=0)(Actor).remote() for num in (1, 0)]
print(json.dumps([ray.get(actor.seen.remote()) for actor in actors]))
"""


def test_only_processes_that_get_a_gpu_open_one() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    environment |= {
        "RAY_preload_python_modules": EARLY_GPU,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", ACTORS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (device, is_opened), without = json.loads(done.stdout.splitlines()[-1])
    assert device in ("0", "1")
    assert is_opened
    assert without == [None, False]


def test_a_head_of_a_command_has_its_processes_load_it() -> None:
    script = (
        "import sys, ray\n"
        "from steel_batch.cluster.join import joined_cluster\n"
        "with joined_cluster(None, with_environments=False):\n"
        f"    task = ray.remote(lambda: {EARLY_GPU!r} in sys.modules)\n"
        "    print(ray.get(task.remote()), file=sys.__stdout__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
