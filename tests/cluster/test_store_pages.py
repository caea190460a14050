"""Pages of Ray's object store that others have filled are mapped before they are written to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from steel_batch.cluster.store_pages import StorePages

pytestmark = pytest.mark.ray

ACTORS = """
import json, resource
import numpy as np
import ray
from steel_batch.cluster.store_pages import StorePages

class Actor:
    def put(self, num_mib):
        content = np.ones(num_mib << 20, np.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self.kept = ray.put(content)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def free(self):
        del self.kept

    def map_filled(self):
        pages = StorePages()
        pages.map_filled()
        return pages.num_bytes

ray.init(num_cpus=3, object_store_memory=300 << 20, include_dashboard=False, log_to_driver=False)
filling, mapping, other = (ray.remote(num_cpus=1)(Actor).remote() for _ in range(3))
ray.get(filling.put.remote(256))
ray.get([mapping.put.remote(1), other.put.remote(1)])
num_bytes = ray.get(mapping.map_filled.remote())
ray.get(filling.free.remote())
faults = []
for actor in (mapping, other):
    faults.append(ray.get(actor.put.remote(200)))  # where the first object was, as no more fits
    ray.get(actor.free.remote())
print(json.dumps([num_bytes, *faults]))
"""


def test_pages_that_are_in_use_are_mapped_sixteen_at_a_time() -> None:
    done = subprocess.run([sys.executable, "-c", ACTORS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    num_bytes, faults, usual = json.loads(done.stdout.splitlines()[-1])
    if not num_bytes:
        pytest.skip("this kernel is older than Linux 5.14, and maps nothing ahead")
    assert num_bytes >= 192 << 20
    assert faults < usual / 2


def test_a_process_without_a_store_maps_nothing() -> None:
    pages = StorePages()
    for _ in range(2):
        pages.map_filled()
    assert pages.num_bytes == 0
