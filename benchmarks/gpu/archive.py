"""Packed shards of synthetic strips on local disk: few different ones, many times.

python -m benchmarks.gpu.archive --out DIR --num-images 65536 --num-different 4096
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch.lake import Lake
from steel_batch.synthetic.writer import write_lake

DATE = "2026-11-21"
IMAGES_PER_FILE = 4096
ROWS_PER_GROUP = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=65536)
    parser.add_argument("--num-different", type=int, default=4096)
    args = parser.parse_args()
    started = time.monotonic()
    loose = Lake(str(args.out / "loose"))
    made = write_lake(loose, num_images=args.num_different, seed=21, lines=["1"], dates=[DATE])
    files = sorted((args.out / "loose").glob("line=*/date=*/*.jpg"))
    contents = [file.read_bytes() for file in files]
    packed = args.out / "packed" / "line=1" / f"date={DATE}"
    packed.mkdir(parents=True)
    schema = pa.schema([("image_id", pa.string()), ("image", pa.binary())])
    for first in range(0, args.num_images, IMAGES_PER_FILE):
        numbers = range(first, min(first + IMAGES_PER_FILE, args.num_images))
        table = pa.table(
            [
                [f"i{n:07d}" for n in numbers],
                [contents[n * 31 % len(contents)] for n in numbers],
            ],
            schema=schema,
        )
        pq.write_table(
            table, packed / f"{first:07d}.parquet", row_group_size=ROWS_PER_GROUP,
            compression="none", use_dictionary=False,
        )  # fmt: skip
    print(
        json.dumps(
            {
                "num_images": args.num_images,
                "num_different": made.num_images,
                "num_defective": made.num_defective,
                "mean_bytes": made.bytes // made.num_images,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
