"""From what the engine says of a shard's images to rows and quarantine entries."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.engine.contract import Provenance
from steel_batch.errors import ImageError
from steel_batch.images.appearance import MEASURES
from steel_batch.runs.receipt import QuarantinedImage
from steel_batch.scoring.shard import ShardInput

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Result of the engine and the post-processing for some images."""

    shapes: Sequence[Shape | ImageError]
    """Height and width of each source, or the image's error."""
    peak_NC: npt.NDArray[np.float32]
    looks: npt.NDArray[np.float32]
    """Per image, `appearance.MEASURES`."""
    defects: pa.ListArray
    """Per image, values of `schema.DEFECT`."""
    gpu_decoders: Sequence[str | None]
    """Per image, what decoded it on the GPU; None if the CPU did."""


def provenance_columns(
    made_by: Provenance, gpu_decoders: Sequence[str | None], *, cpu_decoder: str
) -> dict[str, list[str]]:
    """The columns of `schema.PROVENANCE` for some images.

    Args:
        made_by: Description of the scorer.
        gpu_decoders: Per image, what decoded it on the GPU; None if the CPU did.
        cpu_decoder: What decodes on the CPU.
    """
    num = len(gpu_decoders)
    return {
        "runtime": [made_by.runtime] * num,
        "runtime_version": [made_by.runtime_version] * num,
        "precision": [made_by.precision] * num,
        "device": [made_by.device] * num,
        "decode_on": ["cpu" if decoder is None else "gpu" for decoder in gpu_decoders],
        "decoder": [decoder or cpu_decoder for decoder in gpu_decoders],
    }


def rows_of(
    shard: ShardInput,
    scores: Scores,
    now: datetime.datetime,
    made_by: Mapping[str, Sequence[str]],
) -> pa.Table:
    """The rows of the images that were scored, in their order.

    Args:
        shard: The images.
        scores: What the engine says of each.
        now: When, in UTC.
        made_by: `provenance_columns`.
    """
    good = [i for i, shape in enumerate(scores.shapes) if not isinstance(shape, ImageError)]
    shapes = [shape for shape in scores.shapes if not isinstance(shape, ImageError)]
    places = pa.array(good, pa.int64())
    taken, defects = shard.refs.take(places), scores.defects.take(places)
    peak_NC = scores.peak_NC[good]
    offsets = np.arange(len(good) + 1, dtype=np.int32) * peak_NC.shape[1]
    columns = {name: taken[name] for name in taken.column_names}
    columns |= {
        "width": [width for _, width in shapes],
        "height": [height for height, _ in shapes],
        "run_id": [shard.run_id] * len(good),
        "scored_at": [now] * len(good),
        "has_defect": pc.greater(pc.list_value_length(defects), 0),
        "peak": pa.ListArray.from_arrays(offsets, peak_NC.ravel()),
        "defects": defects,
        **dict(zip(MEASURES, scores.looks[good].T, strict=True)),
        **{name: [values[i] for i in good] for name, values in made_by.items()},
    }
    arrays = [_as(columns[field.name], field.type) for field in schema.PREDICTIONS]
    return pa.table(arrays, schema=schema.PREDICTIONS)


def _as(column: Any, kind: pa.DataType) -> Any:
    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        return pa.array(column, kind)
    return column if column.type == kind else column.cast(kind)


def quarantined_of(refs: pa.Table, shapes: Sequence[Shape | ImageError]) -> list[QuarantinedImage]:
    """The quarantine entries of the images that could not be scored."""
    return [
        QuarantinedImage(
            image_key=refs["image_key"][i].as_py(),
            error_code=image.code,
            message=image.message,
            bytes=refs["bytes"][i].as_py(),
            etag=refs["etag"][i].as_py(),
        )
        for i, image in enumerate(shapes)
        if isinstance(image, ImageError)
    ]
