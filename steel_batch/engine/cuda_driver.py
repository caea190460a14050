"""Functions of NVIDIA's driver that PyCUDA lacks or gets wrong, called without the GIL.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FUNCTIONS: Final[Mapping[str, tuple[Any, ...]]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuMemHostRegister_v2": (c_void_p, c_size_t, c_uint),
    "cuMemHostUnregister": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}
"""The functions of the driver that are used, with the types of their arguments."""


class DriverError(Exception):
    """The driver is missing or too old, or refuses a call."""


@functools.cache
def load_libcuda(name: str = "libcuda.so.1") -> ctypes.CDLL:
    """Load NVIDIA's driver.

    Raises:
        DriverError: It is missing, or older than CUDA 11.4.
    """
    try:
        library = ctypes.CDLL(name)
        for function, arguments in FUNCTIONS.items():
            getattr(library, function).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise DriverError(str(error)) from error
    return library


def call(name: str, *arguments: Any) -> None:
    """Call a function of the driver.

    Raises:
        DriverError: It is refused.
    """
    check(name, getattr(load_libcuda(), name)(*arguments))


def check(name: str, status: int) -> None:
    """Check what a function of the driver returned.

    Raises:
        DriverError: The call was refused.
    """
    if status:
        raise DriverError(f"{name}: {_name_of(status)}")


def _name_of(status: int) -> str:
    text = c_char_p()
    load_libcuda().cuGetErrorName(status, byref(text))
    return (text.value or b"").decode() or f"status {status}"


def retain_primary_context() -> None:
    """Create the first visible GPU's primary context, for the lifetime of the process.

    Raises:
        DriverError: The driver, a GPU or its memory is missing.
    """
    device, context = c_int(), c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", byref(device), 0)
    call("cuDevicePrimaryCtxRetain", byref(context), device)


class RegisteredMemory:
    """Host memory that the GPU reads and writes directly. The GPU's context is current.

    PyCUDA's `register_host_memory` fails: it gives a base to an array that has one.

    Args:
        memory: Contiguous; it is kept until `free`.

    Raises:
        DriverError: The memory cannot be registered. It can be used as before.
    """

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        self._memory: npt.NDArray[np.uint8] | None = None
        call("cuMemHostRegister_v2", memory.ctypes.data, memory.nbytes, 0)
        self._memory = memory

    def free(self) -> None:
        """Give the memory back to the process alone; idempotent."""
        memory, self._memory = self._memory, None
        if memory is not None:
            load_libcuda().cuMemHostUnregister(memory.ctypes.data)
