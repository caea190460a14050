"""From a shard's bytes to its staged rows and receipt: the score stage, without Ray.

Threads overlap what the hardware can do at once: while one batch is on the device, other batches
are decoded and post-processed. Only images with pixels above a threshold are post-processed.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, Final, TypeVar

import cv2
import numpy as np

from steel_batch.config import INFER_SECONDS, LIMITS, DecodeSettings, Limits
from steel_batch.engine.contract import Runtime, Slot
from steel_batch.engine.ring import SlotRing
from steel_batch.errors import ImageError
from steel_batch.images.decode import Image, decode_gray, fit_to, load_decoder
from steel_batch.images.isolate import SECONDS_PER_IMAGE, decode_isolated
from steel_batch.images.watchdog import Unwatched, Watchdog
from steel_batch.lake import Lake
from steel_batch.registry.card import Card
from steel_batch.runs.receipt import Receipt
from steel_batch.scoring.batch_threads import BatchThreads
from steel_batch.scoring.children import NONE, Children
from steel_batch.scoring.describer import Describer, LocalDescriber
from steel_batch.scoring.rows import ScoredBy, ScoredShard, Scores, Shape
from steel_batch.scoring.shard import ShardInput
from steel_batch.scoring.writer import LocalWriter, Writer

Done = TypeVar("Done")

BATCHES_PER_SLOT: Final = 2
"""On a GPU: one batch in the slot, one whose masks are being described."""


class ShardScorer:
    """Scores shards with one loaded engine. Thread-safe: several shards may be in progress at once.

    Args:
        runtime: The loaded engine; closed by `close`.
        card: Its card.
        store: Where rows are staged and receipts are written.
        decoding: What decodes, and its time limit per image: after it this process ends itself or,
            if images are isolated, the image is quarantined.
        limits: Size and memory limits per image.
        infer_seconds: Time limit of the engine per batch, if decoding has one.
        num_threads: Threads that decode.
        children: What describes and writes in the place of the calling threads; closed by `close`.
    """

    def __init__(
        self,
        runtime: Runtime,
        card: Card,
        store: Lake,
        decoding: DecodeSettings,
        *,
        limits: Limits = LIMITS,
        num_threads: int,
        children: Children = NONE,
        infer_seconds: float = INFER_SECONDS,
    ) -> None:
        self._runtime = runtime
        self._card = card
        self._decoding = decoding
        resizes = card.post_process.resize != "never"
        self._rules: dict[str, Any] = {
            "bits": decoding.bits,
            "limits": limits,
            "only_size": None if resizes else (card.height, card.width),
        }
        self._decode = load_decoder(decoding.decoder, **self._rules)
        self._decode_checked = (
            partial(decode_gray, is_checked=True, **self._rules)
            if decoding.is_usual
            else self._decode
        )
        self._decode_seconds = decoding.decode_seconds or SECONDS_PER_IMAGE
        self._watchdog = (
            Watchdog(decoding.decode_seconds, infer_seconds)
            if decoding.decode_seconds
            else Unwatched()
        )
        # Where each thread has a batch of its own, passing images on would only cost time.
        self._num_parts = 1 if num_threads <= runtime.num_slots else num_threads
        self._isolating = threading.Lock()
        self._workers = ThreadPoolExecutor(num_threads, "decode")
        # On a CPU, the thread that infers a batch describes it, too: others would take its core.
        on_cpu = runtime.provenance.device == "cpu"
        num_batches = (1 if on_cpu else BATCHES_PER_SLOT) * runtime.num_slots
        self._batches = BatchThreads[Scores](num_batches)
        shape_NHW = (runtime.batch_size, card.height, card.width)

        made = (shape_NHW, len(card.classes), runtime.register)
        # In threads, because the system gives the memory page by page.
        allocated = [self._workers.submit(child.allocate, *made) for child in children.describers]
        wait(allocated)  # also if one fails: then the memory is freed
        for allocation in allocated:
            allocation.result()
        self._children = children
        self._describers = SlotRing[Describer](
            children.describers
            or [LocalDescriber(shape_NHW, card.post_process) for _ in range(num_batches)]
        )
        self._writers = SlotRing[Writer](
            children.writers or [LocalWriter(store) for _ in range(num_batches)]
        )

    @functools.cached_property
    def _scored_by(self) -> ScoredBy:
        """Known once the GPU decodes, which may be after this was created."""
        return ScoredBy(
            provenance=self._runtime.provenance,
            cpu_decoder=(
                f"opencv {cv2.__version__}" if self._decoding.is_usual else self._decoding.decoder
            ),
            scorer=f"{socket.gethostname()}: {self._runtime.description}",
            num_classes=len(self._card.classes),
        )

    def score(self, shard: ShardInput, *, isolated: bool = False) -> Receipt:
        """Score a shard, stage its rows and write its receipt.

        Args:
            shard: The images' bytes.
            isolated: Decode in child processes, because the shard killed a process before.

        Returns:
            The valid receipt, which may be that of another attempt.

        Raises:
            LakeError: The store could not be written; nothing of the shard is counted.
        """
        started = time.monotonic()
        scores = self.score_images(shard, isolated=isolated)
        scored = ScoredShard(
            run_id=shard.run_id,
            plan_digest=shard.plan_digest,
            shard=shard.shard,
            refs=shard.refs,
            scores=scores,
            scored_by=self._scored_by,
            scored_at=datetime.datetime.now(datetime.timezone.utc).isoformat(),
            started_seconds=started,
        )
        with self._writers.acquire() as writer:
            return writer.write(scored)

    def take_counts(self) -> Counter[str]:
        """Counts of child processes' requests to the store since the last call; `Lake.counts`."""
        return sum((writer.take_counts() for writer in self._children.writers), Counter())

    def score_images(self, shard: ShardInput, *, isolated: bool = False) -> Scores:
        """Score each image of a shard; an image that cannot be scored gets its error."""
        size, num = self._runtime.batch_size, len(shard.refs)
        batches = [range(start, min(start + size, num)) for start in range(0, num, size)]
        if isolated:  # one after the other: memory for their pixels may be what ended the process
            with self._isolating, closing(self._decode_isolated(shard)) as decoded:
                parts = [self._score_isolated(shard, batch, decoded) for batch in batches]
        else:
            futures = [
                self._batches.submit(
                    partial(self._score_read, shard, batch), goes_first=shard.shard == 0
                )
                for batch in batches
            ]
            parts = [future.result() for future in futures]
        return Scores(
            shapes=[shape for part in parts for shape in part.shapes],
            peak_NC=np.concatenate([part.peak_NC for part in parts]),
            described=[stream for part in parts for stream in part.described],
            gpu_decoders=[decoder for part in parts for decoder in part.gpu_decoders],
        )

    def close(self) -> None:
        """Stop the threads and free the engine."""
        self._batches.shutdown()
        self._workers.shutdown(cancel_futures=True)
        self._watchdog.close()
        self._describers.close()
        self._writers.close()
        self._children.close()
        self._runtime.close()

    def _score_read(self, shard: ShardInput, batch: range) -> Scores:
        """Score some images of a shard in this process."""
        errors = shard.errors[batch.start : batch.stop]
        plain = shard.plain if self._decoding.is_usual else None
        jpegs = {
            place: shard.contents[i]
            for place, i in enumerate(batch)
            if plain is not None and plain[i] and errors[place] is None
        }
        return self._score_batch(
            lambda place: self._decode_scalar(shard, batch[place]), errors, jpegs
        )

    def _decode_isolated(self, shard: ShardInput) -> Generator[Image | ImageError]:
        """Yield the images of a shard that were read, decoded in a child process."""
        known = (
            content or b""
            for content, error in zip(shard.contents, shard.errors, strict=True)
            if error is None
        )
        return decode_isolated(
            known,
            self._decoding.decoder,
            **self._rules,
            seconds_per_image=self._decode_seconds,
        )

    def _score_isolated(
        self, shard: ShardInput, batch: range, decoded: Iterator[Image | ImageError]
    ) -> Scores:
        """Score some images of a shard as a child process decodes them.

        The GPU decodes none of them: it may be what an image crashed.
        """
        errors = shard.errors[batch.start : batch.stop]
        images = [next(decoded) if error is None else error for error in errors]
        return self._score_batch(lambda place: _raise_or_return(images[place]), errors, {})

    def _decode_scalar(self, shard: ShardInput, index: int) -> Image:
        decode = self._decode if shard.plain is None else self._decode_checked
        content = shard.contents[index]
        try:
            return self._watchdog.decode(decode, content)
        except MemoryError:
            return self._decode_apart(content)

    def _decode_apart(self, content: Any) -> Image:
        """Decode an image that this process lacks the memory for in another one, of its own limit.

        Raises:
            ImageError: It needs more than that.
            ClusterError: No process can be started.
        """
        with closing(
            decode_isolated(
                [content],
                self._decoding.decoder,
                **self._rules,
                seconds_per_image=self._decode_seconds,
            )
        ) as decoded:
            return _raise_or_return(next(decoded))

    def _score_batch(
        self,
        source: Callable[[int], Image],
        errors: Sequence[ImageError | None],
        jpegs: Mapping[int, Any],
    ) -> Scores:
        """Score a batch; `source` decodes the image at a place of it on the CPU."""
        num, size = len(errors), (self._card.height, self._card.width)
        with ExitStack() as held:
            with self._runtime.acquire() as slot:

                def load(part: Sequence[int]) -> list[Shape | ImageError]:
                    return [errors[i] or self._load(slot, i, source) for i in part]

                loaded = self._watchdog.decode(slot.load_jpegs, jpegs)
                rest = sorted(set(range(num)) - loaded)
                step = max(1, -(-len(rest) // self._num_parts))
                parts = [rest[start : start + step] for start in range(0, len(rest), step)]
                loading = [self._workers.submit(load, part) for part in parts[1:]]
                try:
                    first = load(parts[0]) if parts else []
                finally:
                    wait(loading)  # also if one fails: another batch uses the slot next
                found = itertools.chain(first, *(future.result() for future in loading))
                shapes: list[Shape | ImageError] = [size] * num
                decoders = [slot.jpeg_decoder] * num
                for place, shape in zip(rest, found, strict=True):
                    shapes[place], decoders[place] = shape, None
                figures = self._watchdog.infer(slot.infer, num)
                peak_NC, count_NC = figures.peak_NC.copy(), figures.count_NC.copy()
                for place in np.flatnonzero(~np.isfinite(peak_NC).all(axis=1)).tolist():
                    shapes[place] = self._no_number(shapes[place])
                for place, shape in enumerate(shapes):
                    if isinstance(shape, ImageError):
                        count_NC[place] = 0
                places = np.flatnonzero(count_NC.any(axis=1)).tolist()
                # The slot takes another batch while the masks of this one are described.
                describer = held.enter_context(self._describers.acquire())
                masks_NHW = describer.mask_NHW[: len(places)]
                copy_out = partial(slot.copy_out, places, masks_NHW)
                self._watchdog.infer(copy_out, describer.sample_NHW[:num])
            sizes = np.array([shapes[i] for i in places], np.int32).reshape(-1, 2)
            stream = describer.describe(places, sizes, peak_NC, count_NC)
        return Scores(shapes=shapes, peak_NC=peak_NC, described=[stream], gpu_decoders=decoders)

    def _no_number(self, shape: Shape | ImageError) -> ImageError:
        """The error of an image whose peaks are not numbers: no pixel exceeds a threshold then."""
        if isinstance(shape, ImageError):
            return shape
        provenance = self._runtime.provenance
        return ImageError(
            f"the engine's output for it is not a number ({provenance.runtime} "
            f"{provenance.precision}): its values overflow, or the engine is damaged. Use a "
            "--precision with a wider range, or another engine.",
            code="not_a_number",
        )

    def _load(self, slot: Slot, index: int, source: Callable[[int], Image]) -> Shape | ImageError:
        """Load one image into the slot; return its source's height and width, or its error."""
        card = self._card
        try:
            image_HW = source(index)
            shape = image_HW.shape
            slot.image_NHW[index] = fit_to(
                image_HW, card.height, card.width, card.post_process.resize
            )
        except ImageError as error:
            slot.image_NHW[index] = 0
            return error
        return int(shape[0]), int(shape[1])


def _raise_or_return(image: Image | ImageError) -> Image:
    if isinstance(image, ImageError):
        raise image
    return image
