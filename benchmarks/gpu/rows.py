"""How far two sets of rows of the same images are apart, as between CPU and GPU decode.

    python -m benchmarks.gpu.rows PREDICTIONS_A PREDICTIONS_B [--limit 8192]

Masks are decoded from the rows and compared pixel by pixel; prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steel_batch.masks.rle import decode_rle

COLUMNS = ["image_key", "height", "width", "peak", "defects"]


def keys_of(folder: Path) -> set[str]:
    return set(pq.read_table(parts(folder), columns=["image_key"])["image_key"].to_pylist())


def read(folder: Path, keys: list[str]) -> dict[str, dict[str, Any]]:
    table = pq.read_table(
        parts(folder), columns=COLUMNS, filters=pc.is_in(pc.field("image_key"), pa.array(keys))
    )
    return {row.pop("image_key"): row for row in table.to_pylist()}


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("part-*.parquet"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs=2)
    parser.add_argument("--limit", type=int, default=8192)
    args = parser.parse_args()
    found = [keys_of(folder) for folder in args.folders]
    keys = sorted(found[0] & found[1])[: args.limit]
    first, second = (read(folder, keys) for folder in args.folders)
    equal = pixels = differing = marked = 0
    found_alike = 0
    peak = 0.0
    for key in keys:
        a, b = first[key], second[key]
        peak = max(peak, float(np.abs(np.subtract(a["peak"], b["peak"])).max()))
        pixels += a["height"] * a["width"]
        masks = [{d["class_id"]: d["rle"] for d in row["defects"]} for row in (a, b)]
        found_alike += masks[0].keys() == masks[1].keys()
        equal += masks[0] == masks[1]
        for class_id in masks[0].keys() | masks[1].keys():
            drawn = [decode_rle(mask.get(class_id, ""), a["height"], a["width"]) for mask in masks]
            differing += int(np.count_nonzero(drawn[0] != drawn[1]))
            marked += int(np.count_nonzero(drawn[0]))
    print(
        json.dumps(
            {
                "benchmark": "gpu_rows",
                "num_images": len(keys),
                "only_in_one": len(found[0] ^ found[1]),
                "equal_masks": equal,
                "same_classes": found_alike,
                "share_of_pixels_that_differ": differing / max(1, pixels),
                "share_of_marked_pixels_that_differ": differing / max(1, marked),
                "greatest_peak_difference": round(peak, 5),
            }
        )
    )


if __name__ == "__main__":
    main()
