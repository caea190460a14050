"""What a figure was measured on, and where it is kept."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LOAD_BEFORE = round(os.getloadavg()[0], 1)
"""What else kept the machine busy when the benchmark began."""
PACKAGES = ("ray", "pyarrow", "onnxruntime", "numpy", "opencv-python-headless", "deltalake")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, versions, commit and date."""
    return {
        "cpu": _cpu(),
        "num_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def keep(benchmark: str, figures: Mapping[str, Any], *, is_series: bool = False) -> None:
    """Print the figures of `benchmarks.<benchmark>`, and write them to its file of results.

    Args:
        benchmark: Its name.
        figures: What it measured.
        is_series: Whether they are one of several lines, which are added to those of earlier runs.
    """
    found = {
        "benchmark": benchmark,
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        **figures,
        "load_average_before": LOAD_BEFORE,
        **describe_machine(),
    }
    for name, value in found.items():
        print(f"{name:26} {value}", file=sys.stderr)
    line = json.dumps(found)
    if is_series:
        with (RESULTS / f"{benchmark}.jsonl").open("a") as file:
            file.write(line + "\n")
    else:
        (RESULTS / f"{benchmark}.json").write_text(line + "\n")
    print(line)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
