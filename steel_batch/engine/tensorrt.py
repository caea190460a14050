"""TensorRT, 8.5 to 11, and TensorRT for RTX, in one code path.

The bindings are an argument: `tensorrt` and `tensorrt_rtx` are the same API under two names, and
this module uses only what both provide.

A slot holds everything of one batch in flight, so that decoding into one, copying a second and the
network of a third overlap. Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import traceback
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steel_batch.engine.compiled_plans import Machine
from steel_batch.engine.contract import Output, Provenance
from steel_batch.engine.gpu import NON_BLOCKING, Gpu, open_gpu
from steel_batch.engine.machine import find_machine, import_tensorrt, open_logger
from steel_batch.engine.nvjpeg import GpuDecoder
from steel_batch.engine.ring import SlotRing
from steel_batch.errors import DeviceError, EngineError, EngineMismatchError
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK, Card

NUM_SLOTS: Final = 6
"""Enough that some are filled while others wait for the network, which never waits."""

log = logging.getLogger(__name__)


class TrtRuntime:
    """A deserialised compiled plan with its ring of slots.

    Args:
        plan: The plan's bytes, after checking their digest: a plan is code.
        card: The engine's card.
        runtime: A key of `machine.MODULES`.
        batch_size: Batch size of the plan.
        precision: Precision of the plan.
        num_slots: Batches in flight.
        decodes_jpegs: Whether plain JPEGs are decoded on the GPU.

    Raises:
        ConfigError: This machine has no GPU, driver, bindings or PyCUDA.
        EngineMismatchError: The plan is for another GPU or TensorRT version.
        EngineError: It is not a plan of this engine, or the GPU has too little memory for it.
    """

    def __init__(
        self,
        plan: bytes,
        card: Card,
        *,
        runtime: str,
        batch_size: int,
        precision: str,
        num_slots: int = NUM_SLOTS,
        decodes_jpegs: bool = False,
    ) -> None:
        trt = import_tensorrt(runtime)
        machine = find_machine(runtime)
        self._batch_size = batch_size
        self._description = f"{machine}, {precision}, batches of {batch_size}"
        self._provenance = Provenance(
            runtime=machine.runtime,
            runtime_version=machine.runtime_version,
            precision=precision,
            device=machine.device_name,
        )
        self._logger = open_logger(trt)
        self._gpu = open_gpu()
        self._runtime: Any = None
        self._cuda_engine: Any = None
        slots: list[TrtSlot] = []
        self._logger.take_errors()
        try:
            with self._gpu.current():
                self._load(trt, plan, card, machine)
                _check_plan(trt, self._cuda_engine, card, batch_size)
                for _ in range(num_slots):
                    slot = TrtSlot(
                        self._gpu,
                        self._cuda_engine,
                        self._logger,
                        card,
                        batch_size,
                        decodes_jpegs=decodes_jpegs,
                    )
                    slots.append(slot)
        except (MemoryError, RuntimeError, self._gpu.cuda.Error) as error:
            reason = "; ".join([str(error), *self._logger.take_errors()[:1]])
            needed = self._needed_bytes(card)
            self._free(slots, error)
            free, total = self._gpu.memory()
            raise EngineError(
                f"engine {card.name} in batches of {batch_size}, {num_slots} of them in flight, "
                f"cannot be set up on {machine.device_name} ({reason}). It needs "
                f"{num_slots * needed >> 20:,} MiB plus its weights; apart from it, {free >> 20:,} "
                f"of {total >> 20:,} MiB are free. Give a smaller --batch-size, or end other "
                "processes on this GPU."
            ) from error
        except BaseException:
            self._free(slots)
            raise
        if decodes_jpegs:
            self._description += ", JPEGs decoded on the GPU"
            if all(slot.has_jpeg_unit for slot in slots):
                self._description += " by its JPEG unit"
        self._ring = SlotRing(slots)
        self._slot_bytes = self._needed_bytes(card)

    @property
    def batch_size(self) -> int:
        """Maximum number of images of one `infer`."""
        return self._batch_size

    @property
    def num_slots(self) -> int:
        """Number of batches that can be in flight."""
        return self._ring.num_slots

    @property
    def slot_bytes(self) -> int:
        """GPU memory of one batch in flight, as stated by the plan, without the weights."""
        return self._slot_bytes

    @property
    def description(self) -> str:
        """Runtime, version, device, precision, batch size, and the GPU's JPEG decoder if any."""
        return self._description

    @property
    def provenance(self) -> Provenance:
        """What produces the rows of its batches."""
        return self._provenance

    def acquire(self) -> AbstractContextManager[TrtSlot]:
        """Wait for a free slot."""
        return self._ring.acquire()

    def close(self) -> None:
        """Wait for the batches in flight and free the GPU's memory; idempotent, never raises."""
        slots = self._ring.close()
        if slots:
            self._free(slots)

    def _load(self, trt: ModuleType, plan: bytes, card: Card, machine: Machine) -> None:
        try:
            self._runtime = trt.Runtime(self._logger)
            self._cuda_engine = self._runtime.deserialize_cuda_engine(plan)
        except (TypeError, RuntimeError) as error:  # how the bindings report a null result
            log.info("TensorRT: %s", error)
        if self._cuda_engine is None:
            reasons = self._logger.take_errors()
            if any("out of memory" in reason.lower() for reason in reasons):
                raise MemoryError("loading the plan")
            raise EngineMismatchError(
                f"{machine} refuses the compiled plan of engine {card.name}: "
                f"{(reasons or ['it gives no reason'])[0]}. Check the GPU with `nvidia-smi`. If it "
                "is healthy, this compiled plan was built for another GPU or TensorRT version: "
                "delete the plan and its record, then run `steel-batch build-engine` here."
            )

    def _needed_bytes(self, card: Card) -> int:
        """GPU memory of one slot, as far as it is known."""
        names = ("device_memory_size_v2", "device_memory_size")  # 11 has the first, 8.5 the second
        known = [getattr(self._cuda_engine, name, None) for name in names]
        activations = next((int(size) for size in known if size is not None), 0)
        images = 2 * self._batch_size * card.height * card.width
        return activations + images + 8 * self._batch_size * len(card.classes)

    def _free(self, slots: list[TrtSlot], error: BaseException | None = None) -> None:
        """Free slots, engine and runtime, in this order: each depends on the next.

        The frames that an error passed through also hold the engine; they are cleared.
        """
        try:
            with self._gpu.current():
                if error is not None:
                    traceback.clear_frames(error.__traceback__)
                while slots:
                    slots.pop().free()
                self._cuda_engine = None
                self._runtime = None
        except self._gpu.cuda.Error as error:  # after a fault, only exit frees memory
            log.warning("%s cannot free its memory: %s", self._gpu.name, error)


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
        decodes_jpegs: See `TrtRuntime`.

    Raises:
        MemoryError: The GPU lacks memory for the execution context.
        RuntimeError: The JPEG decoder does not start.
        EngineError: The plan does not accept such a batch.
    """

    def __init__(
        self,
        gpu: Gpu,
        cuda_engine: Any,
        logger: Any,
        card: Card,
        batch_size: int,
        *,
        decodes_jpegs: bool = False,
    ) -> None:
        self._gpu = gpu
        self._logger = logger
        self._context: Any = None
        self._stream: Any = None
        self._done: Any = None
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._device: dict[str, Any] = {}
        self._decoder: GpuDecoder | None = None
        self._loaded: Mapping[int, Any] = {}
        try:
            self._set_up(cuda_engine, card, batch_size)
            if decodes_jpegs:
                self._decoder = GpuDecoder(
                    gpu,
                    self._stream,
                    int(self._device[IMAGE]),
                    (batch_size, card.height, card.width),
                )
        except BaseException:
            self.free()
            raise

    @property
    def image_NHW(self) -> npt.NDArray[np.uint8]:
        """Where to write the batch's pixels, in pinned memory."""
        pixels: npt.NDArray[np.uint8] = self._host[IMAGE][:, 0]
        return pixels

    @property
    def has_jpeg_unit(self) -> bool:
        """Whether JPEGs are decoded by a unit that the network does not need."""
        return self._decoder is not None and self._decoder.is_hardware

    @property
    def jpeg_decoder(self) -> str | None:
        """NVIDIA's decoder, its version and the unit that decodes; None if the GPU does not."""
        return None if self._decoder is None else self._decoder.name

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

    def infer(self, num_images: int) -> Output:
        """Copy in what `load_jpegs` did not load, run, copy out, and wait without the GIL.

        Raises:
            DeviceError: The GPU failed; this process cannot use it any more.
            EngineError: TensorRT cannot start the batch.
        """
        try:
            with self._gpu.current():
                self._give(num_images)
                self._done.record(self._stream)
                self._done.synchronize()
        except self._gpu.cuda.Error as error:
            raise DeviceError(
                f"{self._gpu.name} failed while it scored a batch: {error}. Check `nvidia-smi` and "
                "the kernel's log, then run the same command again."
            ) from error
        except BaseException:
            # Work in the stream may still read the next batch's pixels, or write its masks.
            with contextlib.suppress(self._gpu.cuda.Error), self._gpu.current():
                self._stream.synchronize()
            raise
        finally:
            self._loaded = {}
        return Output(
            mask_NHW=self._host[MASK][:num_images, 0],
            peak_NC=self._host[PEAK][:num_images],
            count_NC=self._host[COUNT][:num_images],
        )

    def free(self) -> None:
        """Free the slot's memory; the GPU's context is current.

        Pinned memory is freed with the last array that refers to it.
        """
        if self._decoder is not None:
            self._decoder.free()
            self._decoder = None
        self._context = None
        for memory in self._device.values():
            memory.free()
        self._device.clear()
        self._host.clear()
        self._stream = self._done = None

    def _set_up(self, cuda_engine: Any, card: Card, batch_size: int) -> None:
        cuda = self._gpu.cuda
        image = (batch_size, 1, card.height, card.width)
        scores = (batch_size, len(card.classes))
        shapes = {IMAGE: image, MASK: image, PEAK: scores, COUNT: scores}
        for name, shape in shapes.items():
            dtype = np.float32 if shape is scores else np.uint8
            self._host[name] = cuda.pagelocked_zeros(shape, dtype)
            self._device[name] = cuda.mem_alloc(self._host[name].nbytes)
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

    def _give(self, num_images: int) -> None:
        """Put the work of a batch on the stream."""
        cuda, stream = self._gpu.cuda, self._stream
        image_NHW, address = self._host[IMAGE], int(self._device[IMAGE])
        for part in missing_parts(num_images, self._loaded):
            start = address + part.start * image_NHW[0].nbytes
            cuda.memcpy_htod_async(start, image_NHW[part], stream)
        if not self._context.execute_async_v3(stream.handle):
            reasons = self._logger.take_errors() or ["it gives no reason"]
            raise EngineError(
                f"TensorRT cannot start a batch: {'; '.join(reasons)}. Check `nvidia-smi`, then "
                "run the same command again."
            )
        for name in (MASK, PEAK, COUNT):
            cuda.memcpy_dtoh_async(self._host[name][:num_images], self._device[name], stream)


def missing_parts(num_images: int, loaded: Collection[int]) -> list[slice]:
    """The images of a batch that are not loaded, as contiguous slices."""
    edges = [-1, *sorted(place for place in loaded if place < num_images), num_images]
    return [
        slice(before + 1, after)
        for before, after in itertools.pairwise(edges)
        if after > before + 1
    ]


def _check_plan(trt: ModuleType, cuda_engine: Any, card: Card, batch_size: int) -> None:
    """Compare a plan's tensors with the contract, the card and its record."""
    image = (batch_size, 1, card.height, card.width)
    scores = (batch_size, len(card.classes))
    expected = {
        IMAGE: (image, trt.uint8, trt.TensorIOMode.INPUT),
        MASK: (image, trt.uint8, trt.TensorIOMode.OUTPUT),
        PEAK: (scores, trt.float32, trt.TensorIOMode.OUTPUT),
        COUNT: (scores, trt.float32, trt.TensorIOMode.OUTPUT),
    }
    names = {cuda_engine.get_tensor_name(i) for i in range(cuda_engine.num_io_tensors)}
    wrong = [f"{name} is not in the contract" for name in sorted(names - expected.keys())]
    for name, (shape, kind, mode) in expected.items():
        if name not in names:
            wrong.append(f"{name} is missing")
            continue
        found = tuple(cuda_engine.get_tensor_shape(name))
        if cuda_engine.get_tensor_mode(name) != mode:
            wrong.append(f"{name} is {cuda_engine.get_tensor_mode(name)}")
        if cuda_engine.get_tensor_dtype(name) != kind:
            wrong.append(f"{name} is {cuda_engine.get_tensor_dtype(name)}, not {kind}")
        if found != shape:
            wrong.append(f"{name} is {list(found)}, not {list(shape)}")
    if wrong:
        raise EngineError(
            f"the compiled plan of engine {card.name} does not fulfil the engine's contract: "
            f"{'; '.join(wrong)}. Delete it and build it again."
        )
