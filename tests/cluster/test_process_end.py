"""The processes of a run end: after Ray Data's threads, and without Ray's exit handlers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from steel_batch.cluster import process_end
from steel_batch.cluster.process_end import THREADS, data_threads_ended
from steel_batch.errors import TooManyBadImagesError
from steel_batch.lake import Lake
from tests.conftest import fill_lake, run_score, score_config

pytestmark = pytest.mark.ray

WORKER = """
import atexit, ctypes, os, select, sys
import ray
from steel_batch.cluster.process_end import skip_exit_handlers

class Worker:
    def __init__(self, of_library, of_python):
        c = ctypes.CDLL(None)
        c.strdup.restype = ctypes.c_void_p
        path = ctypes.c_void_p(c.strdup(of_library.encode()))
        getattr(c, "__cxa_atexit")(c.rmdir, path, None)
        {skip}
        atexit.register(os.rmdir, of_python)

    def pid(self):
        return os.getpid()

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
worker = ray.remote(num_cpus=0)(Worker).remote(*sys.argv[1:])
worker_process = os.pidfd_open(ray.get(worker.pid.remote()))
worker.__ray_terminate__.remote()
assert select.select([worker_process], [], [], 60)[0]
"""
"""Ends an actor that removes two folders at its end: one from C, one from Python."""


def test_threads_of_ray_data_that_were_started_within_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    threads = {
        name: threading.Thread(target=release.wait, name=f"{name}1", daemon=True)
        for name in (*THREADS, "other")
    }
    old = threading.Thread(target=release.wait, name=f"{THREADS[0]}0", daemon=True)
    old.start()
    monkeypatch.setattr(process_end, "MOST_SECONDS", 0.2)
    started = time.monotonic()
    with data_threads_ended():
        threads["other"].start()
    assert time.monotonic() - started < 0.1
    with data_threads_ended():
        for name in THREADS:
            threads[name].start()
    assert 0.2 <= time.monotonic() - started < 10
    release.set()


def test_a_run_that_fails_ends_after_ray_datas_slow_thread(
    ray_cluster: object, tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StreamingExecutor.run
    ended = threading.Event()

    def slow(self: StreamingExecutor) -> None:
        run(self)
        time.sleep(4)  # Ray Data waits for two
        ended.set()

    monkeypatch.setattr(StreamingExecutor, "run", slow)
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=16)
    for item in list(images.list_objects("")):
        images.write(item.key, images.read(item.key)[:100])
    with pytest.raises(TooManyBadImagesError):
        run_score(score_config(images, store, tiny_engine, shard_images=1))
    assert ended.is_set()
    assert "iter_threaded" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(("skip", "is_skipped"), [("", False), ("skip_exit_handlers()", True)])
def test_a_worker_ends_before_the_exit_handlers_of_libraries(
    skip: str, is_skipped: bool, tmp_path: Path
) -> None:
    of_library, of_python = tmp_path / "library", tmp_path / "python"
    of_library.mkdir()
    of_python.mkdir()
    subprocess.run(
        [sys.executable, "-c", WORKER.format(skip=skip), str(of_library), str(of_python)],
        timeout=120,
        check=True,
    )
    assert not of_python.exists()
    assert of_library.exists() == is_skipped
