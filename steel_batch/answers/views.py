"""The names that a query may use: the tables of a store, and views that explain them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from steel_batch import layout
from steel_batch.answers.pixel_size import PixelSizes, size_sql

DEFECTS: Final = "defects"
PEAKS: Final = "peaks"
LINE_SUMMARIES: Final = "line_summaries"
RUNS: Final = "runs"
ENGINES: Final = "engines"
CURRENT: Final = "current"

STORED: Final = "predictions_as_stored"
"""The rows of the table `predictions`; the view `predictions` adds columns to them."""


@dataclass(frozen=True, slots=True)
class View:
    """One table or view that a query may use."""

    meaning: str
    needs: tuple[str, ...] = ()
    """The views that it is built from."""


VIEWS: Final[dict[str, View]] = {
    layout.PREDICTIONS: View("a row per image scored by an engine"),
    DEFECTS: View("a row per image and class found on it", (layout.PREDICTIONS,)),
    PEAKS: View("a row per image and class, found or not", (layout.PREDICTIONS,)),
    layout.CLASS_SUMMARIES: View("a row per line and class of a date; images count once per class"),
    LINE_SUMMARIES: View("a row per line of a date; images count once", (layout.CLASS_SUMMARIES,)),
    layout.QUARANTINE: View("a row per image that could not be scored"),
    RUNS: View("a row per run: how it ended, its settings, its speed"),
    ENGINES: View("a row per engine: its aliases, classes and figures"),
    CURRENT: View("a row per date: the engine whose rows count"),
}
"""The views in the order of the help."""


def defects_sql(sizes: PixelSizes) -> str:
    """Return the SQL of the view `defects`, over `predictions` and `internal.classes`."""
    x_mm, y_mm = (size_sql(sizes, axis, "f.line") for axis in "xy")
    return f"""
SELECT f.engine, f.date, f.line, f.image_key, f.image_id, f.tags, f.width, f.height, f.run_id,
       f.scored_at, f.d.class_id AS class_id, c.class_name, c.threshold, f.d.peak AS peak,
       f.d.area_px AS area_px, f.d.num_components AS num_components,
       f.d.bbox.x AS x_px, f.d.bbox.y AS y_px, f.d.bbox.w AS w_px, f.d.bbox.h AS h_px,
       f.d.area_px * {x_mm} * {y_mm} AS area_mm2,
       f.d.bbox.x * {x_mm} AS x_mm, f.d.bbox.y * {y_mm} AS y_mm,
       f.d.bbox.w * {x_mm} AS w_mm, f.d.bbox.h * {y_mm} AS h_mm, f.d.rle AS rle
FROM (
    SELECT engine, date, line, image_key, image_id, tags, width, height, run_id, scored_at,
           unnest(defects) AS d
    FROM predictions WHERE has_defect
) f LEFT JOIN internal.classes c ON c.engine = f.engine AND c.class_id = f.d.class_id
"""  # noqa: S608 - numbers and names of lines, which are quoted


def predictions_sql(sizes: PixelSizes) -> str:
    """Return the SQL of the view `predictions`: the table's rows, with sizes in mm if known."""
    x_mm, y_mm = (size_sql(sizes, axis, "line") for axis in "xy")
    return f"SELECT *, width * {x_mm} AS width_mm, height * {y_mm} AS height_mm FROM {STORED}"  # noqa: S608 - as above


PEAKS_SQL: Final = """
SELECT i.engine, i.date, i.line, i.image_key, i.image_id, i.run_id, i.class_id::TINYINT AS class_id,
       c.class_name, c.threshold, i.peak, i.peak - c.threshold AS margin,
       list_contains(i.found, i.class_id::TINYINT) AS is_found
FROM (
    SELECT engine, date, line, image_key, image_id, run_id, unnest(peak) AS peak,
           generate_subscripts(peak, 1) AS class_id,
           list_transform(defects, lambda d: d.class_id) AS found
    FROM predictions
) i LEFT JOIN internal.classes c ON c.engine = i.engine AND c.class_id = i.class_id
"""
LINE_SUMMARIES_SQL: Final = """
SELECT engine, date, line, any_value(run_id) AS run_id, any_value(num_images) AS num_images,
       sum(num_defective)::BIGINT AS num_found, sum(area_sum_px)::BIGINT AS area_sum_px,
       sum(num_components)::BIGINT AS num_components
FROM class_summaries GROUP BY engine, date, line
"""
