"""Decodes JPEGs on the GPU, with nvJPEG, directly into an engine's input.

nvJPEG's functions are called through ctypes, which blocks no other thread; one call decodes a
batch. Only this module uses them. What the GPU cannot decode is left to the CPU, whose result is
authoritative.

Source: https://docs.nvidia.com/cuda/nvjpeg/index.html. Shape suffixes: N images of a batch, H rows,
W columns.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
from collections.abc import Mapping
from ctypes import POINTER, byref, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch.engine.gpu import NON_BLOCKING, Gpu, open_gpu
from steel_batch.errors import ConfigError, EngineError, MachineError

log = logging.getLogger(__name__)

_GPU_HYBRID, _HARDWARE = 2, 3
"""nvjpegBackend_t: the GPU's compute units, and its hardware decoder."""
_OUTPUT_Y: Final = 2
"""nvjpegOutputFormat_t: luminance only."""
_STATUS: Final = (
    "success", "not initialized", "invalid parameter", "bad JPEG", "JPEG not supported",
    "allocation failed", "execution failed", "not for this GPU", "internal error",
    "not implemented", "incomplete JPEG",
)  # fmt: skip
"""nvjpegStatus_t."""
_NO_MEMORY: Final = 5
"""nvjpegStatus_t if the GPU has too little memory left."""
_VERSION_PARTS: Final = (0, 1, 2)
"""libraryPropertyType_t: major version, minor version, patch level."""
_NO_JPEG_UNIT: Final = (7, 9)
"""What nvjpegCreateEx returns if a GPU has no hardware decoder, which is not an error."""
FUNCTIONS: Final[Mapping[str, tuple[Any, ...]]] = {
    "nvjpegCreateEx": (c_int, c_void_p, c_void_p, c_uint, POINTER(c_void_p)),
    "nvjpegGetProperty": (c_int, POINTER(c_int)),
    "nvjpegJpegStateCreate": (c_void_p, POINTER(c_void_p)),
    "nvjpegDecodeBatchedInitialize": (c_void_p, c_void_p, c_int, c_int, c_int),
    "nvjpegDecodeBatched": (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
}
"""The functions of nvJPEG that are used, with the types of their arguments."""

DECODES_AT_ONCE: Final = 2
"""Threads that call nvJPEG at once. Six made an H200 a sixth slower than two (see decoding.md)."""
_turn: Final = threading.BoundedSemaphore(DECODES_AT_ONCE)
_starting: Final = threading.Lock()
"""Held to start nvJPEG and to make a state, which other threads would only make slower."""


@dataclass(slots=True)
class _State:
    """What nvJPEG needs for one batch at a time; the first one of a process takes .36 s."""

    handle: c_void_p
    batch_size: int = 0
    """Batch size that it is set up for; 0: none."""


_idle: Final[list[_State]] = []
"""States that decode nothing now. All decoders of the process share them, so there are no more than
decode at once."""


class _Image(ctypes.Structure):
    """nvjpegImage_t: where an image's channels are written."""

    _fields_ = (("channel", c_void_p * 4), ("pitch", c_size_t * 4))


@functools.cache
def load_nvjpeg() -> ctypes.CDLL:
    """Load NVIDIA's nvJPEG, from its package or from an installed CUDA.

    Raises:
        ConfigError: It is not installed or cannot be loaded.
    """
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # only if a GPU decodes

        path = load_nvidia_dynamic_lib("nvjpeg").abs_path
        if path is None:
            raise OSError("its file is not found")
        library = ctypes.CDLL(path)
        for name, arguments in FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise MachineError(
            f"--decode gpu needs NVIDIA's nvJPEG, which cannot be loaded here ({error}). Install "
            "steel-batch[gpu] on every GPU node, or give --decode cpu."
        ) from error
    return library


def find_version(library: ctypes.CDLL) -> str:
    """The version of nvJPEG, such as ``13.0.1``; needs no GPU."""
    parts = []
    for kind in _VERSION_PARTS:
        part = c_int()
        _check("nvjpegGetProperty", library.nvjpegGetProperty(kind, byref(part)))
        parts.append(str(part.value))
    return ".".join(parts)


@functools.cache
def open_handle() -> tuple[c_void_p, int]:
    """Start nvJPEG on this process's GPU, whose context is current; once a process.

    Threads may use a handle at once, each with a state of its own, so all decoders share it.

    Returns:
        Its handle, and the nvjpegStatus_t that says why the hardware decoder is not used, 0 if it
        is.

    Raises:
        ConfigError: nvJPEG is missing.
        RuntimeError: It does not start.
    """
    library, handle = load_nvjpeg(), c_void_p()
    hardware_status = status = library.nvjpegCreateEx(_HARDWARE, None, None, 0, byref(handle))
    if hardware_status not in (0, _NO_MEMORY):
        status = library.nvjpegCreateEx(_GPU_HYBRID, None, None, 0, byref(handle))
    _check("nvjpegCreateEx", status)
    return handle, hardware_status


def start_early() -> None:
    """Start nvJPEG and make its first state, in a thread beside which others can run.

    It takes 0.65 s. What fails here fails again in `check_decoder`, with its error.
    """
    with contextlib.suppress(ConfigError, EngineError, RuntimeError):
        gpu = open_gpu()
        with contextlib.suppress(gpu.cuda.Error), gpu.current():
            _start()


def _start() -> None:
    """Start nvJPEG and make its first state, unless that is done. The context is current."""
    with _starting:
        handle, _ = open_handle()
        if not _idle:
            _idle.append(_new_state(load_nvjpeg(), handle))


class GpuDecoder:
    """Decodes a batch's JPEGs to gray in device memory. Used by one thread at a time.

    Args:
        gpu: The GPU; its context is current, here and in each call.
        stream: A stream of PyCUDA; work that it gets after `decode` sees the pixels.
        address: Address of the batch in the device's memory, which outlives the decoder.
        shape_NHW: Shape of that memory, one byte per pixel.

    Raises:
        ConfigError: nvJPEG is missing.
        RuntimeError: It does not start.
    """

    def __init__(
        self, gpu: Gpu, stream: Any, address: int, shape_NHW: tuple[int, int, int]
    ) -> None:
        self._library = load_nvjpeg()
        self._version = find_version(self._library)
        self._gpu = gpu
        self._stream: Any = stream
        num_images, height, width = shape_NHW
        self._images = [
            _Image((address + i * height * width,), (width,)) for i in range(num_images)
        ]
        with _starting:
            self._handle, self.hardware_status = open_handle()
        flags = gpu.cuda.event_flags
        self._done = gpu.cuda.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)

    @property
    def is_hardware(self) -> bool:
        """Whether the hardware decoder decodes, rather than the compute units."""
        return self.hardware_status == 0

    @property
    def name(self) -> str:
        """``nvjpeg <version>``, and ``hardware`` or ``cuda`` for the unit that decodes."""
        return f"nvjpeg {self._version} {'hardware' if self.is_hardware else 'cuda'}"

    def decode(self, jpegs: Mapping[int, Any]) -> dict[int, Any]:
        """Decode JPEGs, each into its image of the batch, and wait without the GIL.

        The memory must be idle: nvJPEG does not wait for the stream's earlier work.

        Args:
            jpegs: Plain JPEGs of the batch's height and width (`jpeg.is_plain_jpeg`) that are
                complete by their structure (`decode.check_jpeg`), by their index in the batch.

        Returns:
            Those that are decoded. The memory of the others is undefined.

        Raises:
            cuda.Error: The GPU failed; this process cannot use it any more.
        """
        if not jpegs:
            return {}
        taken = {place: pa.py_buffer(data) for place, data in jpegs.items()}
        num = len(taken)
        addresses = (c_void_p * num)(*[file.address for file in taken.values()])
        lengths = (c_size_t * num)(*[file.size for file in taken.values()])
        images = (_Image * num)(*[self._images[place] for place in taken])
        handle, stream = self._handle, self._stream.handle
        try:
            with _turn:
                state = _take_state(self._library, handle)
                try:
                    if num != state.batch_size:
                        self._call(
                            "nvjpegDecodeBatchedInitialize", handle, state.handle, num, 1, _OUTPUT_Y
                        )
                        state.batch_size = num
                    self._call(
                        "nvjpegDecodeBatched", handle, state.handle, addresses, lengths, images,
                        stream,
                    )  # fmt: skip
                    self._done.record(self._stream)
                    self._done.synchronize()
                    _idle.append(state)
                except RuntimeError:
                    state.batch_size = 0  # it must be set up again
                    self._gpu.cuda.Context.synchronize()  # it may have started some of them
                    _idle.append(state)
                    raise
        except RuntimeError as error:
            log.warning("the GPU decodes none of %d JPEGs: %s", num, error)
            return {}
        return taken

    def free(self) -> None:
        """Let go of the stream, which is idle."""
        self._stream = self._done = None

    def _call(self, name: str, *arguments: Any) -> None:
        _check(name, getattr(self._library, name)(*arguments))


def _take_state(library: ctypes.CDLL, handle: c_void_p) -> _State:
    with _starting:
        return _idle.pop() if _idle else _new_state(library, handle)


def _new_state(library: ctypes.CDLL, handle: c_void_p) -> _State:
    state = c_void_p()
    _check("nvjpegJpegStateCreate", library.nvjpegJpegStateCreate(handle, byref(state)))
    return _State(state)


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{name}: {_name_of(status)}")


def _name_of(status: int) -> str:
    return _STATUS[status] if status < len(_STATUS) else f"status {status}"


def check_decoder(height: int, width: int) -> None:
    """Decode one strip on this process's GPU and compare it with the CPU's result.

    A hardware decoder that exists but cannot be used is logged.

    Args:
        height: Height of the images to come.
        width: Width of the images to come.

    Raises:
        ConfigError: PyCUDA or a GPU is missing; or nvJPEG is missing, does not start or does not
            decode here.
        EngineError: The GPU refuses a context to this process, or fails.
    """
    gpu = open_gpu()
    noise_HW = np.random.default_rng(1).integers(0, 256, (height, width), dtype=np.uint8)
    _, jpeg = cv2.imencode(".jpg", cv2.blur(noise_HW, (9, 9)))
    expected_HW = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), np.int16)
    try:
        with gpu.current():
            _start()
            found_HW = _decode_one(gpu, jpeg, height, width)
    except gpu.cuda.Error as error:
        raise EngineError(
            f"{gpu.name} failed while it decoded one JPEG: {error}. Check `nvidia-smi` and the "
            "kernel's log, then run the same command again; if it fails again, add "
            "--decode cpu."
        ) from error
    except RuntimeError as error:
        repair = "Install the present version of steel-batch[gpu]"
        if _STATUS[_NO_MEMORY] in str(error):
            free, total = gpu.memory()
            repair = (
                f"{free >> 20:,} of its {total >> 20:,} MiB are free. Give a smaller --batch-size, "
                "end other processes on it"
            )
        raise MachineError(
            f"nvJPEG does not work on {gpu.name}: {error}. {repair}, or give --decode cpu."
        ) from error
    if found_HW is None or (difference := int(np.abs(found_HW - expected_HW).max())) > 1:
        found = "nothing" if found_HW is None else f"pixels that differ by {difference}"
        raise MachineError(
            f"nvJPEG decodes a JPEG of {width}×{height} pixels to {found} on {gpu.name}; expected "
            "the CPU's pixels within one gray level. Give --decode cpu."
        )


def _decode_one(
    gpu: Gpu, jpeg: npt.NDArray[np.uint8], height: int, width: int
) -> npt.NDArray[np.uint8] | None:
    """Decode one JPEG into memory of its own; None if it is not decoded. The context is current."""
    cuda = gpu.cuda
    found_HW = np.zeros((height, width), np.uint8)
    memory, is_decoded = cuda.mem_alloc(found_HW.nbytes), False
    try:
        stream = cuda.Stream(NON_BLOCKING)
        decoder = GpuDecoder(gpu, stream, int(memory), (1, height, width))
        if decoder.hardware_status not in (0, *_NO_JPEG_UNIT):
            log.warning(
                "nvJPEG cannot use the hardware decoder of %s (%s), so JPEGs are decoded by the "
                "units that also run the network: a container needs "
                "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video",
                gpu.name,
                _name_of(decoder.hardware_status),
            )
        is_decoded = bool(decoder.decode({0: jpeg}))
        cuda.memcpy_dtoh(found_HW, memory)
        decoder.free()
    finally:
        memory.free()
    return found_HW if is_decoded else None
