"""Plans one late image of a date whose other images all have a row, and prints what that cost.

The images are made up, a batch at a time, so that only the planner's memory counts.

    python -m tests.runs.one_late_image NUM_IMAGES
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch.runs.plan import KNOWN
from steel_batch.runs.planning import build_plan
from steel_batch.sources.image_ref import IMAGES

BATCH_ROWS: Final = 10_000
SETTINGS: Final = {"shard_images": 512, "shard_bytes": 1 << 26, "rescore_changed": False}


class Listed:
    """A listing of made-up images.

    Args:
        num: How many.
    """

    def __init__(self, num: int) -> None:
        self._num = num

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield `IMAGES`."""
        for start in range(0, self._num, BATCH_ROWS):
            rows = min(BATCH_ROWS, self._num - start)
            numbers = np.arange(start, start + rows)
            keys = texts("line=1/date=2026-11-21/", numbers)
            none = pa.array([], "string")
            columns = {
                "image_key": keys,
                "image_id": texts("", numbers),
                "tags": pa.MapArray.from_arrays(np.zeros(rows + 1, np.int32), none, none),
                "line": pc.utf8_slice_codeunits(keys, 5, 6),
                "object_key": keys,
                "offset": pa.nulls(rows, pa.int64()),
                "bytes": pa.array(np.full(rows, 100_000)),
                "etag": texts("e" * 20, numbers),
                "date": pa.nulls(rows, pa.string()),
            }
            yield pa.RecordBatch.from_arrays([columns[f.name] for f in IMAGES], schema=IMAGES)

    def known(self) -> Iterator[pa.RecordBatch]:
        """Yield `KNOWN`, without the first image."""
        for number, batch in enumerate(self.batches()):
            columns = [batch["image_key"], batch["etag"], pa.nulls(batch.num_rows, pa.string())]
            rows = pa.RecordBatch.from_arrays(columns, schema=KNOWN)
            yield rows.slice(0 if number else 1)


def texts(prefix: str, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    """The prefix with each number, which has 12 digits."""
    digits = pc.utf8_lpad(pa.array(numbers).cast("string"), 12, "0")
    return pc.binary_join_element_wise(pa.scalar(prefix), digits, pa.scalar(""), "")


def main() -> None:
    listed = Listed(int(sys.argv[1]))
    pa.set_memory_pool(pa.system_memory_pool())
    with tempfile.TemporaryDirectory() as folder:
        info = build_plan(listed, SETTINGS, Path(folder, "plan"), known=listed.known())
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "planned": info.num_images,
                "peak_mib": used.ru_maxrss // 1024,
                "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
