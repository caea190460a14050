"""What planning one late image costs, by the number of images of its date that have a row.

`tests.runs.one_late_image` makes them up, in a process for each number: CPU seconds of that
process, peak memory and the most bytes of temporary files. `--against` measures another checkout,
which needs no such module.

    python -m benchmarks.late_image [--images 1000000,10000000,40000000] [--against ../before]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.cli import ROOT
from benchmarks.machine import keep

_SCRIPT: Final = ROOT / "tests/runs/one_late_image.py"
_LOOK_SECONDS: Final = 0.2


def measure(checkout: Path, num_images: int) -> dict[str, Any]:
    """The figures of one process of a checkout."""
    code = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    most = 0
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(_SCRIPT), str(num_images)],
            stdout=subprocess.PIPE, text=True, cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "TMPDIR": folder},
        )  # fmt: skip
        while process.poll() is None:
            most = max(most, _bytes_in(folder))
            time.sleep(_LOOK_SECONDS)
        found: dict[str, Any] = json.loads(process.communicate()[0])
    assert found["planned"] == 1
    return {
        "cpu_seconds_per_million": round(found["cpu_seconds"] / num_images * 1e6, 2),
        "peak_mib": found["peak_mib"],
        "scratch_bytes_per_image": round(most / num_images, 1),
    }


def _bytes_in(folder: str) -> int:
    """The bytes of all files; unlike `Path.rglob`, it passes over what is deleted meanwhile."""
    num_bytes = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                num_bytes += Path(inner, name).stat().st_size
    return num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="1000000,10000000", help="sizes of the date")
    parser.add_argument("--against", type=Path, help="another checkout")
    options = parser.parse_args()
    checkouts = {"now": ROOT}
    if options.against is not None:
        checkouts["before"] = options.against.resolve()
    for num_images in map(int, options.images.split(",")):
        figures = {name: measure(checkout, num_images) for name, checkout in checkouts.items()}
        keep("late_image", {"images": num_images, **figures}, is_series=True)


if __name__ == "__main__":
    main()
