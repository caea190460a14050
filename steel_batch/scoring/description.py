"""What is said of a batch of images, as it travels from who describes them to who makes rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch import schema

DEFECTS: Final = "defects"


def to_stream(defects: pa.ListArray, looks: npt.NDArray[np.float32]) -> pa.Buffer:
    """Write what is said of a batch as an Arrow stream.

    Args:
        defects: Per image, values of `schema.DEFECT`.
        looks: Per image, the values of `schema.APPEARANCE`.
    """
    arrays = [defects, *map(pa.array, looks.T)]
    table = pa.table(arrays, names=[DEFECTS, *schema.APPEARANCE.names])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def joined(described: Sequence[bytes | memoryview]) -> pa.Table:
    """Read back what `to_stream` wrote of some batches: `DEFECTS` and `schema.APPEARANCE`."""
    tables = [pa.ipc.open_stream(stream).read_all() for stream in described]
    return pa.concat_tables(tables).combine_chunks()
