"""Class summaries: what one engine found on one date, per line and class.

DuckDB aggregates everything while it reads: areas are counted by value (an area is at most an
image's pixels), so quantiles are exact and memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from steel_batch import schema
from steel_batch.database import load_stream, scratch_database


def summary_sql(keys: Sequence[str], *, names: str, run_id: str) -> str:
    """The query that aggregates a relation `predictions` per line and class.

    Args:
        keys: The columns that rows are grouped by next to the class, the line being the last.
        names: The names of the classes: a relation of `class_id`, `class_name` and those keys that
            they differ by, joined in (``CROSS JOIN …``).
        run_id: An expression over the keys: the run that the summary is of.
    """
    k = ", ".join(keys)

    def of(alias: str) -> str:
        return ", ".join(f"{alias}.{key}" for key in keys)

    def same(alias: str) -> str:
        return " AND ".join(f"{alias}.{key} IS NOT DISTINCT FROM c.{key}" for key in keys)

    return f"""
WITH images AS (
    SELECT {k}, count(*) AS num_images FROM predictions GROUP BY {k}
), classes AS (
    SELECT {k}, class_id, class_name, num_images FROM images {names}
), areas AS (
    SELECT {k}, d.class_id AS class_id, d.area_px AS area_px, count(*) AS n,
           sum(d.num_components) AS num_components
    FROM (SELECT {k}, unnest(defects) AS d FROM predictions WHERE has_defect) GROUP BY ALL
), ranked AS (
    SELECT *, sum(n) OVER (PARTITION BY {k}, class_id ORDER BY area_px) AS seen,
           sum(n) OVER (PARTITION BY {k}, class_id) AS total
    FROM areas
), defects AS (
    SELECT {k}, class_id, max(total) AS num_defective, sum(area_px * n) AS area_sum_px,
           min(area_px) FILTER (seen >= 0.50 * total) AS area_p50_px,
           min(area_px) FILTER (seen >= 0.95 * total) AS area_p95_px,
           sum(num_components) AS num_components
    FROM ranked GROUP BY {k}, class_id
), peaks AS (
    SELECT {k}, unnest(peak) AS peak, generate_subscripts(peak, 1) AS class_id FROM predictions
), bins AS (
    SELECT {k}, class_id,
           greatest(0, least({schema.PEAK_BINS - 1}, floor(peak * {schema.PEAK_BINS}))) AS bin,
           count(*) AS n
    FROM peaks GROUP BY ALL
), histograms AS (
    SELECT {k}, class_id,
           list_transform(range({schema.PEAK_BINS}),
                          lambda b: coalesce(map_from_entries(list((bin, n)))[b], 0)) AS histogram
    FROM bins GROUP BY {k}, class_id
)
SELECT {of("c")}, c.class_id::TINYINT AS class_id, c.class_name, {run_id} AS run_id, c.num_images,
       coalesce(d.num_defective, 0)::BIGINT AS num_defective,
       coalesce(d.num_defective, 0) / c.num_images AS defect_rate,
       coalesce(d.area_sum_px, 0)::BIGINT AS area_sum_px,
       d.area_sum_px / d.num_defective AS area_mean_px,
       d.area_p50_px, d.area_p95_px,
       coalesce(d.num_components, 0)::BIGINT AS num_components,
       h.histogram AS peak_histogram
FROM classes c
LEFT JOIN defects d ON {same("d")} AND d.class_id = c.class_id
LEFT JOIN histograms h ON {same("h")} AND h.class_id = c.class_id
ORDER BY {", ".join(f"c.{key} NULLS FIRST" for key in keys)}, c.class_id
"""  # noqa: S608 - names and expressions of ours


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
        sql = summary_sql(["line"], names="CROSS JOIN class_names", run_id="?")
        found = con.sql(sql, params=[run_id]).to_arrow_table()
    return found.cast(schema.CLASS_SUMMARIES)
