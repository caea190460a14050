"""CUDA graphs: the work of a stream, recorded once and launched by one call.

A small network is tens of kernels. Launching each is a call into the driver, and calls of several
threads wait for each other. PyCUDA has no graphs, so the driver is called through `ctypes`, which
releases the GIL.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_ulonglong, c_void_p
from typing import Any, Final

_THREAD_LOCAL: Final = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not end the recording."""
FUNCTIONS: Final[Mapping[str, tuple[Any, ...]]] = {
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}
"""The functions of the driver that are used, with the types of their arguments."""


class RecordingError(Exception):
    """The work cannot be recorded."""


class LaunchError(Exception):
    """Recorded work cannot be launched: the GPU failed."""


@functools.cache
def load_driver(name: str = "libcuda.so.1") -> ctypes.CDLL:
    """Load NVIDIA's driver.

    Raises:
        RecordingError: It is missing, or older than CUDA 11.4.
    """
    try:
        library = ctypes.CDLL(name)
        for function, arguments in FUNCTIONS.items():
            getattr(library, function).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise RecordingError(str(error)) from error
    return library


class Recording:
    """Recorded work of a stream. The GPU's context is current in every call.

    Args:
        stream: The stream's handle.
        enqueue: Puts the work on the stream, where it is recorded instead of done.

    Raises:
        RecordingError: The work cannot be recorded. The stream can be used as before.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._library = load_driver()
        self._executable = c_void_p()
        graph = c_void_p()
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            try:
                enqueue()
            finally:
                status = self._library.cuStreamEndCapture(stream, byref(graph))
            self._check("cuStreamEndCapture", status)
            self._call("cuGraphInstantiateWithFlags", byref(self._executable), graph, 0)
        finally:
            if graph:
                self._library.cuGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        """Put the recorded work on a stream.

        Raises:
            LaunchError: The GPU failed; this process cannot use it any more.
        """
        status = self._library.cuGraphLaunch(self._executable, stream)
        if status:
            raise LaunchError(f"cuGraphLaunch: {self._name(status)}")

    def free(self) -> None:
        """Free the driver's memory of it; idempotent."""
        if self._executable:
            self._library.cuGraphExecDestroy(self._executable)
            self._executable = c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, status: int) -> None:
        if status:
            raise RecordingError(f"{name}: {self._name(status)}")

    def _name(self, status: int) -> str:
        text = c_char_p()
        self._library.cuGetErrorName(status, byref(text))
        return (text.value or b"").decode() or f"status {status}"
