"""TensorRT, from 8.5 to 11, and TensorRT for RTX, through one code path.

The bindings are an argument: `tensorrt`, `tensorrt_lean` and `tensorrt_rtx` are the same API under
three names. PyCUDA has the context, streams and memory; the primary context is shared with whatever
else the process runs on the GPU, and is pushed by each call, because Ray calls from many threads.

A slot is everything of one batch in flight, so that decoding into one, copies of a second and the
network of a third overlap. Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steel_batch.engine.contract import COUNT, IMAGE, MASK, PEAK, Card, Output
from steel_batch.engine.plans import Machine
from steel_batch.engine.ring import SlotRing
from steel_batch.errors import ConfigError, EngineError, EngineMismatchError

NUM_SLOTS: Final = 4
"""One is filled, one copied in, one computed, one copied out and post-processed."""
MODULES: Final = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Where a runtime's bindings are: their package of libraries has a module of its own, or not."""

log = logging.getLogger(__name__)


def import_tensorrt(runtime: str) -> ModuleType:
    """The bindings of a runtime.

    Raises:
        ConfigError: They are not installed, or their library cannot be loaded.
    """
    reasons = []
    for name in MODULES[runtime]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    extra = "rtx" if runtime == "tensorrt_rtx" else "gpu"
    raise ConfigError(
        f"--runtime {runtime} needs the Python package {MODULES[runtime][0]}, which cannot be "
        f"imported here ({'; '.join(reasons)}). Install steel-batch[{extra}] on every GPU node, or "
        "give --runtime onnxruntime."
    )


def make_logger(trt: ModuleType) -> Any:
    """A logger of TensorRT's that writes to Python's; it must outlive what it is given to."""

    class PythonLogger(trt.ILogger):  # type: ignore[misc, name-defined] # the module is an argument
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)
                log.info("TensorRT: %s", message)

    return PythonLogger()


def find_machine(runtime: str) -> Machine:
    """What this machine runs plans with.

    Raises:
        ConfigError: The bindings, PyCUDA, the driver or a GPU is missing.
    """
    trt = import_tensorrt(runtime)
    device = _cuda().Device(0)
    major, minor = device.compute_capability()
    return Machine(
        runtime=runtime,
        runtime_version=trt.__version__,
        compute_capability=f"{major}.{minor}",
        device_name=device.name(),
    )


def free_bytes() -> tuple[int, int]:
    """Free and total memory of this machine's first GPU."""
    gpu = _Gpu()
    try:
        return gpu.memory()
    finally:
        gpu.leave()


class TrtRuntime:
    """A deserialised plan with its ring of slots.

    Args:
        plan: The plan's bytes, whose digest was checked: a plan is code.
        card: The engine's card.
        runtime: ``tensorrt`` or ``tensorrt_rtx``.
        batch_size: Of the plan.
        precision: Of the plan, for messages.
        num_slots: Batches in flight.

    Raises:
        ConfigError: This machine has no GPU, driver, bindings or PyCUDA.
        EngineMismatchError: The plan is for another GPU or TensorRT.
        EngineError: It is no plan of this engine, or the GPU has too little memory for it.
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
        self._logger = make_logger(trt)
        self._gpu = _Gpu()
        slots: list[TrtSlot] = []
        try:
            with self._gpu.current():
                self._runtime: Any = trt.Runtime(self._logger)
                self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
                if self._engine is None:
                    raise EngineMismatchError(
                        f"{machine} refuses the plan of engine {card.name}: "
                        f"{self._reason('no reason given')}. Delete the plan and build it here."
                    )
                _check_plan(trt, self._engine, card, batch_size)
                for _ in range(num_slots):
                    slots.append(TrtSlot(self._gpu, self._engine, card, batch_size))
        except BaseException as error:
            with self._gpu.current():
                while slots:
                    slots.pop().free()
                self._engine = self._runtime = None
            reason = self._reason(str(error))
            free, total = self._gpu.memory()
            self._gpu.leave()
            if isinstance(error, self._gpu.cuda.Error | MemoryError):
                raise EngineError(
                    f"engine {card.name} with batches of {batch_size} in {num_slots} slots does "
                    f"not fit on {machine.device_name} ({free >> 20:,} MiB free of "
                    f"{total >> 20:,}): {reason}. Give a smaller --batch-size, or free the GPU."
                ) from error
            raise
        self._ring = SlotRing(slots)

    @property
    def batch_size(self) -> int:
        """The most images of one `infer`."""
        return self._batch_size

    @property
    def num_slots(self) -> int:
        """How many batches can be in flight."""
        return self._ring.num_slots

    @property
    def description(self) -> str:
        """Runtime, version, device, precision and batch."""
        return self._description

    def acquire(self) -> AbstractContextManager[TrtSlot]:
        """Wait for a free slot."""
        return self._ring.acquire()

    def close(self) -> None:
        """Wait for the batches in flight and free the GPU; idempotent."""
        slots = self._ring.close()
        if not slots:
            return
        with self._gpu.current():
            while slots:
                slots.pop().free()
            self._engine = self._runtime = None
        self._gpu.leave()

    def _reason(self, otherwise: str) -> str:
        return (self._logger.errors[-1] if self._logger.errors else otherwise).strip().rstrip(".")


class TrtSlot:
    """See `contract.Slot`: pinned and device memory, a stream and an execution context."""

    def __init__(self, gpu: _Gpu, engine: Any, card: Card, batch_size: int) -> None:
        cuda = gpu.cuda
        num_classes = len(card.classes)
        image = (batch_size, 1, card.height, card.width)
        self._gpu = gpu
        self._context = engine.create_execution_context()
        if self._context is None:
            raise MemoryError("no execution context")
        self._stream = cuda.Stream()
        self._done = cuda.Event(cuda.event_flags.BLOCKING_SYNC | cuda.event_flags.DISABLE_TIMING)
        self._host = {
            IMAGE: cuda.pagelocked_zeros(image, np.uint8),
            MASK: cuda.pagelocked_zeros(image, np.uint8),
            PEAK: cuda.pagelocked_zeros((batch_size, num_classes), np.float32),
            COUNT: cuda.pagelocked_zeros((batch_size, num_classes), np.float32),
        }
        self._device = {name: cuda.mem_alloc(array.nbytes) for name, array in self._host.items()}
        if -1 in tuple(engine.get_tensor_shape(IMAGE)):
            self._context.set_input_shape(IMAGE, image)
        for name, memory in self._device.items():
            self._context.set_tensor_address(name, int(memory))

    @property
    def image_NHW(self) -> npt.NDArray[np.uint8]:
        """Where the batch's pixels go, in pinned memory."""
        pixels: npt.NDArray[np.uint8] = self._host[IMAGE][:, 0]
        return pixels

    def infer(self, num_images: int) -> Output:
        """Copy in, run, copy out, and wait without the GIL.

        The plan's batch is fixed: what is beyond `num_images` is scored and not copied out.
        """
        cuda = self._gpu.cuda
        with self._gpu.current():
            cuda.memcpy_htod_async(
                self._device[IMAGE], self._host[IMAGE][:num_images], self._stream
            )
            if not self._context.execute_async_v3(self._stream.handle):
                raise EngineError("TensorRT could not start a batch; the GPU's log says why.")
            for name in (MASK, PEAK, COUNT):
                cuda.memcpy_dtoh_async(
                    self._host[name][:num_images], self._device[name], self._stream
                )
            self._done.record(self._stream)
            self._done.synchronize()
        return Output(
            mask_NHW=self._host[MASK][:num_images, 0],
            peak_NC=self._host[PEAK][:num_images],
            count_NC=self._host[COUNT][:num_images],
        )

    def free(self) -> None:
        """Free what the slot holds; the GPU's context is current."""
        self._context = None
        for memory in self._device.values():
            memory.free()
        self._device.clear()
        self._host.clear()


class _Gpu:
    """The primary context of the first GPU."""

    def __init__(self) -> None:
        self.cuda = _cuda()
        self._context = self.cuda.Device(0).retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context this thread's for a `with` block."""
        self._context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        with self.current():
            free, total = self.cuda.mem_get_info()
        return int(free), int(total)

    def leave(self) -> None:
        """Give the primary context back."""
        self._context.detach()


def _cuda() -> Any:
    """PyCUDA's driver API, initialised, with a GPU there.

    Raises:
        ConfigError: PyCUDA, the driver or a GPU is missing.
    """
    try:
        cuda = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"the TensorRT runtimes need PyCUDA, which cannot be imported here ({error}). Install "
            "steel-batch[gpu] on every GPU node (PyCUDA is compiled from source and needs CUDA's "
            "headers), or give --runtime onnxruntime."
        ) from error
    try:
        cuda.init()
        num_devices = cuda.Device.count()
    except cuda.Error as error:
        raise ConfigError(
            f"NVIDIA's driver does not start here ({error}): check `nvidia-smi`, or give "
            "--runtime onnxruntime."
        ) from error
    if not num_devices:
        raise ConfigError("this process sees no GPU: check CUDA_VISIBLE_DEVICES.")
    return cuda


def _check_plan(trt: ModuleType, engine: Any, card: Card, batch_size: int) -> None:
    """Compare a plan's tensors with the contract, the card and its record."""
    num_classes = len(card.classes)
    image = (batch_size, 1, card.height, card.width)
    expected = {
        IMAGE: (image, trt.uint8, trt.TensorIOMode.INPUT),
        MASK: (image, trt.uint8, trt.TensorIOMode.OUTPUT),
        PEAK: ((batch_size, num_classes), trt.float32, trt.TensorIOMode.OUTPUT),
        COUNT: ((batch_size, num_classes), trt.float32, trt.TensorIOMode.OUTPUT),
    }
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    wrong = [f"{name} is not in the contract" for name in sorted(names - expected.keys())]
    for name, (shape, kind, mode) in expected.items():
        if name not in names:
            wrong.append(f"{name} is missing")
            continue
        found = tuple(engine.get_tensor_shape(name))
        if engine.get_tensor_mode(name) != mode:
            wrong.append(f"{name} is {engine.get_tensor_mode(name)}")
        if engine.get_tensor_dtype(name) != kind:
            wrong.append(f"{name} is {engine.get_tensor_dtype(name)}, not {kind}")
        if found[1:] != shape[1:] or found[0] not in (-1, batch_size):
            wrong.append(f"{name} is {list(found)}, not {list(shape)}")
    if wrong:
        raise EngineError(
            f"the plan of engine {card.name} does not keep the engine's contract: "
            f"{'; '.join(wrong)}. Delete it and build it again."
        )
