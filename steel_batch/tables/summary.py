"""Class summaries: what one engine found on one date, per line and class.

Rows are counted in chunks, and the counts are added up: areas are counted by value (an area is at
most an image's pixels), so quantiles are exact and memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from steel_batch import interrupt, schema
from steel_batch.database import scratch_database

if TYPE_CHECKING:
    import duckdb

CHUNK_ROWS: Final = 1 << 17
"""How many predictions are counted at once."""


def summary_sql(keys: Sequence[str], *, names: str, run_id: str) -> str:
    """The query that aggregates a relation `predictions` per line and class.

    Args:
        keys: The columns that rows are grouped by next to the class, the line being the last.
        names: The names of the classes: a relation of `class_id`, `class_name` and those keys that
            they differ by, joined in (``CROSS JOIN …``).
        run_id: An expression over the keys: the run that the summary is of.
    """
    counts = ", ".join(f"{name} AS ({sql})" for name, sql in _counts_sql(keys).items())
    return f"WITH {counts}, {_from_counts_sql(keys, names=names, run_id=run_id)}"


def _counts_sql(keys: Sequence[str]) -> dict[str, str]:
    """What a summary is computed from: counts of a relation `predictions`, which can be added."""
    k = ", ".join(keys)
    return {
        "images": f"SELECT {k}, count(*) AS num_images FROM predictions GROUP BY {k}",  # noqa: S608 - names of ours
        "areas": f"""
    SELECT {k}, d.class_id AS class_id, d.area_px AS area_px, count(*) AS n,
           sum(d.num_components)::BIGINT AS num_components
    FROM (SELECT {k}, unnest(defects) AS d FROM predictions WHERE has_defect) GROUP BY ALL
""",  # noqa: S608 - names of ours
        "bins": f"""
    SELECT {k}, class_id,
           greatest(0, least({schema.PEAK_BINS - 1}, floor(peak * {schema.PEAK_BINS}))) AS bin,
           count(*) AS n
    FROM (
        SELECT {k}, unnest(peak) AS peak, generate_subscripts(peak, 1) AS class_id FROM predictions
    ) GROUP BY ALL
""",  # noqa: S608 - names of ours
    }


_SUMS: Final = {
    "images": "sum(num_images)::BIGINT AS num_images",
    "areas": "class_id, area_px, sum(n)::BIGINT AS n, "
    "sum(num_components)::BIGINT AS num_components",
    "bins": "class_id, bin, sum(n)::BIGINT AS n",
}
"""How counts of several chunks are added up."""


def _from_counts_sql(keys: Sequence[str], *, names: str, run_id: str) -> str:
    """The rest of the query, after its ``WITH``."""
    k = ", ".join(keys)

    def of(alias: str) -> str:
        return ", ".join(f"{alias}.{key}" for key in keys)

    def same(alias: str) -> str:
        return " AND ".join(f"{alias}.{key} IS NOT DISTINCT FROM c.{key}" for key in keys)

    return f"""
classes AS (
    SELECT {k}, class_id, class_name, num_images FROM images {names}
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
    predictions: Iterable[pa.RecordBatch],
    classes: Sequence[str],
    run_id: str,
    *,
    chunk_rows: int = CHUNK_ROWS,
) -> pa.Table:
    """Aggregate predictions per line and class.

    Args:
        predictions: `FIELDS` of the predictions; read once, never held in memory.
        classes: Names of the classes, starting with class 1.
        run_id: The run that makes the summary.
        chunk_rows: How many predictions are counted at once.

    Returns:
        A table of `schema.CLASS_SUMMARIES`, one row per line and class, including those without a
        defect; sorted by line and class.
    """
    with scratch_database() as con:
        names = pa.table({"class_id": range(1, len(classes) + 1), "class_name": list(classes)})
        con.register("class_names", names)
        counts = _counts_sql(["line"])
        con.register("predictions", FIELDS.empty_table())
        for name, sql in counts.items():
            con.execute(f"CREATE TABLE {name} AS {sql}")
        num_rows, most = 0, 2 * chunk_rows
        for chunk in _chunks(predictions, chunk_rows):
            con.register("predictions", chunk)
            for name, sql in counts.items():
                [(more,)] = con.execute(f"INSERT INTO {name} {sql}").fetchall()
                num_rows += more
            if num_rows > most:
                num_rows = _add_up(con)
                most = 2 * max(chunk_rows, num_rows)
        _add_up(con)
        sql = _from_counts_sql(["line"], names="CROSS JOIN class_names", run_id="?")
        found = con.sql(f"WITH {sql}", params=[run_id]).to_arrow_table()
    return found.cast(schema.CLASS_SUMMARIES)


def _chunks(predictions: Iterable[pa.RecordBatch], chunk_rows: int) -> Iterator[pa.Table]:
    batches: list[pa.RecordBatch] = []
    num_rows = 0
    for batch in predictions:
        interrupt.check()
        batches.append(batch)
        num_rows += batch.num_rows
        if num_rows >= chunk_rows:
            yield pa.Table.from_batches(batches, FIELDS)
            batches, num_rows = [], 0
    yield pa.Table.from_batches(batches, FIELDS)


def _add_up(con: duckdb.DuckDBPyConnection) -> int:
    """Add up the counts of all chunks; return how many are left."""
    num_rows = 0
    for name, sums in _SUMS.items():
        con.execute(f"CREATE TABLE sums AS SELECT line, {sums} FROM {name} GROUP BY ALL")  # noqa: S608 - ours
        con.execute(f"DROP TABLE {name}; ALTER TABLE sums RENAME TO {name}")
        [(more,)] = con.execute(f"SELECT count(*) FROM {name}").fetchall()  # noqa: S608 - ours
        num_rows += more
    return num_rows
