"""What each column of the views means; the tables' own are described where they are."""

from __future__ import annotations

from typing import Final

from steel_batch import layout
from steel_batch.answers import views
from steel_batch.tables.columns import COLUMNS as OF_TABLES
from steel_batch.tables.columns import Column

_PREDICTIONS: Final = OF_TABLES[layout.PREDICTIONS]
_SUMMARIES: Final = OF_TABLES[layout.CLASS_SUMMARIES]
_IMAGE: Final = ("engine", "date", "line", "image_key", "image_id")
_IF_KNOWN: Final = "; null where the pixel size is not given"
_THRESHOLD: Final = Column(
    "the engine's threshold of the class; null where its card is not in the store", "0 to 1", "0.5"
)

COLUMNS: Final[dict[str, dict[str, Column]]] = {
    layout.PREDICTIONS: {
        **_PREDICTIONS,
        "width_mm": Column(f"width of the image on the strip{_IF_KNOWN}", "mm", "560.0"),
        "height_mm": Column(f"its height{_IF_KNOWN}", "mm", "89.6"),
    },
    views.DEFECTS: {
        **{name: _PREDICTIONS[name] for name in (*_IMAGE, "tags", "width", "height", "run_id")},
        "scored_at": _PREDICTIONS["scored_at"],
        "class_id": _SUMMARIES["class_id"],
        "class_name": _SUMMARIES["class_name"],
        "threshold": _THRESHOLD,
        "peak": Column("highest probability of the class on the image", "0 to 1", "0.97"),
        "area_px": Column("its pixels", "px", "7266"),
        "num_components": Column("its connected pieces (8-connected)", "", "2"),
        "x_px": Column("left edge of its box, from 0", "px", "412"),
        "y_px": Column("top edge of its box, from 0", "px", "17"),
        "w_px": Column("width of its box", "px", "96"),
        "h_px": Column("height of its box", "px", "120"),
        "area_mm2": Column(f"its area{_IF_KNOWN}", "mm²", "890.1"),
        "x_mm": Column(f"left edge of its box{_IF_KNOWN}", "mm", "144.2"),
        "y_mm": Column(f"top edge of its box{_IF_KNOWN}", "mm", "5.95"),
        "w_mm": Column(f"width of its box{_IF_KNOWN}", "mm", "33.6"),
        "h_mm": Column(f"height of its box{_IF_KNOWN}", "mm", "42.0"),
        "rle": Column("its mask as run-lengths, from 1, down each column and then right"),
    },
    views.PEAKS: {
        **{name: _PREDICTIONS[name] for name in (*_IMAGE, "run_id")},
        "class_id": _SUMMARIES["class_id"],
        "class_name": _SUMMARIES["class_name"],
        "threshold": _THRESHOLD,
        "peak": Column("highest probability of the class on the image", "0 to 1", "0.48"),
        "margin": Column("`peak` minus `threshold`; near 0 is doubtful", "", "-0.02"),
        "is_found": Column("whether the class is among the image's defects", "", "false"),
    },
    layout.CLASS_SUMMARIES: _SUMMARIES,
    views.LINE_SUMMARIES: {
        **{name: _SUMMARIES[name] for name in ("engine", "date", "line", "run_id", "num_images")},
        "num_found": Column("findings: an image counts once per class found on it", "", "58"),
        "area_sum_px": Column("pixels of all classes over all images", "px", "401332"),
        "num_components": Column("connected pieces of all classes over all images", "", "131"),
    },
    layout.QUARANTINE: OF_TABLES[layout.QUARANTINE],
    views.RUNS: {
        "run_id": Column("the run", "", "2026-11-21-demo-b68b94c6c92f-0001"),
        "engine": Column("engine that it scored with", "", "demo-b68b94c6c92f"),
        "date": Column("date that it scored", "", "2026-11-21"),
        "state": Column(
            "committed, running, failed, interrupted, killed, unplanned or abandoned; of a past "
            "moment: committed, unfinished or abandoned",
            "",
            "committed",
        ),
        "reason": Column("why it is not committed"),
        "created_at": Column("when its plan was made", "UTC", "2026-11-22 01:30:55"),
        "num_images": Column("images of its plan", "images", "100"),
        "num_scored": Column("of those, the ones that have rows", "images", "99"),
        "num_quarantined": Column("of those, the ones that could not be scored", "images", "1"),
        "num_shards": Column("shards of its plan", "", "7"),
        "num_resumed_images": Column("images that earlier attempts scored", "images", "0"),
        "seconds": Column("what the attempt took that ended it", "s", "41.7"),
        "startup_seconds": Column("of those, until the first shard was done", "s", "9.1"),
        "images_per_second": Column("rate between the first and the last shard", "1/s", "131.0"),
        "table_version": Column(
            "version of the predictions that has its rows, as for `--as-of`", "", "12"
        ),
        "settings": Column("what its plan depends on", "", "settings['shard_images']"),
        "config": Column("every setting it was given", "", "config['runtime']"),
        "environment": Column("host and versions", "", "environment['host']"),
    },
    views.ENGINES: {
        "engine": Column("its name, as in the other views", "", "demo-b68b94c6c92f"),
        "model": Column("the model it is a version of", "", "demo"),
        "created": Column("when it was made", "UTC", "2026-11-23 19:59:32"),
        "aliases": Column("aliases that mean it", "", "[production]"),
        "classes": Column("names of its classes, the first being class 1", "", "[pits, lines]"),
        "thresholds": Column("per class", "0 to 1", "[0.5, 0.5]"),
        "width": Column("width of its input", "px", "1600"),
        "height": Column("height of its input", "px", "256"),
        "precisions": Column("precisions that it has graphs for", "", "[fp32, fp16]"),
        "figures": Column(
            "numbers of its card, by name; of a class by the class's name", "",
            "figures['scratches.recall']",
        ),
        "problem": Column("why there is no card to read the others from"),
    },
    views.CURRENT: {
        "date": Column("a date that has rows", "", "2026-11-21"),
        "engine": Column(
            "the one that `production` meant when a run of the date was planned, or else the one "
            "with the newest run",
            "",
            "demo-b68b94c6c92f",
        ),
        "run_id": Column("its run that decided it", "", "2026-11-21-demo-b68b94c6c92f-0001"),
        "why": Column("is production, was production, became production, or newest"),
    },
}  # fmt: skip
"""Per view, in the order of its columns."""
