"""The Arrow schemas of everything durable: the three tables, plans and shards.

`engine` and `date` are partition columns: they are part of the path (``engine=…/date=…``), as in
every Hive-style table. Files do not repeat them, and readers add them back.
"""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa

from steel_batch import layout

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)

PEAK_BINS = 20
"""Bins of the histogram of `peak` over 0–1."""

TAGS = pa.map_(pa.string(), pa.string())
INSTANT = pa.timestamp("us", tz="UTC")

DEFECT = pa.struct(
    [
        pa.field("class_id", pa.int8(), nullable=False),
        pa.field("rle", pa.string(), nullable=False),
        pa.field("area_px", pa.int32(), nullable=False),
        pa.field("num_components", pa.int16(), nullable=False),
        pa.field(
            "bbox",
            pa.struct(
                [pa.field(name, pa.int32(), nullable=False) for name in ("x", "y", "w", "h")]
            ),
            nullable=False,
        ),
        pa.field("peak", pa.float32(), nullable=False),
    ]
)
"""One class's defects on one image; `class_id` counts from 1, `bbox` from pixel 0."""

PROVENANCE = pa.schema(
    [
        pa.field("runtime", pa.string()),
        pa.field("runtime_version", pa.string()),
        pa.field("precision", pa.string()),
        pa.field("device", pa.string()),
        pa.field("decode_on", pa.string()),
        pa.field("decoder", pa.string()),
    ]
)
"""What produced a row, besides the engine. Null in rows of builds before December 2026."""

APPEARANCE = pa.schema(
    [pa.field(name, pa.float32()) for name in ("brightness", "contrast", "sharpness")]
)
"""How an image looks to the engine, in gray levels; `images.appearance`. Null in rows of earlier
builds."""

PREDICTIONS = pa.schema(
    [
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("line", pa.string()),
        pa.field("tags", TAGS, nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("scored_at", INSTANT, nullable=False),
        pa.field("has_defect", pa.bool_(), nullable=False),
        pa.field("peak", pa.list_(pa.float32()), nullable=False),
        pa.field("defects", pa.list_(DEFECT), nullable=False),
        *PROVENANCE,
        *APPEARANCE,
    ]
)
"""New columns go at the end and may be null, because rows of earlier builds lack them
(`tables.evolution`)."""

CLASS_SUMMARIES = pa.schema(
    [
        pa.field("line", pa.string()),
        pa.field("class_id", pa.int8(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("num_defective", pa.int64(), nullable=False),
        pa.field("defect_rate", pa.float64(), nullable=False),
        pa.field("area_sum_px", pa.int64(), nullable=False),
        pa.field("area_mean_px", pa.float64()),
        pa.field("area_p50_px", pa.int32()),
        pa.field("area_p95_px", pa.int32()),
        pa.field("num_components", pa.int64(), nullable=False),
        pa.field("peak_histogram", pa.list_(pa.int64()), nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("error_code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("at", INSTANT, nullable=False),
    ]
)

TABLES = {
    layout.PREDICTIONS: PREDICTIONS,
    layout.CLASS_SUMMARIES: CLASS_SUMMARIES,
    layout.QUARANTINE: QUARANTINE,
}
"""The schema of each table's files."""

PLAN = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("line", pa.string()),
        pa.field("tags", TAGS, nullable=False),
        pa.field("object_key", pa.string(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
    ]
)
"""`offset` is set for a member of a tar (its first byte, or below 0 if it cannot be read) or of a
Parquet file (its row)."""


def conform(rows: Rows, fields: pa.Schema) -> Rows:
    """Return rows under a schema that may have more columns; those are null.

    Raises:
        ArrowInvalid: A column that must not be null is missing, or one cannot be cast.
    """
    if rows.schema.equals(fields):
        return rows
    columns = []
    for field in fields:
        if field.name in rows.schema.names:
            columns.append(rows[field.name].cast(field.type))
        elif field.nullable:
            columns.append(pa.nulls(rows.num_rows, field.type))
        else:
            raise pa.ArrowInvalid(f"there is no column {field.name}")
    if isinstance(rows, pa.RecordBatch):
        return pa.RecordBatch.from_arrays(columns, schema=fields)
    return pa.Table.from_arrays(columns, schema=fields)
