"""What a run takes of the GPU and of the host's memory, sampled while it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np

HOST_SECONDS = 5.0
SCORER = "ray::MapWorker(MapBatches(ScoreStage))"
DRIVER = "steel_batch.cli"


class GpuLog:
    """Samples how busy the GPU is and what is taken of its memory, five times a second."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, ...]] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> GpuLog:
        if shutil.which("nvidia-smi") is None:
            return self
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._process = subprocess.Popen(
            ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,power.draw",
             "--format=csv,noheader,nounits", "-lms", "200", *([f"--id={seen}"] if seen else [])],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process is not None
        for line in self._process.stdout or ():
            try:
                self.samples.append(tuple(float(v) for v in line.split(",")))
            except ValueError:
                continue

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def summary(self) -> dict[str, object]:
        busy = [s for s in self.samples if s[0] > 0]
        middle = busy[len(busy) // 10 : -max(1, len(busy) // 10)] or busy
        if not middle:
            return {}
        return {
            "gpu_busy_percent": round(float(np.mean([s[0] for s in middle])), 1),
            "gpu_watts": round(float(np.mean([s[2] for s in middle])), 0),
            "gpu_memory_mib": _course([s[1] for s in middle]),
        }


class HostLog:
    """Samples the anonymous memory of the driver and of the scoring actors."""

    def __enter__(self) -> HostLog:
        self.samples: dict[str, list[float]] = {DRIVER: [], SCORER: []}
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        while not self._stopped.wait(HOST_SECONDS):
            taken = dict.fromkeys(self.samples, 0.0)
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if not _sees_our_gpu(folder):
                        continue
                    status = (folder / "status").read_text()
                except (OSError, UnicodeDecodeError):  # it ended meanwhile
                    continue
                for name in taken:
                    if name in command:
                        kib = status.partition("RssAnon:")[2].split()[0]
                        taken[name] += int(kib) / 1024
            for name, mib in taken.items():
                if mib:
                    self.samples[name].append(mib)

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._reader.join()

    def summary(self) -> dict[str, object]:
        return {
            "driver_memory_mib": _course(self.samples[DRIVER]),
            "actor_memory_mib": _course(self.samples[SCORER]),
        }


def _course(values: list[float]) -> dict[str, float]:
    """How a series went: at a tenth, the middle and the end, and its highest."""
    if not values:
        return {}
    at = {name: values[int(share * (len(values) - 1))] for name, share in
          (("tenth", 0.1), ("middle", 0.5), ("end", 0.97))}  # fmt: skip
    return {name: round(value) for name, value in {**at, "highest": max(values)}.items()}


def _sees_our_gpu(process: Path) -> bool:
    """Whether a process was told of the same GPU as this one, if this one was told of one."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    entry = f"CUDA_VISIBLE_DEVICES={seen}".encode()
    return seen is None or entry in (process / "environ").read_bytes().split(b"\0")
