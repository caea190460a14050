"""TensorRT, 8.5 to 11, and TensorRT for RTX, in one code path.

The bindings are an argument: `tensorrt` and `tensorrt_rtx` are the same API under two names, and
this module uses only what both provide.

A slot holds everything of one batch in flight, so that decoding into one, copying a second and the
network of a third overlap.
"""

from __future__ import annotations

import logging
import threading
import traceback
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steel_batch.engine.compiled_plans import Machine
from steel_batch.engine.contract import Provenance
from steel_batch.engine.cuda_driver import DriverError, RegisteredMemory
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.machine import find_machine, import_tensorrt, open_logger
from steel_batch.engine.ring import SlotRing
from steel_batch.engine.tensorrt_slot import TrtSlot
from steel_batch.errors import EngineError, EngineMismatchError
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
        self._registered: list[RegisteredMemory] = []
        self._first_refusal = threading.Lock()  # taken once: threads may register at once
        slots: list[TrtSlot] = []
        self._logger.take_errors()
        try:
            with self._gpu.current():
                self._load(trt, plan, card, machine)
                _check_plan(trt, self._cuda_engine, card, batch_size)
                for _ in range(num_slots):
                    slots.append(
                        TrtSlot(self._gpu, self._cuda_engine, self._logger, card, batch_size)
                    )
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
        self._slots = slots
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

    def open_decoders(self) -> None:
        """Let the GPU decode plain JPEGs; before the first batch, after `check_decoder`.

        Raises:
            ConfigError: nvJPEG is missing.
            EngineError: It does not start, or the GPU fails.
        """
        try:
            with self._gpu.current():
                for slot in self._slots:
                    slot.open_decoder()
        except (RuntimeError, self._gpu.cuda.Error) as error:
            raise EngineError(
                f"nvJPEG does not start for the batches of {self._gpu.name} ({error}). Check the "
                "GPU and the processes on it with `nvidia-smi`, or give --decode cpu."
            ) from error
        self._description += ", JPEGs decoded on the GPU"
        if all(slot.has_jpeg_unit for slot in self._slots):
            self._description += " by its JPEG unit"

    def acquire(self) -> AbstractContextManager[TrtSlot]:
        """Wait for a free slot."""
        return self._ring.acquire()

    def register(self, memory: npt.NDArray[np.uint8]) -> None:
        """Let the GPU write to memory directly; if the driver refuses, it copies once more."""
        try:
            with self._gpu.current():
                self._registered.append(RegisteredMemory(memory))
        except DriverError as error:
            if self._first_refusal.acquire(blocking=False):
                log.warning(
                    "scoring is slower, with the same rows: NVIDIA's driver refuses to register "
                    "this process's memory (%s), so masks are copied twice",
                    error,
                )

    def close(self) -> None:
        """Wait for the batches in flight and free the GPU's memory; idempotent, never raises."""
        slots = self._ring.close()
        self._slots = []
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
                try:
                    while slots:
                        slots.pop().free()
                finally:
                    while self._registered:
                        self._registered.pop().free()
                self._cuda_engine = None
                self._runtime = None
        except self._gpu.cuda.Error as error:  # after a fault, only exit frees memory
            log.warning("%s cannot free its memory: %s", self._gpu.name, error)


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
