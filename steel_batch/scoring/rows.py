"""From what the engine says of a shard's images to rows and quarantine entries."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import schema
from steel_batch.engine.contract import Provenance
from steel_batch.errors import ImageError
from steel_batch.runs.receipt import QuarantinedImage
from steel_batch.scoring.description import DEFECTS, joined

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Result of the engine and the post-processing for some images."""

    shapes: Sequence[Shape | ImageError]
    """Height and width of each source, or the image's error."""
    peak_NC: npt.NDArray[np.float32]
    described: Sequence[bytes | memoryview]
    """What a `Describer` says of them: a stream for each batch (`description`)."""
    gpu_decoders: Sequence[str | None]
    """Per image, what decoded it on the GPU; None if the CPU did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBy:
    """What scored some images: the same for every shard of an actor."""

    provenance: Provenance
    cpu_decoder: str
    """What decodes on the CPU."""
    scorer: str
    """Host, runtime and device, for receipts."""
    num_classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredShard:
    """One shard between its last batch and its receipt."""

    run_id: str
    plan_digest: str
    shard: int
    refs: pa.Table
    """The plan's rows of the shard."""
    scores: Scores
    scored_by: ScoredBy
    scored_at: str
    """When, in UTC, in ISO format."""
    started_seconds: float
    """When its scoring began, by `time.monotonic`: one clock for all processes of a machine."""

    def to_parts(self) -> list[Any]:
        """Serialise it for another process: pieces that `from_bytes` takes as one."""
        scores = self.scores
        shapes = [
            (shape.code, shape.message) if isinstance(shape, ImageError) else shape
            for shape in scores.shapes
        ]
        refs = pa.BufferOutputStream()
        with pa.ipc.new_stream(refs, self.refs.schema) as writer:
            writer.write_table(self.refs)
        parts = [refs.getvalue(), scores.peak_NC.tobytes(), *scores.described]
        head = {
            "run_id": self.run_id,
            "plan_digest": self.plan_digest,
            "shard": self.shard,
            "scored_by": dataclasses.asdict(self.scored_by),
            "scored_at": self.scored_at,
            "started_seconds": self.started_seconds,
            "shapes": shapes,
            "gpu_decoders": scores.gpu_decoders,
            "parts": [len(part) for part in parts],
        }
        text = json.dumps(head).encode()
        return [len(text).to_bytes(8, "little"), text, *parts]

    @classmethod
    def from_bytes(cls, content: bytes) -> ScoredShard:
        """Read back `to_parts`, joined; large parts are not copied."""
        edge = 8 + int.from_bytes(content[:8], "little")
        head = json.loads(content[8:edge])
        view, parts = memoryview(content), []
        for num_bytes in head.pop("parts"):
            parts.append(view[edge : edge + num_bytes])
            edge += num_bytes
        refs, peaks, *described = parts
        by = head.pop("scored_by")
        shapes = [
            ImageError(second, code=first) if isinstance(first, str) else (first, second)
            for first, second in head.pop("shapes")
        ]
        scores = Scores(
            shapes=shapes,
            peak_NC=np.frombuffer(peaks, np.float32).reshape(len(shapes), by["num_classes"]),
            described=described,
            gpu_decoders=head.pop("gpu_decoders"),
        )
        return cls(
            refs=pa.ipc.open_stream(refs).read_all(),
            scores=scores,
            scored_by=ScoredBy(**{**by, "provenance": Provenance(**by["provenance"])}),
            **head,
        )


def rows_of(shard: ScoredShard) -> pa.Table:
    """The rows of the images that were scored, in their order."""
    scores, made_by = shard.scores, shard.scored_by.provenance
    good = [i for i, shape in enumerate(scores.shapes) if not isinstance(shape, ImageError)]
    shapes = [shape for shape in scores.shapes if not isinstance(shape, ImageError)]
    decoders = [scores.gpu_decoders[i] for i in good]
    places, num = pa.array(good, pa.int64()), len(good)
    taken, described = shard.refs.take(places), joined(scores.described).take(places)
    peak_NC = scores.peak_NC[good]
    offsets = np.arange(num + 1, dtype=np.int32) * peak_NC.shape[1]
    columns = {name: taken[name] for name in taken.column_names}
    columns |= {name: described[name] for name in described.column_names}
    columns |= {
        "width": [width for _, width in shapes],
        "height": [height for height, _ in shapes],
        "run_id": [shard.run_id] * num,
        "scored_at": [datetime.datetime.fromisoformat(shard.scored_at)] * num,
        "has_defect": pc.greater(pc.list_value_length(described[DEFECTS]), 0),
        "peak": pa.ListArray.from_arrays(offsets, peak_NC.ravel()),
        "runtime": [made_by.runtime] * num,
        "runtime_version": [made_by.runtime_version] * num,
        "precision": [made_by.precision] * num,
        "device": [made_by.device] * num,
        "decode_on": ["cpu" if decoder is None else "gpu" for decoder in decoders],
        "decoder": [decoder or shard.scored_by.cpu_decoder for decoder in decoders],
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
