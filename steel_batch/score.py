"""From a shard's bytes to its staged rows and receipt: the score stage, without Ray.

Threads overlap what the hardware can do at once: while one batch is on the device, others are
decoded and post-processed. Only images with pixels over a threshold are post-processed.
"""

from __future__ import annotations

import datetime
import io
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from steel_batch import schema
from steel_batch.components import Defect, describe_defects
from steel_batch.decode import Image, fit_to, load_decoder, mask_to_source
from steel_batch.engine.contract import Card, Runtime, Slot
from steel_batch.errors import DecodeError, ImageError
from steel_batch.isolate import SECONDS_PER_IMAGE, decode_isolated
from steel_batch.lake import Lake
from steel_batch.read import ShardInput
from steel_batch.receipt import QuarantinedImage, Receipt, put_receipt, stage
from steel_batch.watchdog import Watchdog

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredImage:
    """What the engine and the post-processing say of one image."""

    height: int
    width: int
    peak_C: npt.NDArray[np.float32]
    defects: Sequence[Defect]


class ShardScorer:
    """Scores shards with one loaded engine. Thread-safe: several shards may be in work at once.

    Args:
        runtime: The loaded engine; closed by `close`.
        card: Its card.
        store: Where rows are staged and receipts are put.
        decoder: The ``module:function`` that decodes.
        decode_seconds: How long it may take for one image: beyond that this process ends itself,
            or, if images are isolated, the image is quarantined. None: as long as it likes, or as
            `isolate` sets.
        num_threads: Threads that decode and post-process.
    """

    def __init__(
        self,
        runtime: Runtime,
        card: Card,
        store: Lake,
        *,
        decoder: str,
        num_threads: int,
        decode_seconds: float | None = None,
    ) -> None:
        self._runtime = runtime
        self._card = card
        self._store = store
        self._decoder_name = decoder
        self._decode = load_decoder(decoder)
        self._decode_seconds = decode_seconds or SECONDS_PER_IMAGE
        self._watchdog = Watchdog(self._decode, decode_seconds) if decode_seconds else None
        self._num_threads = num_threads
        self._workers = ThreadPoolExecutor(num_threads, "decode")
        self._batches = ThreadPoolExecutor(runtime.num_slots, "batch")
        self._scorer = f"{socket.gethostname()}: {runtime.description}"

    def score(self, shard: ShardInput, *, isolated: bool = False) -> Receipt:
        """Score a shard, stage its rows and put its receipt.

        Args:
            shard: The images' bytes.
            isolated: Decode in child processes, because the shard killed a process before.

        Returns:
            The receipt that stands, which may be another attempt's.

        Raises:
            LakeError: The store could not be written; nothing of the shard counts.
        """
        started = time.monotonic()
        images = self.score_images(shard, isolated=isolated)
        now = datetime.datetime.now(datetime.timezone.utc)
        rows = self._table(shard, images, now)
        key, sha256, num_bytes = None, "", 0
        if rows.num_rows:
            sink = io.BytesIO()
            pq.write_table(rows, sink, compression="zstd")
            key, sha256 = stage(self._store, shard.run_id, shard.shard, sink.getvalue())
            num_bytes = sink.tell()
        found = [image for image in images if isinstance(image, ScoredImage)]
        return put_receipt(
            self._store,
            Receipt(
                run_id=shard.run_id,
                plan_digest=shard.plan_digest,
                shard=shard.shard,
                num_images=len(images),
                num_rows=rows.num_rows,
                staged=key,
                staged_bytes=num_bytes,
                staged_sha256=sha256,
                num_defective=tuple(
                    sum(any(d.class_id == c + 1 for d in image.defects) for image in found)
                    for c in range(len(self._card.classes))
                ),
                quarantined=tuple(_quarantined(shard.refs, images)),
                seconds=round(time.monotonic() - started, 3),
                scored_at=now.isoformat(),
                scorer=self._scorer,
            ),
        )

    def score_images(
        self, shard: ShardInput, *, isolated: bool = False
    ) -> list[ScoredImage | ImageError]:
        """What the engine says of each image of a shard, or why it cannot say anything."""
        sources: Sequence[Callable[[], Image]]
        if isolated:
            known = [i for i, error in enumerate(shard.errors) if error is None]
            contents = [shard.contents[i].as_py() for i in known]
            results = decode_isolated(
                contents, self._decoder_name, seconds_per_image=self._decode_seconds
            )
            decoded = dict(zip(known, results, strict=True))
            sources = [partial(_raise_or_return, decoded.get(i)) for i in range(len(shard.refs))]
        else:
            sources = [partial(self._decode_scalar, shard, i) for i in range(len(shard.refs))]
        size = self._runtime.batch_size
        starts = range(0, len(sources), size)
        parts: list[Future[list[ScoredImage | ImageError]]] = [
            self._batches.submit(
                self._score_batch, sources[i : i + size], shard.errors[i : i + size]
            )
            for i in starts
        ]
        return [image for part in parts for image in part.result()]

    def close(self) -> None:
        """Stop the threads and free the engine."""
        self._batches.shutdown(cancel_futures=True)
        self._workers.shutdown(cancel_futures=True)
        if self._watchdog is not None:
            self._watchdog.close()
        self._runtime.close()

    def _decode_scalar(self, shard: ShardInput, index: int) -> Image:
        return (self._watchdog or self._decode)(shard.contents[index].as_buffer())

    def _score_batch(
        self, sources: Sequence[Callable[[], Image]], errors: Sequence[ImageError | None]
    ) -> list[ScoredImage | ImageError]:
        with self._runtime.acquire() as slot:
            shapes = self._each(
                len(sources), lambda i: errors[i] or self._load(slot, i, sources[i])
            )
            output = slot.infer(len(sources))
            return self._each(
                len(sources),
                lambda i: self._describe(
                    shapes[i], output.mask_NHW[i], output.peak_NC[i], output.count_NC[i]
                ),
            )

    def _each(self, num: int, work: Callable[[int], T]) -> list[T]:
        """Do `work` for each index on the threads, several indices to a task."""
        step = max(1, -(-num // self._num_threads))

        def work_some(start: int) -> list[T]:
            return [work(i) for i in range(start, min(start + step, num))]

        tasks = [self._workers.submit(work_some, start) for start in range(0, num, step)]
        return [result for task in tasks for result in task.result()]

    def _load(
        self, slot: Slot, index: int, source: Callable[[], Image]
    ) -> tuple[int, int] | ImageError:
        """Put one image into the slot; its source's height and width, or what is wrong with it."""
        card = self._card
        try:
            image_HW = source()
            shape = image_HW.shape
            slot.image_NHW[index] = fit_to(
                image_HW, card.height, card.width, card.post_process.resize
            )
        except ImageError as error:
            slot.image_NHW[index] = 0
            return error
        return int(shape[0]), int(shape[1])

    def _describe(
        self,
        shape: tuple[int, int] | ImageError,
        mask_HW: Image,
        peak_C: npt.NDArray[np.float32],
        count_C: npt.NDArray[np.float32],
    ) -> ScoredImage | ImageError:
        if isinstance(shape, ImageError):
            return shape
        height, width = shape
        defects: Sequence[Defect] = ()
        if count_C.any():
            if mask_HW.shape != shape:
                mask_HW = mask_to_source(mask_HW, height, width)
            defects = describe_defects(mask_HW, peak_C, count_C, self._card.post_process)
        return ScoredImage(height=height, width=width, peak_C=peak_C.copy(), defects=defects)

    def _table(
        self,
        shard: ShardInput,
        images: Sequence[ScoredImage | ImageError],
        now: datetime.datetime,
    ) -> pa.Table:
        good = [i for i, image in enumerate(images) if isinstance(image, ScoredImage)]
        found = [image for image in images if isinstance(image, ScoredImage)]
        taken = shard.refs.take(good) if good else shard.refs.slice(0, 0)
        columns = {name: taken[name] for name in taken.column_names}
        columns |= {
            "width": [image.width for image in found],
            "height": [image.height for image in found],
            "run_id": [shard.run_id] * len(found),
            "scored_at": [now] * len(found),
            "has_defect": [bool(image.defects) for image in found],
            "peak": [image.peak_C for image in found],
            "defects": [[defect.to_row() for defect in image.defects] for image in found],
        }
        arrays = [
            columns[field.name].cast(field.type)
            if isinstance(columns[field.name], pa.ChunkedArray)
            else pa.array(columns[field.name], field.type)
            for field in schema.PREDICTIONS
        ]
        return pa.table(arrays, schema=schema.PREDICTIONS)


def _raise_or_return(image: Image | ImageError | None) -> Image:
    if image is None or isinstance(image, ImageError):
        raise image or DecodeError("the image was not read.")
    return image


def _quarantined(
    refs: pa.Table, images: Sequence[ScoredImage | ImageError]
) -> list[QuarantinedImage]:
    found = []
    for i, image in enumerate(images):
        if isinstance(image, ImageError):
            found.append(
                QuarantinedImage(
                    image_key=refs["image_key"][i].as_py(),
                    error_code=image.code,
                    message=image.message,
                    bytes=refs["bytes"][i].as_py(),
                    etag=refs["etag"][i].as_py(),
                )
            )
    return found
