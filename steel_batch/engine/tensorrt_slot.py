"""One batch in flight on a GPU: its memory, its stream and its execution context.

Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steel_batch.engine.contract import Figures
from steel_batch.engine.cuda_driver import DriverError
from steel_batch.engine.gpu import NON_BLOCKING, Gpu
from steel_batch.engine.nvjpeg import GpuDecoder
from steel_batch.engine.recording import LaunchError, Recording
from steel_batch.errors import DeviceError, EngineError
from steel_batch.images.appearance import row_step
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK, Card

log = logging.getLogger(__name__)


class TrtSlot:
    """Pinned and device memory, a stream and an execution context; see `contract.Slot`.

    The plan's batch size is fixed: of a smaller batch, the unused part is scored with whatever is
    in memory and not copied out.

    Args:
        gpu: The GPU; its context is current.
        cuda_engine: TensorRT's engine.
        logger: TensorRT's logger.
        card: The engine's card.
        batch_size: Batch size of the plan.

    Raises:
        MemoryError: The GPU lacks memory for the execution context.
        EngineError: The plan does not accept such a batch.
    """

    def __init__(
        self,
        gpu: Gpu,
        cuda_engine: Any,
        logger: Any,
        card: Card,
        batch_size: int,
    ) -> None:
        self._gpu = gpu
        self._logger = logger
        self._shape_NHW = (batch_size, card.height, card.width)
        self._pinning = threading.Lock()
        self._context: Any = None
        self._stream: Any = None
        self._done: Any = None
        self._recording: Recording | None = None
        self._tried_recording = False
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._device: dict[str, Any] = {}
        self._copy_rows: Any = None
        self._decoder: GpuDecoder | None = None
        self._loaded: Mapping[int, Any] = {}
        self._num_images = 0
        try:
            self._set_up(cuda_engine, card, batch_size)
        except BaseException:
            self.free()
            raise

    @property
    def image_NHW(self) -> npt.NDArray[np.uint8]:
        """Where to write the batch's pixels, in pinned memory.

        It is allocated when it is first used, as a GPU that decodes may never need it.

        Raises:
            EngineError: The memory cannot be pinned.
        """
        with self._pinning:  # threads fill a batch together
            if IMAGE not in self._host:
                self._host[IMAGE] = self._pinned(self._shape_NHW)
        return self._host[IMAGE]

    def _pinned(self, shape_NHW: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        try:
            with self._gpu.current():
                pixels: npt.NDArray[np.uint8] = self._gpu.cuda.pagelocked_zeros(shape_NHW, np.uint8)
                return pixels
        except self._gpu.cuda.Error as error:
            raise EngineError(
                f"{math.prod(shape_NHW) >> 20:,} MiB of this machine's memory cannot be pinned for "
                f"a batch whose images the CPU decodes ({error}). Free memory here, or give a "
                "smaller --batch-size."
            ) from error

    @property
    def has_jpeg_unit(self) -> bool:
        """Whether JPEGs are decoded by a unit that the network does not need."""
        return self._decoder is not None and self._decoder.is_hardware

    @property
    def jpeg_decoder(self) -> str | None:
        """NVIDIA's decoder, its version and the unit that decodes; None if the GPU does not."""
        return None if self._decoder is None else self._decoder.name

    def open_decoder(self) -> None:
        """Let the GPU decode JPEGs from now on; the GPU's context is current.

        Raises:
            ConfigError: nvJPEG is missing.
            RuntimeError: It does not start.
        """
        address = int(self._device[IMAGE])
        self._decoder = GpuDecoder(self._gpu, self._stream, address, self._shape_NHW)

    def load_jpegs(self, jpegs: Mapping[int, Any]) -> frozenset[int]:
        """Let the GPU decode JPEGs directly into the engine's input, before the next `infer`.

        Raises:
            DeviceError: The GPU failed; this process cannot use it any more.
        """
        self._loaded = {}
        if self._decoder is None or not jpegs:
            return frozenset()
        try:
            with self._gpu.current():
                self._loaded = self._decoder.decode(jpegs)
        except self._gpu.cuda.Error as error:
            raise DeviceError(
                f"{self._gpu.name} failed while it decoded JPEGs: {error}. Check `nvidia-smi` and "
                "the kernel's log, then run the same command again; if it fails again, add "
                "--decode cpu."
            ) from error
        return frozenset(self._loaded)

    def infer(self, num_images: int) -> Figures:
        """Copy in what `load_jpegs` did not load, run, and wait without the GIL.

        Raises:
            DeviceError: The GPU failed; this process cannot use it any more.
            EngineError: TensorRT cannot start the batch.
        """
        self._num_images = 0
        try:
            with self._waiting("scored a batch"):
                self._enqueue(num_images)
        finally:
            self._loaded = {}
        self._num_images = num_images
        return Figures(
            peak_NC=self._host[PEAK][:num_images], count_NC=self._host[COUNT][:num_images]
        )

    def copy_out(
        self,
        places: Sequence[int],
        mask_NHW: npt.NDArray[np.uint8],
        sample_NHW: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Copy masks and rows of the last batch's images, and wait without the GIL.

        The GPU writes to registered memory directly; the driver copies once more into any other.

        Raises:
            DeviceError: The GPU failed; this process cannot use it any more.
        """
        if places and places[-1] >= self._num_images:
            raise IndexError(f"mask {places[-1]} of a batch of {self._num_images}")
        address, done = int(self._device[MASK]), 0
        with self._waiting("copied masks"):
            for part in contiguous(places):
                part_NHW = mask_NHW[done : done + len(part)]
                start = address + part.start * mask_NHW[0].nbytes
                self._gpu.cuda.memcpy_dtoh_async(part_NHW, start, self._stream)
                done += len(part)
            if sample_NHW is not None:
                copy = self._copy_rows
                copy.set_dst_host(sample_NHW)
                copy.height = sample_NHW.shape[0] * sample_NHW.shape[1]
                copy(self._stream)

    @contextlib.contextmanager
    def _waiting(self, work: str) -> Iterator[None]:
        """Wait for the work that a `with` block puts on the stream."""
        try:
            with self._gpu.current():
                yield
                self._done.record(self._stream)
                self._done.synchronize()
        except (self._gpu.cuda.Error, LaunchError) as error:
            raise DeviceError(
                f"{self._gpu.name} failed while it {work}: {error}. Check `nvidia-smi` and the "
                "kernel's log, then run the same command again."
            ) from error
        except BaseException:
            # Work in the stream may still read the next batch's pixels, or write its masks.
            with contextlib.suppress(self._gpu.cuda.Error), self._gpu.current():
                self._stream.synchronize()
            raise

    def free(self) -> None:
        """Free the slot's memory; the GPU's context is current.

        Pinned memory is freed with the last array that refers to it.
        """
        if self._decoder is not None:
            self._decoder.free()
            self._decoder = None
        if self._recording is not None:
            self._recording.free()
            self._recording = None
        self._context = None
        for memory in self._device.values():
            memory.free()
        self._device.clear()
        self._host.clear()
        self._copy_rows = None
        self._stream = self._done = None

    def _set_up(self, cuda_engine: Any, card: Card, batch_size: int) -> None:
        cuda = self._gpu.cuda
        image = (batch_size, 1, card.height, card.width)
        scores = (batch_size, len(card.classes))
        shapes = {IMAGE: image, MASK: image, PEAK: scores, COUNT: scores}
        for name, shape in shapes.items():
            dtype = np.dtype(np.float32 if shape is scores else np.uint8)
            self._device[name] = cuda.mem_alloc(math.prod(shape) * dtype.itemsize)
            if name in (PEAK, COUNT):
                self._host[name] = cuda.pagelocked_zeros(shape, dtype)
        self._copy_rows = copy = cuda.Memcpy2D()
        copy.set_src_device(int(self._device[IMAGE]))
        copy.src_pitch, copy.dst_pitch = row_step(card.height) * card.width, card.width
        copy.width_in_bytes = card.width
        self._stream = cuda.Stream(NON_BLOCKING)
        self._done = cuda.Event(cuda.event_flags.BLOCKING_SYNC | cuda.event_flags.DISABLE_TIMING)
        self._context = context = cuda_engine.create_execution_context()
        if context is None:
            raise MemoryError("no execution context")
        taken = [
            context.set_tensor_address(name, int(memory)) for name, memory in self._device.items()
        ]
        if not all(taken):
            raise EngineError(
                f"the compiled plan of engine {card.name} does not accept batches of {batch_size}, "
                "although its record states them. Delete both and build the plan again."
            )

    def _enqueue(self, num_images: int) -> None:
        """Put the work of a batch on the stream."""
        cuda, stream = self._gpu.cuda, self._stream
        for part in contiguous(sorted(set(range(num_images)) - self._loaded.keys())):
            part_NHW = self.image_NHW[part.start : part.stop]
            start = int(self._device[IMAGE]) + part.start * part_NHW[0].nbytes
            cuda.memcpy_htod_async(start, part_NHW, stream)
        is_full = num_images == self._shape_NHW[0]
        if is_full and self._recording is not None:
            self._recording.launch(stream.handle)
            return
        self._run(num_images)
        if is_full and not self._tried_recording:
            self._record()  # after a batch, because TensorRT sets itself up in its first one

    def _run(self, num_images: int) -> None:
        """Put the network and the copies of its figures on the stream."""
        cuda, stream = self._gpu.cuda, self._stream
        if not self._context.execute_async_v3(stream.handle):
            reasons = self._logger.take_errors() or ["it gives no reason"]
            raise EngineError(
                f"TensorRT cannot start a batch: {'; '.join(reasons)}. Check `nvidia-smi`, then "
                "run the same command again."
            )
        for name in (PEAK, COUNT):
            cuda.memcpy_dtoh_async(self._host[name][:num_images], self._device[name], stream)

    def _record(self) -> None:
        """Record a full batch, so that each later one is launched by a single call."""
        self._tried_recording = True
        num_images = self._shape_NHW[0]
        try:
            self._recording = Recording(self._stream.handle, lambda: self._run(num_images))
        except (DriverError, EngineError, self._gpu.cuda.Error) as error:
            log.info("no CUDA graph: each batch is launched kernel by kernel (%s)", error)


def contiguous(places: Sequence[int]) -> list[range]:
    """Ascending places, as ranges."""
    breaks = [k for k in range(1, len(places)) if places[k] != places[k - 1] + 1]
    edges = itertools.pairwise([0, *breaks, len(places)])
    return [range(places[a], places[b - 1] + 1) for a, b in edges if b > a]
