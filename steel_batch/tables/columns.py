"""What each column of the tables means, for people; the reference page is generated from this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from steel_batch import layout


@dataclass(frozen=True, slots=True)
class Column:
    """One column, as the reference shows it."""

    meaning: str
    unit: str = ""
    example: str = ""


_ENGINE: Final = Column("engine that scored the image; in the path", "", "demo-b68b94c6c92f")
_DATE: Final = Column("date of the image; in the path", "", "2026-11-21")
_RUN: Final = Column("run that wrote the row", "", "2026-11-21-demo-b68b94c6c92f-0001")
_ROWS: Final = ", from some of its rows, at the engine's size"

COLUMNS: Final[dict[str, dict[str, Column]]] = {
    layout.PREDICTIONS: {
        "engine": _ENGINE,
        "date": _DATE,
        "image_key": Column(
            "the image's key under `--images`", "", "line=1/date=2026-11-21/im00001.jpg"
        ),
        "image_id": Column("image ID, from the key pattern", "", "im00001"),
        "line": Column("the production line, from the key pattern", "", "1"),
        "tags": Column("other placeholders of the key pattern", "", "{camera: top}"),
        "width": Column("width of the source image", "px", "1600"),
        "height": Column("height of the source image", "px", "256"),
        "bytes": Column("size of the compressed image", "bytes", "104857"),
        "etag": Column("the object's etag when it was scored"),
        "run_id": _RUN,
        "scored_at": Column("when it was scored", "UTC", "2026-11-22 01:31:07.123456"),
        "has_defect": Column("true if `defects` has an entry", "", "true"),
        "peak": Column(
            "highest probability per class, even if no pixel exceeds the threshold",
            "0 to 1",
            "[0.02, 0.00, 0.97, 0.11]",
        ),
        "defects": Column("one entry per class that was found; see below"),
        "runtime": Column("runtime that ran the engine", "", "tensorrt"),
        "runtime_version": Column("version of the runtime", "", "8.5.3.1"),
        "precision": Column("precision of the graph or compiled plan that ran", "", "fp16"),
        "device": Column("GPU or CPU that the engine ran on", "", "NVIDIA H200"),
        "decode_on": Column("where the image was decoded, `gpu` or `cpu`", "", "gpu"),
        "decoder": Column("decoder of the image, with its version", "", "nvjpeg 13.0.0"),
        "brightness": Column(f"mean of the pixels{_ROWS}", "gray levels, 0 to 255", "92.4"),
        "contrast": Column(f"standard deviation of the pixels{_ROWS}", "gray levels", "31.7"),
        "sharpness": Column(
            f"mean difference of neighbouring pixels of a row{_ROWS}", "gray levels", "5.2"
        ),
    },
    layout.CLASS_SUMMARIES: {
        "engine": _ENGINE,
        "date": _DATE,
        "line": Column("the production line", "", "1"),
        "class_id": Column("the class, from 1", "", "3"),
        "class_name": Column("name of the class, from the engine's card", "", "scratches"),
        "run_id": _RUN,
        "num_images": Column("images of the line that were scored", "images", "100"),
        "num_defective": Column("images on which the class was found", "images", "31"),
        "defect_rate": Column("`num_defective` / `num_images`", "0 to 1", "0.31"),
        "area_sum_px": Column("pixels of the class over all images", "px", "225246"),
        "area_mean_px": Column("mean area of images that have the class", "px", "7266.0"),
        "area_p50_px": Column("lower median of the same areas: a measured area", "px", "7266"),
        "area_p95_px": Column("95th percentile of the same areas: a measured area", "px", "14120"),
        "num_components": Column("connected components on all images", "", "58"),
        "peak_histogram": Column(
            "images by `peak` of the class, in 20 equal bins from 0 to 1", "images"
        ),
    },
    layout.QUARANTINE: {
        "engine": _ENGINE,
        "date": _DATE,
        "image_key": Column(
            "the image's key under `--images`", "", "line=1/date=2026-11-21/im00001.jpg"
        ),
        "error_code": Column("why the image could not be scored, as a code", "", "truncated"),
        "message": Column("why the image could not be scored, as a message"),
        "bytes": Column("size of the file as read", "bytes", "52000"),
        "etag": Column("the object's etag when it was read"),
        "run_id": _RUN,
        "at": Column("when it was quarantined", "UTC", "2026-11-22 01:31:07.123456"),
    },
}
"""Per table, in schema order, with the partition columns first."""
