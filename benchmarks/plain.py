"""What one would write instead of `score`, in three ways: rows of defects, one per image.

    python -m benchmarks.plain pool LAKE OUT     a loop over the files with a pool of processes
    python -m benchmarks.plain ray LAKE OUT      Ray Data: read, map_batches with an actor class
    python -m benchmarks.plain daft LAKE OUT     Daft: read, a class as UDF; needs daft

Each decodes with the same decoder, infers with the same engine on one thread a process, encodes the
masks as `score` does, and writes Parquet. None lists what is done already, checks its inputs,
resumes after a crash or commits. `--ray-address` joins a cluster that is running.
"""

from __future__ import annotations

import argparse
import functools
import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.config import RuntimeSettings
from steel_batch.engine.runtime import open_runtime
from steel_batch.images.decode import decode_gray
from steel_batch.registry.versions import load_engine
from steel_batch.scoring.describer import LocalDescriber
from steel_batch.scoring.description import DEFECTS, joined

AT_ONCE = 32
"""Images of one call, and of one file that the pool writes."""


class Scorer:
    """The engine in one process, on one thread."""

    def __init__(self) -> None:
        engine = load_engine("demo", store=None)
        settings = RuntimeSettings(runtime="onnxruntime", precision="auto", batch_size=None)
        self._card = engine.card
        self._runtime = open_runtime(engine, settings, num_threads=1)
        shape_NHW = (self._runtime.batch_size, self._card.height, self._card.width)
        self._describer = LocalDescriber(shape_NHW, self._card.post_process)

    def score(self, names: Sequence[str], contents: Sequence[bytes]) -> pa.Table:
        """Defects of some images, as the column ``defects`` of `score` has them."""
        size = self._runtime.batch_size
        found = []
        for start in range(0, len(contents), size):
            batch = contents[start : start + size]
            with self._runtime.acquire() as slot:
                for place, content in enumerate(batch):
                    slot.image_NHW[place] = decode_gray(content)
                output = slot.infer(len(batch))
                marked = np.flatnonzero(output.count_NC.any(axis=1))
                self._describer.mask_NHW[: len(marked)] = output.mask_NHW[marked]
                self._describer.sample_NHW[: len(batch)] = slot.sample_NHW[: len(batch)]
                sizes = np.full((len(marked), 2), (self._card.height, self._card.width), np.int32)
                found.append(
                    self._describer.describe(
                        marked.tolist(), sizes, output.peak_NC, output.count_NC
                    )
                )
        num = len(names)
        return pa.table(
            {
                "name": [Path(name).name for name in names],
                "defects": joined(found)[DEFECTS],
                "at": pa.array([time.time()] * num),
                "process": pa.array([os.getpid()] * num),
            }
        )


@functools.cache
def scorer() -> Scorer:
    """The scorer of this process."""
    return Scorer()


def score_files(number: int, files: Sequence[Path], out: Path) -> None:
    """One call of the pool."""
    contents = [file.read_bytes() for file in files]
    table = scorer().score([str(file) for file in files], contents)
    pq.write_table(table, out / f"{number:05d}.parquet", compression="zstd")


def run_pool(lake: Path, out: Path) -> None:
    """A loop over the files, a process for each core."""
    out.mkdir(parents=True)
    files = sorted(lake.rglob("*.jpg"))
    parts = [files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE)]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        pool.starmap(
            score_files, [(number, part, out) for number, part in enumerate(parts)], chunksize=1
        )


class RayScorer:
    """The class that Ray Data makes an actor of."""

    def __init__(self) -> None:
        self._scorer = Scorer()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score one batch of Ray Data."""
        return self._scorer.score(batch["path"].to_pylist(), batch["bytes"].to_pylist())


def run_ray(lake: Path, out: Path, address: str | None) -> None:
    """Ray Data as its documentation shows it; an actor for each core but what reading takes."""
    import ray
    import ray.data

    ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    num_actors = max(1, int(ray.cluster_resources()["CPU"]))
    ray.data.read_binary_files(str(lake), include_paths=True).map_batches(
        RayScorer, batch_size=AT_ONCE, batch_format="pyarrow", num_cpus=0.5, concurrency=num_actors
    ).write_parquet(str(out))


def run_daft(lake: Path, out: Path) -> None:
    """Daft on this machine, a process for each core."""
    import daft  # type: ignore[import-not-found] # in no environment of the project

    fields = [
        ("defects", pa.list_(schema.DEFECT)),
        ("at", pa.float64()),
        ("process", pa.int64()),
    ]

    class DaftScorer:
        def __init__(self) -> None:
            self._scorer = Scorer()

        @daft.method.batch(  # type: ignore[untyped-decorator]
            return_dtype=daft.DataType.from_arrow_type(pa.struct(fields)), batch_size=AT_ONCE
        )
        def score(self, names: Any, contents: Any) -> Any:
            table = self._scorer.score(names.to_pylist(), contents.to_pylist())
            columns = [table[name].combine_chunks() for name, _ in fields]
            return pa.StructArray.from_arrays(columns, names=[name for name, _ in fields])

    num = len(os.sched_getaffinity(0))
    scorer = daft.cls(DaftScorer, max_concurrency=num, use_process=True)()
    files = daft.from_glob_path(f"{lake}/**/*.jpg")
    content = daft.functions.download(files["path"])
    scored = files.select(files["path"], scorer.score(files["path"], content).alias("row"))
    scored.select(
        scored["path"].alias("name"),
        scored["row"]["defects"].alias("defects"),
        scored["row"]["at"].alias("at"),
        scored["row"]["process"].alias("process"),
    ).write_parquet(str(out))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["pool", "ray", "daft"])
    parser.add_argument("lake", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ray-address")
    args: Any = parser.parse_args()
    if args.side == "pool":
        run_pool(args.lake, args.out)
    elif args.side == "ray":
        run_ray(args.lake, args.out, args.ray_address)
    else:
        run_daft(args.lake, args.out)


if __name__ == "__main__":
    main()
