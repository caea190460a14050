"""What one would write instead of `score`, in three ways: rows of defects, one per image.

    python -m benchmarks.plain pool LAKE OUT     a loop over the files with a pool of processes
    python -m benchmarks.plain ray LAKE OUT      Ray Data: read, map_batches with an actor class
    python -m benchmarks.plain daft LAKE OUT     Daft: read, a class as UDF; needs daft

Each decodes with the same decoder, infers with the same engine on one thread a process, encodes the
masks as `score` does, and writes Parquet. None lists what is done already, checks its inputs,
resumes after a crash or commits. `--ray-address` joins a cluster that is running.

The engine is the file as it was exported, in a plain session of ONNX Runtime, with the options of
`score`: one thread, no plan of its memory. What `score` changes in the graph while it loads it
(`registry.few_channels`) is not done, unless `--same-session` asks the pool for it.
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
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.config import CPU_BATCH_SIZE
from steel_batch.images.appearance import row_step
from steel_batch.images.decode import decode_gray
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK
from steel_batch.registry.graph import open_session
from steel_batch.registry.versions import load_engine
from steel_batch.scoring.describer import LocalDescriber
from steel_batch.scoring.description import DEFECTS, joined

AT_ONCE = 32
"""Images of one call, and of one file that the pool writes."""


def plain_session(graph: bytes) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Scorer:
    """The engine in one process, on one thread.

    Args:
        same_session: Load the engine as `score` does.
    """

    def __init__(self, *, same_session: bool = False) -> None:
        engine = load_engine("demo", store=None)
        graph = engine.read_graph("fp32")
        card = engine.card
        self._session = (
            open_session(graph, card, precision="fp32") if same_session else plain_session(graph)
        )
        self._images = np.zeros((CPU_BATCH_SIZE, 1, card.height, card.width), np.uint8)
        shape_NHW = (CPU_BATCH_SIZE, card.height, card.width)
        self._describer = LocalDescriber(shape_NHW, card.post_process)

    def score(self, names: Sequence[str], contents: Sequence[bytes]) -> pa.Table:
        """Defects of some images, as the column ``defects`` of `score` has them."""
        size, _, height, width = self._images.shape
        found = []
        for start in range(0, len(contents), size):
            batch = contents[start : start + size]
            for place, content in enumerate(batch):
                self._images[place, 0] = decode_gray(content)
            images = self._images[: len(batch)]
            mask, peak, count = self._session.run([MASK, PEAK, COUNT], {IMAGE: images})
            marked = np.flatnonzero(count.any(axis=1))
            self._describer.mask_NHW[: len(marked)] = mask[marked, 0]
            self._describer.sample_NHW[: len(batch)] = images[:, 0, :: row_step(height)]
            sizes = np.full((len(marked), 2), (height, width), np.int32)
            found.append(self._describer.describe(marked.tolist(), sizes, peak, count))
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
def scorer(*, same_session: bool) -> Scorer:
    """The scorer of this process."""
    return Scorer(same_session=same_session)


def score_files(number: int, files: Sequence[Path], out: Path, same_session: bool) -> None:
    """One call of the pool."""
    contents = [file.read_bytes() for file in files]
    table = scorer(same_session=same_session).score([str(file) for file in files], contents)
    pq.write_table(table, out / f"{number:05d}.parquet", compression="zstd")


def run_pool(lake: Path, out: Path, *, same_session: bool) -> None:
    """A loop over the files, a process for each core."""
    out.mkdir(parents=True)
    files = sorted(lake.rglob("*.jpg"))
    parts = [files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE)]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        pool.starmap(
            score_files,
            [(number, part, out, same_session) for number, part in enumerate(parts)],
            chunksize=1,
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
    parser.add_argument("--same-session", action="store_true")
    args: Any = parser.parse_args()
    if args.side == "pool":
        run_pool(args.lake, args.out, same_session=args.same_session)
    elif args.side == "ray":
        run_ray(args.lake, args.out, args.ray_address)
    else:
        run_daft(args.lake, args.out)


if __name__ == "__main__":
    main()
