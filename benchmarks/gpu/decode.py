"""Decoding alone on a GPU: images a second, cores that it takes, and pixels against OpenCV's.

    python -m benchmarks.gpu.decode --images DIR [--batch-sizes 16,32,64] [--threads 1,2,6]

`--images` is any folder of JPEGs of one size, such as the `loose` one of `benchmarks.gpu.archive`.
Each thread has a decoder, as each slot of an engine has; the network does not run meanwhile.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from steel_batch.engine.gpu import NON_BLOCKING, open_gpu
from steel_batch.engine.nvjpeg import GpuDecoder, check_decoder, find_version, load_nvjpeg
from steel_batch.images.decode import decode_gray


class Batch:
    """Device memory of one batch, a stream and a decoder."""

    def __init__(self, shape_NHW: tuple[int, int, int]) -> None:
        gpu = open_gpu()
        self._found_NHW = np.zeros(shape_NHW, np.uint8)
        with gpu.current():
            self._memory: Any = gpu.cuda.mem_alloc(self._found_NHW.nbytes)
            self._stream: Any = gpu.cuda.Stream(NON_BLOCKING)
            self._done: Any = gpu.cuda.Event(gpu.cuda.event_flags.BLOCKING_SYNC)
            self._decoder = GpuDecoder(gpu, self._stream, int(self._memory), shape_NHW)

    def decode(self, files: list[bytes]) -> frozenset[int]:
        with open_gpu().current():
            decoded = self._decoder.decode(dict(enumerate(files)))
            self._done.record(self._stream)
            self._done.synchronize()
        return frozenset(decoded)

    def pixels(self) -> np.ndarray:
        gpu = open_gpu()
        with gpu.current():
            gpu.cuda.memcpy_dtoh(self._found_NHW, self._memory)
        return self._found_NHW

    def free(self) -> None:
        with open_gpu().current():
            self._decoder.free()
            self._memory.free()
            self._stream = self._done = None


def rate(
    files: list[bytes], shape_HW: tuple[int, int], batch_size: int, threads: int, seconds: float
) -> dict[str, float]:
    batches = [Batch((batch_size, *shape_HW)) for _ in range(threads)]
    started = [0.0, 0.0]

    def begin() -> None:
        started[:] = time.monotonic(), time.process_time()

    barrier = threading.Barrier(threads, action=begin)

    def loop(number: int) -> tuple[int, int]:
        given = decoded = 0
        place = itertools.count(number * 1009)
        for turn in itertools.count():
            if turn == 3:
                barrier.wait(timeout=60)
            if turn >= 3 and time.monotonic() - started[0] > seconds:
                return given, decoded
            chosen = [files[next(place) % len(files)] for _ in range(batch_size)]
            done = len(batches[number].decode(chosen))
            if turn >= 3:
                given, decoded = given + batch_size, decoded + done
        raise AssertionError

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(loop, range(threads)))
    took, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    for batch in batches:
        batch.free()
    given, decoded = (sum(column) for column in zip(*results, strict=True))
    return {
        "images_per_second": round(given / took, 1),
        "cores": round(cpu / took, 2),
        "cpu_ms_per_image": round(1000 * cpu / max(1, given), 3),
        "share_left_to_the_cpu": 1 - decoded / max(1, given),
    }


def differences(files: list[bytes], shape_HW: tuple[int, int]) -> dict[str, Any]:
    batch = Batch((16, *shape_HW))
    histogram = np.zeros(256, np.int64)
    num_decoded = 0
    for first in range(0, len(files), 16):
        chosen = files[first : first + 16]
        decoded = batch.decode(chosen)
        found_NHW = batch.pixels()
        for k in decoded:
            difference = np.abs(found_NHW[k].astype(np.int16) - decode_gray(chosen[k]))
            histogram += np.bincount(difference.ravel(), minlength=256)
        num_decoded += len(decoded)
    batch.free()
    return {
        "num_compared": num_decoded,
        "share_of_pixels_that_differ": float(1 - histogram[0] / max(1, histogram.sum())),
        "greatest_difference": int(np.flatnonzero(histogram).max(initial=0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=1024)
    parser.add_argument("--batch-sizes", default="16,32,64")
    parser.add_argument("--threads", default="1,2,6")
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    paths = sorted(args.images.rglob("*.jpg"))[: args.num_images]
    files = [path.read_bytes() for path in paths]
    shape_HW = decode_gray(files[0]).shape
    check_decoder(*shape_HW)
    started = time.monotonic()
    for data in files[:64]:
        decode_gray(data)
    opencv_seconds = (time.monotonic() - started) / len(files[:64])
    figures: dict[str, Any] = {
        "benchmark": "gpu_decode",
        "device": open_gpu().name,
        "nvjpeg": find_version(load_nvjpeg()),
        "num_images": len(files),
        "mean_bytes": sum(map(len, files)) // len(files),
        "opencv_images_per_second_a_core": round(1 / opencv_seconds, 1),
        **differences(files, shape_HW),
        "rates": [],
    }
    numbers = ([int(n) for n in text.split(",")]
               for text in (args.batch_sizes, args.threads))  # fmt: skip
    for batch_size, threads in itertools.product(*numbers):
        found = rate(files, shape_HW, batch_size, threads, args.seconds)
        entry = {"batch_size": batch_size, "threads": threads, **found}
        figures["rates"].append(entry)
        print(entry, file=sys.stderr, flush=True)
    print(json.dumps(figures | describe_machine()))


if __name__ == "__main__":
    main()
