"""Class summaries: what one engine found on one date, per line and class.

DuckDB aggregates everything while it reads: areas are counted by value (an area is at most an
image's pixels), so quantiles are exact and memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from steel_batch import schema
from steel_batch.database import load_stream, scratch_database

_SQL = f"""
WITH images AS (
    SELECT line, count(*) AS num_images FROM predictions GROUP BY line
), classes AS (
    SELECT line, class_id, class_name, num_images FROM images CROSS JOIN class_names
), areas AS (
    SELECT line, d.class_id AS class_id, d.area_px AS area_px, count(*) AS n,
           sum(d.num_components) AS num_components
    FROM (SELECT line, unnest(defects) AS d FROM predictions WHERE has_defect) GROUP BY ALL
), ranked AS (
    SELECT *, sum(n) OVER (PARTITION BY line, class_id ORDER BY area_px) AS seen,
           sum(n) OVER (PARTITION BY line, class_id) AS total
    FROM areas
), defects AS (
    SELECT line, class_id, max(total) AS num_defective, sum(area_px * n) AS area_sum_px,
           min(area_px) FILTER (seen >= 0.50 * total) AS area_p50_px,
           min(area_px) FILTER (seen >= 0.95 * total) AS area_p95_px,
           sum(num_components) AS num_components
    FROM ranked GROUP BY line, class_id
), peaks AS (
    SELECT line, unnest(peak) AS peak, generate_subscripts(peak, 1) AS class_id FROM predictions
), bins AS (
    SELECT line, class_id,
           greatest(0, least({schema.PEAK_BINS - 1}, floor(peak * {schema.PEAK_BINS}))) AS bin,
           count(*) AS n
    FROM peaks GROUP BY ALL
), histograms AS (
    SELECT line, class_id,
           list_transform(range({schema.PEAK_BINS}),
                          lambda b: coalesce(map_from_entries(list((bin, n)))[b], 0)) AS histogram
    FROM bins GROUP BY line, class_id
)
SELECT c.line, c.class_id, c.class_name, ? AS run_id, c.num_images,
       coalesce(d.num_defective, 0) AS num_defective,
       coalesce(d.num_defective, 0) / c.num_images AS defect_rate,
       coalesce(d.area_sum_px, 0) AS area_sum_px,
       d.area_sum_px / d.num_defective AS area_mean_px,
       d.area_p50_px, d.area_p95_px,
       coalesce(d.num_components, 0) AS num_components,
       h.histogram AS peak_histogram
FROM classes c
LEFT JOIN defects d ON d.line IS NOT DISTINCT FROM c.line AND d.class_id = c.class_id
LEFT JOIN histograms h ON h.line IS NOT DISTINCT FROM c.line AND h.class_id = c.class_id
ORDER BY c.line NULLS FIRST, c.class_id
"""  # noqa: S608 - the only inserted values are constants of ours


FIELDS = pa.schema(
    [
        *(schema.PREDICTIONS.field(name) for name in ("line", "has_defect", "peak")),
        pa.field(
            "defects",
            pa.list_(
                pa.struct(
                    [schema.DEFECT.field(n) for n in ("class_id", "area_px", "num_components")]
                )
            ),
            nullable=False,
        ),
    ]
)
"""The columns of `schema.PREDICTIONS` that are read."""


def summarize(
    predictions: Iterable[pa.RecordBatch], classes: Sequence[str], run_id: str
) -> pa.Table:
    """Aggregate predictions per line and class.

    Args:
        predictions: `FIELDS` of the predictions; read once, spilled to disk if large.
        classes: Names of the classes, starting with class 1.
        run_id: The run that makes the summary.

    Returns:
        A table of `schema.CLASS_SUMMARIES`, one row per line and class, including those without a
        defect; sorted by line and class.
    """
    with scratch_database() as con:
        names = pa.table({"class_id": range(1, len(classes) + 1), "class_name": list(classes)})
        con.register("class_names", names)
        load_stream(con, "predictions", FIELDS, predictions)
        found = con.sql(_SQL, params=[run_id]).to_arrow_table()
    return found.cast(schema.CLASS_SUMMARIES)
