"""Pages of Ray's object store that others have filled are mapped before they are written to."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from types import SimpleNamespace

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
        pytest.skip("the kernel is older than Linux 5.14, or the store does not fit into /dev/shm")
    assert num_bytes >= 192 << 20
    assert faults < usual / 2


def test_a_process_without_a_store_maps_nothing() -> None:
    pages = StorePages()
    for _ in range(2):
        pages.map_filled()
    assert pages.num_bytes == 0


@pytest.mark.parametrize(("num_used", "is_mapped"), [(32 << 20, False), (1 << 40, True)])
def test_pages_are_believed_to_be_in_use_if_the_file_system_says_so(
    monkeypatch: pytest.MonkeyPatch, num_used: int, is_mapped: bool
) -> None:
    """The kernel calls all pages resident where it may not tell: that would fill the store."""
    size = 64 << 20
    memory = mmap.mmap(-1, size)
    memory.write(bytes(size))
    pages = StorePages()
    pages._start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    pages._end = pages._start + size
    found = SimpleNamespace(f_blocks=1 << 40, f_bfree=(1 << 40) - num_used, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    pages.map_filled()
    if pages._start == pages._end and not pages.num_bytes:
        pytest.skip("the kernel is older than Linux 5.14")
    assert pages.num_bytes == (size if is_mapped else 32 << 20)
