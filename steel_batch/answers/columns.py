"""The meaning of each column of the views; those of the tables are described with the tables."""

from __future__ import annotations

from typing import Final

from steel_batch import layout
from steel_batch.answers import views
from steel_batch.tables.columns import COLUMNS as OF_TABLES
from steel_batch.tables.columns import Column

_PREDICTIONS: Final = OF_TABLES[layout.PREDICTIONS]
_SUMMARIES: Final = OF_TABLES[layout.CLASS_SUMMARIES]
_IMAGE: Final = ("engine", "date", "line", "image_key", "image_id")
_IF_KNOWN: Final = "; null if the pixel size is not given"
_THRESHOLD: Final = Column(
    "the engine's threshold for the class; null if its card is not in the store", "0 to 1", "0.5"
)

COLUMNS: Final[dict[str, dict[str, Column]]] = {
    layout.PREDICTIONS: {
        **_PREDICTIONS,
        "width_mm": Column(f"width of the image on the strip{_IF_KNOWN}", "mm", "560.0"),
        "height_mm": Column(f"height of the image on the strip{_IF_KNOWN}", "mm", "89.6"),
    },
    views.DEFECTS: {
        **{name: _PREDICTIONS[name] for name in (*_IMAGE, "tags", "width", "height", "run_id")},
        "scored_at": _PREDICTIONS["scored_at"],
        "class_id": _SUMMARIES["class_id"],
        "class_name": _SUMMARIES["class_name"],
        "threshold": _THRESHOLD,
        "peak": Column("highest probability of the class on the image", "0 to 1", "0.97"),
        "area_px": Column("number of pixels of the defect", "px", "7266"),
        "num_components": Column("number of connected components (8-connected)", "", "2"),
        "x_px": Column("left edge of the bounding box, from 0", "px", "412"),
        "y_px": Column("top edge of the bounding box, from 0", "px", "17"),
        "w_px": Column("width of the bounding box", "px", "96"),
        "h_px": Column("height of the bounding box", "px", "120"),
        "area_mm2": Column(f"area of the defect{_IF_KNOWN}", "mm²", "890.1"),
        "x_mm": Column(f"left edge of the bounding box{_IF_KNOWN}", "mm", "144.2"),
        "y_mm": Column(f"top edge of the bounding box{_IF_KNOWN}", "mm", "5.95"),
        "w_mm": Column(f"width of the bounding box{_IF_KNOWN}", "mm", "33.6"),
        "h_mm": Column(f"height of the bounding box{_IF_KNOWN}", "mm", "42.0"),
        "rle": Column("mask as run-lengths, from 1, down each column and then right"),
    },
    views.PEAKS: {
        **{name: _PREDICTIONS[name] for name in (*_IMAGE, "run_id")},
        "class_id": _SUMMARIES["class_id"],
        "class_name": _SUMMARIES["class_name"],
        "threshold": _THRESHOLD,
        "peak": Column("highest probability of the class on the image", "0 to 1", "0.48"),
        "margin": Column("`peak` minus `threshold`; a value near 0 is doubtful", "", "-0.02"),
        "is_found": Column("whether the class is among the image's defects", "", "false"),
    },
    layout.CLASS_SUMMARIES: _SUMMARIES,
    views.LINE_SUMMARIES: {
        **{name: _SUMMARIES[name] for name in ("engine", "date", "line", "run_id", "num_images")},
        "num_found": Column("findings: an image counts once per class found on it", "", "58"),
        "area_sum_px": Column("defect pixels of all classes on all images", "px", "401332"),
        "num_components": Column("connected components of all classes on all images", "", "131"),
    },
    layout.QUARANTINE: OF_TABLES[layout.QUARANTINE],
    views.RUNS: {
        "run_id": Column("ID of the run", "", "2026-11-21-demo-b68b94c6c92f-0001"),
        "engine": Column("engine that the run scored with", "", "demo-b68b94c6c92f"),
        "date": Column("date that the run scored", "", "2026-11-21"),
        "state": Column(
            "committed, running, failed, interrupted, killed, unplanned or abandoned; at an "
            "earlier moment: committed, unfinished or abandoned",
            "",
            "committed",
        ),
        "reason": Column("why the run is not committed"),
        "created_at": Column("when the run's plan was made", "UTC", "2026-11-22 01:30:55"),
        "num_images": Column("images of the plan", "images", "100"),
        "num_scored": Column("images of the plan that have a row", "images", "99"),
        "num_quarantined": Column("images of the plan that are quarantined", "images", "1"),
        "num_shards": Column("shards of the plan", "", "7"),
        "num_resumed_images": Column("images that earlier attempts scored", "images", "0"),
        "seconds": Column("duration of the attempt that finished the run", "s", "41.7"),
        "startup_seconds": Column("part of it until the first shard was done", "s", "9.1"),
        "images_per_second": Column("rate between the first and the last shard", "1/s", "131.0"),
        "table_version": Column(
            "version of the predictions table that has the rows, as for `--as-of`", "", "12"
        ),
        "settings": Column("settings that the plan depends on", "", "settings['shard_images']"),
        "config": Column("all settings of the run", "", "config['runtime']"),
        "environment": Column("host and versions of software", "", "environment['host']"),
    },
    views.ENGINES: {
        "engine": Column("name of the engine, as in the other views", "", "demo-b68b94c6c92f"),
        "model": Column("model of which the engine is a version", "", "demo"),
        "created": Column("when the engine was created", "UTC", "2026-11-23 19:59:32"),
        "aliases": Column("aliases that point to the engine", "", "[production]"),
        "classes": Column("names of the classes, from class 1 on", "", "[pits, lines]"),
        "thresholds": Column("threshold of each class", "0 to 1", "[0.5, 0.5]"),
        "width": Column("width of the input", "px", "1600"),
        "height": Column("height of the input", "px", "256"),
        "precisions": Column("precisions of the engine's graphs", "", "[fp32, fp16]"),
        "figures": Column(
            "numbers of the card, by name; for a class, with the class's name", "",
            "figures['scratches.recall']",
        ),
        "problem": Column("why the card cannot be read, if so"),
    },
    views.CURRENT: {
        "date": Column("a date that has rows", "", "2026-11-21"),
        "engine": Column(
            "the engine that `production` pointed to when a run of the date was planned; if there "
            "is none, the one with the newest run",
            "",
            "demo-b68b94c6c92f",
        ),
        "run_id": Column("run that decided it", "", "2026-11-21-demo-b68b94c6c92f-0001"),
        "why": Column("is production, was production, became production, or newest"),
    },
}  # fmt: skip
"""The columns of each view, in their order."""
