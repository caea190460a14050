"""How soon the command line answers, as whole processes, beside another checkout of the project.

Each command runs in a process of its own, in turns with the same command of the other checkout;
CPU seconds and the largest memory are the operating system's, of the process and its children.

    git worktree add ../before 89263a3
    python -m benchmarks.cli --against ../before [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import keep

ROOT = Path(__file__).parents[1]
PATTERN = "line={line}/date={date}/{image_id}.jpg"
_CHILD = """
import json, os, resource, subprocess, sys, time
environment = {**os.environ, **json.loads(sys.argv[2])}
started = time.perf_counter()
done = subprocess.run(json.loads(sys.argv[1]), env=environment, capture_output=True)
wall = time.perf_counter() - started
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024, done.returncode]))
"""
_AS_INSTALLED = """
import sys
sys.argv[0] = "steel-batch"  # completion goes by the name
from steel_batch.cli import main
sys.exit(main())
"""


def measure(checkout: Path, words: list[str], extra: dict[str, str]) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and MiB of one command of a checkout."""
    command = [sys.executable, "-c", _AS_INSTALLED, *words]
    environment = {"PYTHONPATH": str(checkout), **extra}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(command), json.dumps(environment)],
        capture_output=True, text=True, check=True, cwd=checkout,
    )  # fmt: skip
    cpu, wall, mib, code = json.loads(done.stdout)
    assert code == 0, (words, code)
    return cpu, wall, mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    checkouts = (ROOT, arguments.against.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        lake = f"{scratch}/lake"
        date = ["--date", "2026-11-21"]
        # A store for each: an earlier build refuses the formats of a later one.
        stores = {checkout: f"{scratch}/store-{i}" for i, checkout in enumerate(checkouts)}
        flags = ["--images", lake, "--key-pattern", PATTERN]
        measure(ROOT, ["synth", "--out", lake, "--num-images", "20", "--dates", date[1]], {})
        for checkout, store in stores.items():
            measure(checkout, ["score", *flags, *date, "--store", store], {})
        completion = {
            "_STEEL_BATCH_COMPLETE": "bash_complete",
            "COMP_WORDS": "steel-batch runs show --store {store} 2026",
            "COMP_CWORD": "5",
        }
        commands: dict[str, tuple[list[str], dict[str, str]]] = {
            "--version": (["--version"], {}),
            "--help": (["--help"], {}),
            "runs list": (["runs", "list", "--store", "{store}"], {}),
            "completion": ([], completion),
            "query": (["query", "--store", "{store}", "SELECT count(*) FROM predictions"], {}),
            "plan": (["plan", *flags, *date, "--store", "{store}"], {}),
        }
        figures: dict[str, Any] = {"rounds": arguments.rounds, "cpus": os.cpu_count()}
        for name, (words, extra) in commands.items():
            pairs = [
                [
                    measure(
                        checkout,
                        [word.replace("{store}", store) for word in words],
                        {key: value.replace("{store}", store) for key, value in extra.items()},
                    )
                    for checkout, store in stores.items()
                ]
                for _ in range(arguments.rounds)
            ]
            for i, figure in enumerate(("cpu_s", "wall_s", "mib")):
                ours = statistics.median(pair[0][i] for pair in pairs)
                other = statistics.median(pair[1][i] for pair in pairs)
                figures[f"{name} {figure}"] = [round(ours, 3), round(other, 3)]
            ratio = statistics.median(pair[1][0] / pair[0][0] for pair in pairs)
            figures[f"{name} times less CPU"] = round(ratio, 1)
        keep("cli", figures)


if __name__ == "__main__":
    main()
