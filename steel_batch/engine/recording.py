"""CUDA graphs: the work of a stream, recorded once and launched by one call.

A small network is tens of kernels. Launching each is a call into the driver, and calls of several
threads wait for each other. PyCUDA has no graphs, so the driver is called through `ctypes`, which
releases the GIL.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_void_p
from typing import Final

from steel_batch.engine import cuda_driver

_THREAD_LOCAL: Final = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads do not end the recording."""


class LaunchError(Exception):
    """Recorded work cannot be launched: the GPU failed."""


class Recording:
    """Recorded work of a stream. The GPU's context is current in every call.

    Args:
        stream: The stream's handle.
        enqueue: Puts the work on the stream, where it is recorded instead of done.

    Raises:
        DriverError: The work cannot be recorded. The stream can be used as before.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._library = cuda_driver.load_libcuda()
        self._executable = c_void_p()
        graph = c_void_p()
        cuda_driver.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            try:
                enqueue()
            finally:
                status = self._library.cuStreamEndCapture(stream, byref(graph))
            cuda_driver.check("cuStreamEndCapture", status)
            cuda_driver.call("cuGraphInstantiateWithFlags", byref(self._executable), graph, 0)
        finally:
            if graph:
                self._library.cuGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        """Put the recorded work on a stream.

        Raises:
            LaunchError: The GPU failed; this process cannot use it any more.
        """
        try:
            cuda_driver.call("cuGraphLaunch", self._executable, stream)
        except cuda_driver.DriverError as error:
            raise LaunchError(str(error)) from error

    def free(self) -> None:
        """Free the driver's memory of it; idempotent."""
        if self._executable:
            self._library.cuGraphExecDestroy(self._executable)
            self._executable = c_void_p()
