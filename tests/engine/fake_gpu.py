"""A GPU without one: what we call of PyCUDA, CUDA, TensorRT and nvJPEG, done by the CPU."""

from __future__ import annotations

import ctypes
import math
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from steel_batch.engine import nvjpeg
from steel_batch.engine.cuda_driver import load_libcuda
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.nvjpeg import FUNCTIONS, load_nvjpeg, open_handle
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK, Card

TOTAL_BYTES, WEIGHTS_BYTES = 4 << 30, 1 << 30


class Calls:
    """The calls so far of those that can go wrong, and how those go that a test names."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.faults: dict[str, BaseException] = {}
        self.refusals: dict[str, Any] = {}
        self.loaded: weakref.WeakSet[FakeEngine] = weakref.WeakSet()
        """The plans on the GPU."""
        self.decoding, self.most_decoding = 0, 0
        """Batches in nvJPEG, now and at most."""
        self.registered: dict[int, int] = {}
        """Sizes of the host memory that the GPU may write to, by address."""
        self.pinned: list[tuple[int, ...]] = []
        """Shapes of the pinned memory that was allocated."""
        self.copied: list[tuple[int, int]] = []
        """Addresses and sizes of the host memory that copies were made to."""
        self.captured: list[Callable[[], Any]] | None = None
        """The work of a stream that is being recorded."""
        self.graphs: dict[int, list[Callable[[], Any]]] = {}
        """The recorded graphs that are not freed, by their handles."""

    def call(self, name: str, answer: Any = None) -> Any:
        self.names.append(name)
        if name in self.faults:
            raise self.faults[name]
        return self.refusals.get(name, answer)

    def enqueue(self, work: Callable[[], Any]) -> None:
        """Do a stream's work, or record it."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)


class CudaError(Exception):
    """PyCUDA's error."""


class FakeMemory:
    """Of the device."""

    def __init__(self, num_bytes: int) -> None:
        self._bytes = ctypes.create_string_buffer(num_bytes)

    def __int__(self) -> int:
        return ctypes.addressof(self._bytes)

    def free(self) -> None:
        pass


class FakeDevice:
    """The only one."""

    def __init__(self, number: int) -> None:
        assert number == 0

    @staticmethod
    def count() -> int:
        return 1

    def compute_capability(self) -> tuple[int, int]:
        return 9, 0

    def name(self) -> str:
        return "NVIDIA H200"

    def retain_primary_context(self) -> Any:
        return SimpleNamespace(push=lambda: None)


class FakeStream:
    handle = 0

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def synchronize(self) -> None:
        self._calls.call("Stream.synchronize")


class FakeEvent:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def record(self, stream: FakeStream) -> None:
        pass

    def synchronize(self) -> None:
        self._calls.call("Event.synchronize")


class FakeMemcpy2D:
    """A copy of some rows, from the device to the host."""

    src_pitch = dst_pitch = width_in_bytes = height = 0

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def set_src_device(self, address: int) -> None:
        self._source = address

    def set_dst_host(self, array: np.ndarray) -> None:
        self._target = array

    def __call__(self, stream: FakeStream) -> None:
        height = self.height  # a recording keeps the values that it was made with

        def copy() -> None:
            for row in range(height):
                ctypes.memmove(
                    self._target.ctypes.data + row * self.dst_pitch,
                    self._source + row * self.src_pitch,
                    self.width_in_bytes,
                )

        self._calls.enqueue(copy)


class FakeDriver:
    """``pycuda.driver``."""

    Error = CudaError
    Device = FakeDevice
    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.Context = SimpleNamespace(
            pop=lambda: None, synchronize=lambda: calls.call("Context.synchronize")
        )

    def init(self) -> None:
        pass

    def get_driver_version(self) -> int:
        return 12080

    def mem_get_info(self) -> tuple[int, int]:
        self._calls.call("mem_get_info")
        return TOTAL_BYTES - WEIGHTS_BYTES * len(self._calls.loaded), TOTAL_BYTES

    def pagelocked_zeros(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        self._calls.call("pagelocked_zeros")
        self._calls.pinned.append(tuple(shape))
        return np.zeros(shape, dtype)

    def mem_alloc(self, num_bytes: int) -> FakeMemory:
        return FakeMemory(num_bytes)

    def Stream(self, flags: int) -> FakeStream:
        return FakeStream(self._calls)

    def Event(self, flags: int) -> Any:
        return self._calls.call("Event", FakeEvent(self._calls))

    def memcpy_htod_async(self, address: int, array: np.ndarray, stream: FakeStream) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def memcpy_dtoh_async(self, array: np.ndarray, memory: Any, stream: FakeStream) -> None:
        self._calls.copied.append((array.ctypes.data, array.nbytes))
        self._calls.enqueue(lambda: ctypes.memmove(array.ctypes.data, int(memory), array.nbytes))

    def Memcpy2D(self) -> FakeMemcpy2D:
        return FakeMemcpy2D(self._calls)

    def memcpy_dtoh(self, array: np.ndarray, memory: Any) -> None:
        self._calls.call("memcpy_dtoh")
        ctypes.memmove(array.ctypes.data, int(memory), array.nbytes)


class FakeEngine:
    """TensorRT's: a plan that is loaded."""

    num_io_tensors = 4

    def __init__(self, calls: Calls, card: Card, batch_size: int) -> None:
        self._calls = calls
        image, scores = (batch_size, 1, card.height, card.width), (batch_size, len(card.classes))
        self._shapes = {IMAGE: image, MASK: image, PEAK: scores, COUNT: scores}

    def get_tensor_name(self, index: int) -> str:
        return list(self._shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == IMAGE else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "float32" if name in (PEAK, COUNT) else "uint8"

    def create_execution_context(self) -> Any:
        calls, memory = self._calls, {}

        def set_address(name: str, address: int) -> bool:
            memory[name] = address
            return True

        def infer() -> None:
            """Each pixel's mask is its lowest bit."""
            image, mask = (
                np.ctypeslib.as_array(
                    (ctypes.c_uint8 * math.prod(self._shapes[name])).from_address(memory[name])
                )
                for name in (IMAGE, MASK)
            )
            mask[:] = image & 1

        def execute(_: int) -> bool:
            accepted = bool(calls.call("execute_async_v3", True))
            if accepted:
                calls.enqueue(infer)
            return accepted

        context = SimpleNamespace(set_tensor_address=set_address, execute_async_v3=execute)
        return calls.call("create_execution_context", context)


class FakeTensorrt:
    """``tensorrt``, whose plans are all of one card and batch."""

    __version__ = "10.0.0.1"
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    uint8, float32 = "uint8", "float32"

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    def __init__(self, calls: Calls, card: Card, batch_size: int) -> None:
        self._calls, self._card, self._batch_size = calls, card, batch_size

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, plan: bytes) -> FakeEngine | None:
        engine = FakeEngine(self._calls, self._card, self._batch_size)
        self._calls.loaded.add(engine)
        return self._calls.call("deserialize_cuda_engine", engine)


def fake_nvjpeg(calls: Calls) -> SimpleNamespace:
    """nvJPEG; ``nvjpegCreateEx(3)`` is the call for the hardware decoder."""

    set_up: dict[int, int] = {}

    def initialize(handle: Any, state: Any, num: int, *_: int) -> int:
        set_up[state.value] = num
        return 0

    def decode(handle: Any, state: Any, files: Any, sizes: Any, images: Any, stream: Any) -> int:
        if set_up.pop(state.value, 0) != len(files):  # or it is busy
            return 2
        calls.decoding += 1
        calls.most_decoding = max(calls.most_decoding, calls.decoding)
        time.sleep(0.01)  # as nvJPEG, without the GIL
        for file, size, image in zip(files, sizes, images, strict=True):
            data = np.frombuffer(ctypes.string_at(file, size), np.uint8)
            pixels_HW = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
            assert pixels_HW is not None
            ctypes.memmove(image.channel[0], pixels_HW.ctypes.data, pixels_HW.nbytes)
        calls.decoding -= 1
        status = int(calls.call("nvjpegDecodeBatched", 0))
        if not status:
            set_up[state.value] = len(files)
        return status

    def create_state(handle: Any, state: Any) -> int:
        status = int(calls.call("nvjpegJpegStateCreate", 0))
        state._obj.value = None if status else len(calls.names)
        return status

    library = SimpleNamespace(**{name: lambda *_: 0 for name in FUNCTIONS})
    library.nvjpegJpegStateCreate = create_state
    library.nvjpegCreateEx = lambda backend, *_: calls.call(f"nvjpegCreateEx({backend})", 0)
    library.nvjpegDecodeBatchedInitialize = initialize
    library.nvjpegDecodeBatched = decode
    return library


def fake_cuda(calls: Calls) -> SimpleNamespace:
    """What is used of CUDA's driver without PyCUDA."""

    def begin(stream: int, mode: int) -> int:
        status = calls.call("cuStreamBeginCapture_v2", 0)
        calls.captured = None if status else []
        return int(status)

    def end(stream: int, graph: Any) -> int:
        work, calls.captured = calls.captured, None
        assert work is not None
        status = int(calls.call("cuStreamEndCapture", 0))
        if not status:
            graph._obj.value = len(calls.names)
            calls.graphs[graph._obj.value] = work
        return status

    def instantiate(executable: Any, graph: Any, flags: int) -> int:
        status = int(calls.call("cuGraphInstantiateWithFlags", 0))
        if not status:
            executable._obj.value = len(calls.names)
            calls.graphs[executable._obj.value] = calls.graphs[graph.value]
        return status

    def launch(executable: Any, stream: int) -> int:
        for work in calls.graphs[executable.value]:
            work()
        return int(calls.call("cuGraphLaunch", 0))

    def destroy(graph: Any) -> int:
        del calls.graphs[graph.value]
        return 0

    def register(address: int, size: int, flags: int) -> int:
        status = int(calls.call("cuMemHostRegister_v2", 0))
        if not status:
            calls.registered[address] = size
        return status

    def unregister(address: int) -> int:
        del calls.registered[address]
        return 0

    def name_error(status: int, name: Any) -> int:
        name._obj.value = {719: b"CUDA_ERROR_LAUNCH_FAILED"}.get(status)
        return 0 if status == 719 else 1

    return SimpleNamespace(
        cuStreamBeginCapture_v2=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiateWithFlags=instantiate,
        cuGraphLaunch=launch,
        cuGraphExecDestroy=destroy,
        cuGraphDestroy=destroy,
        cuInit=lambda _: calls.call("cuInit", 0),
        cuDeviceGet=lambda *_: calls.call("cuDeviceGet", 0),
        cuDevicePrimaryCtxRetain=lambda *_: calls.call("cuDevicePrimaryCtxRetain", 0),
        cuMemHostRegister_v2=register,
        cuMemHostUnregister=unregister,
        cuGetErrorName=name_error,
    )


@contextmanager
def fake_gpu(card: Card | None = None, batch_size: int = 4) -> Iterator[Calls]:
    """Give this process a GPU for a `with` block; with a card also a TensorRT that has its plan."""
    calls = Calls()
    driver = FakeDriver(calls)
    library = SimpleNamespace(abs_path="libnvjpeg.so")
    modules: dict[str, Any] = {
        "pycuda": SimpleNamespace(driver=driver),
        "pycuda.driver": driver,
        "cuda.pathfinder": SimpleNamespace(load_nvidia_dynamic_lib=lambda _: library),
    }
    if card is not None:
        modules["tensorrt"] = FakeTensorrt(calls, card, batch_size)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(
            ctypes,
            "CDLL",
            lambda name: fake_cuda(calls) if name == "libcuda.so.1" else fake_nvjpeg(calls),
        )
        for cached in (open_gpu, load_nvjpeg, open_handle, load_libcuda):
            cached.cache_clear()
        try:
            yield calls
        finally:
            for cached in (open_gpu, load_nvjpeg, open_handle, load_libcuda):
                cached.cache_clear()
            nvjpeg._idle.clear()
