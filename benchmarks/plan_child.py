"""One plan, measured: run by `benchmarks.plan` in a process of its own, with any build's package.

Uses only what the builds since 28 November 2026 have in common.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

try:
    from steel_batch.runs.planning import build_plan
    from steel_batch.sources.open import open_source
    from steel_batch.sources.undated import ImagesByDate
except ImportError:  # the build of 28 November 2026
    from steel_batch.plan import build_plan  # type: ignore[import-not-found, no-redef]
    from steel_batch.undated import (  # type: ignore[import-not-found, no-redef]
        Dated as ImagesByDate,
    )

    from steel_batch.sources import open_source  # type: ignore[attr-defined, no-redef]

try:
    from steel_batch.database import scratch_engine
except ImportError:
    from contextlib import nullcontext as scratch_engine  # type: ignore[assignment]

SETTINGS = {"shard_images": 256, "shard_bytes": 256 << 20, "rescore_changed": False}
SAMPLE_SECONDS = 0.2


class DiskUse:
    """The most that the folder of temporary files took."""

    def __init__(self) -> None:
        self.most_bytes = 0
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            num_bytes = 0
            for folder, _, names in os.walk(tempfile.gettempdir()):
                for name in names:
                    if name.endswith(".plan"):
                        continue
                    try:
                        num_bytes += Path(folder, name).stat().st_blocks * 512
                    except OSError:
                        continue
            self.most_bytes = max(self.most_bytes, num_bytes)


def main() -> None:
    images, pattern, endpoint, date = sys.argv[1:5]
    disk = DiskUse()
    started, cpu = time.perf_counter(), time.process_time()
    source = open_source(images, pattern or None, endpoint_url=endpoint or None)
    infos: list[Any] = []
    with scratch_engine():
        for each in source.dates() if date == "all" else [date]:
            path = Path(tempfile.gettempdir()) / "made.plan"
            dated = ImagesByDate(source.select(each), images, pattern or None, each)
            infos.append(build_plan(dated, SETTINGS, path))
    num_images = sum(info.num_images for info in infos)
    print(
        json.dumps(
            {
                "num_images": num_images,
                "num_dates": len(infos),
                "digest": infos[0].digest[:12],
                "seconds": round(time.perf_counter() - started, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
                "disk_bytes_per_key": round(disk.most_bytes / max(1, num_images), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
