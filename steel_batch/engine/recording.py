"""What a stream is given, recorded once and launched as one: a CUDA graph.

A network is tens of kernels, and each is a call into the driver that other threads' calls wait for.
PyCUDA does not know graphs, so the driver's functions are called by ctypes, which holds up no other
thread.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_char_p, c_int, c_ulonglong, c_void_p
from typing import Any, Final

_THIS_THREAD: Final = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile does not matter."""
FUNCTIONS: Final[Mapping[str, tuple[Any, ...]]] = {
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}
"""What is used of the driver, with the kinds of its arguments."""


class RecordingError(Exception):
    """The driver does not record this."""


class LaunchError(Exception):
    """The driver does not launch what it recorded: the GPU failed."""


@functools.cache
def load_library() -> ctypes.CDLL:
    """NVIDIA's driver.

    Raises:
        RecordingError: It is missing, or older than CUDA 11.4.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
        for name, arguments in FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise RecordingError(str(error)) from error
    return library


class Recording:
    """Work of one stream. The GPU's context is current in every call.

    Args:
        stream: The stream's handle.
        give: Gives it the work, which is not done but recorded.

    Raises:
        RecordingError: Some of it cannot be recorded. The stream can be used as before.
    """

    def __init__(self, stream: int, give: Callable[[], None]) -> None:
        self._library = load_library()
        self._executable = c_void_p()
        graph = c_void_p()
        self._call("cuStreamBeginCapture_v2", stream, _THIS_THREAD)
        try:
            give()
        finally:
            status = self._library.cuStreamEndCapture(stream, byref(graph))
        self._check("cuStreamEndCapture", status)
        try:
            self._call("cuGraphInstantiateWithFlags", byref(self._executable), graph, 0)
        finally:
            self._library.cuGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        """Give a stream the recorded work.

        Raises:
            LaunchError: The GPU failed; this process cannot use it any more.
        """
        status = self._library.cuGraphLaunch(self._executable, stream)
        if status:
            raise LaunchError(f"cuGraphLaunch: {self._name(status)}")

    def free(self) -> None:
        """Free what the driver holds of it; idempotent."""
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
