"""`score` as a whole beside what one would write instead: rows compared, then times in turns.

Sides: `score`; an earlier build if `--before` gives its folder; and those of `benchmarks.plain`: a
loop with a pool of processes, Ray Data, and Daft if `--daft-python` gives a Python that has it and
what this package needs. All have the same images, engine and cores, and write Parquet. Only
`score` has the engine's graph as `registry.few_channels` changes it, since that is part of what it
does with an engine; the side `pool_same` is the pool with the same session.

`whole` is the time of the command; `first` ends with the first receipt or batch; `steady` is the
sum over the processes that score: images/s of each from its own first batch to its last. From the
first batch of all to the last of all, a pool of two would seem up to 3 % faster, because its second
process's first batch would count and not its time, and up to 3 % slower, because one process ends
before the other. The threads of our actor share each shard, so it has one first and one last.

    python -m benchmarks.whole [--num-images 1200] [--rounds 3] [--daft-python PYTHON]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import keep
from benchmarks.startup import DATES, ROOT, command, compile_build, environment
from steel_batch.lake import Lake
from steel_batch.synthetic.writer import write_lake

DATE = DATES[0]


@dataclass(kw_only=True)
class Figures:
    """What was measured of one side, per round."""

    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)

    def medians(self, name: str) -> dict[str, float]:
        """The median of each figure, by the side's name."""
        return {
            f"{name}_whole_seconds": round(statistics.median(self.whole), 2),
            f"{name}_first_seconds": round(statistics.median(self.first), 2),
            f"{name}_steady_images_per_second": round(statistics.median(self.steady), 1),
        }


def timed(words: list[str], build: Path) -> tuple[float, float]:
    """Run a side; return when it began and how long it took."""
    began, clock = time.time(), time.monotonic()
    subprocess.run(
        words, check=True, cwd=build, env=environment(build),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return began, time.monotonic() - clock


def rows_of(files: list[Path], key: str) -> dict[str, Any]:
    """Per image, its defects: class, run-lengths and area."""
    found = {}
    for file in files:
        table = pq.ParquetFile(file).read([key, "defects"])
        for name, defects in zip(table[key].to_pylist(), table["defects"].to_pylist(), strict=True):
            found[Path(name).name] = [(d["class_id"], d["rle"], d["area_px"]) for d in defects]
    return found


def steady(at: np.ndarray[Any, np.dtype[np.float64]], num: np.ndarray[Any, Any]) -> float:
    """Images per second of one process, from the first of some moments to the last."""
    order = np.argsort(at)
    at, num = at[order], num[order]
    return float(num[1:].sum() / (at[-1] - at[0])) if len(at) > 1 else float("nan")


def run_score(build: Path, lake: Path, folder: Path, figures: Figures) -> dict[str, Any]:
    """One run of `score`."""
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    began, seconds = timed(command("score", lake, store, "--date", DATE), build)
    files = sorted(store.glob("runs/*/receipts/*.json"))
    at = np.array([file.stat().st_mtime for file in files])
    num = np.array([json.loads(file.read_text())["num_images"] for file in files])
    figures.whole.append(seconds)
    figures.first.append(float(at.min()) - began)
    figures.steady.append(steady(at, num))
    return rows_of(sorted(store.glob("predictions/**/*.parquet")), "image_key")


def run_plain(
    side: str, python: str, lake: Path, folder: Path, figures: Figures, *, flags: Sequence[str] = ()
) -> dict[str, Any]:
    """One run of a side of `benchmarks.plain`."""
    out = folder / "rows"
    shutil.rmtree(out, ignore_errors=True)
    of_date = str(lake / "line=1" / f"date={DATE}")
    began, seconds = timed(
        [python, "-m", "benchmarks.plain", side, of_date, str(out), *flags], ROOT
    )
    files = sorted(out.rglob("*.parquet"))
    rows = pa.concat_tables(pq.read_table(file, columns=["at", "process"]) for file in files)
    moments, processes = rows["at"].to_numpy(), rows["process"].to_numpy()
    figures.whole.append(seconds)
    figures.first.append(float(moments.min()) - began)
    figures.steady.append(
        sum(
            steady(*np.unique(moments[processes == process], return_counts=True))
            for process in np.unique(processes)
        )
    )
    return rows_of(files, "name")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--num-images", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="folder of an earlier build")
    parser.add_argument("--daft-python", help="a Python that has Daft")
    args: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = folder / "lake"
        write_lake(Lake(str(lake)), num_images=args.num_images, seed=11, lines=["1"], dates=[DATE])
        sides: dict[str, Callable[[Figures], dict[str, Any]]] = {
            "score": partial(run_score, ROOT, lake, folder),
            "pool": partial(run_plain, "pool", sys.executable, lake, folder),
            "pool_same": partial(
                run_plain, "pool", sys.executable, lake, folder, flags=["--same-session"]
            ),
            "ray_data": partial(run_plain, "ray", sys.executable, lake, folder),
        }
        if args.before is not None:
            sides["before"] = partial(run_score, args.before, lake, folder)
        if args.daft_python is not None:
            sides["daft"] = partial(run_plain, "daft", args.daft_python, lake, folder)
        for build in (ROOT, args.before):
            if build is not None:
                compile_build(build)
        measured = {side: Figures() for side in sides}
        expected: dict[str, Any] = {}
        for _ in range(args.rounds):
            for side, run in sides.items():
                rows = run(measured[side])
                expected = expected or rows
                if rows != expected or len(rows) != args.num_images:
                    raise SystemExit(f"the rows of {side} differ from those of score")
                latest = {k: round(v[-1], 2) for k, v in vars(measured[side]).items()}
                print(f"{side:10} {latest}", file=sys.stderr)
    ours = measured["score"]
    ratios = {
        f"whole_to_{side}": round(
            statistics.median(a / b for a, b in zip(ours.whole, figures.whole, strict=True)), 2
        )
        for side, figures in measured.items()
        if side != "score"
    }
    medians: dict[str, float] = {}
    for side, figures in measured.items():
        medians |= figures.medians(side)
    keep(
        "whole",
        {
            "num_images": args.num_images,
            "rounds": args.rounds,
            "rows": "equal",
            **{
                k: v for side, figures in measured.items() for k, v in figures.medians(side).items()
            },
            **ratios,
            **{
                f"steady_to_{side}": round(
                    statistics.median(
                        a / b for a, b in zip(ours.steady, measured[side].steady, strict=True)
                    ),
                    2,
                )
                for side in ("pool", "pool_same")
            },
        },
    )


if __name__ == "__main__":
    main()
