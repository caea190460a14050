"""The GPU of this process, through PyCUDA, and its context.

The primary context is the one that the CUDA runtime uses as well, so TensorRT, PyTorch and decoders
share it. It is retained once, for the lifetime of the process. Each call pushes it, because Ray
calls one actor from many threads: a context pushed in one thread is not current in another, and one
that is left pushed aborts the process at exit.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, Final

from steel_batch.engine.cuda_driver import DriverError, retain_primary_context
from steel_batch.errors import EngineError, MachineError

NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, missing in PyCUDA: the stream never waits for the default stream."""
OTHERWISE: Final = ", or give --runtime onnxruntime."
"""End of messages about what a GPU runtime lacks; replaced where it does not apply."""


def load_driver() -> Any:
    """PyCUDA's driver API, initialised, if there is a GPU.

    Raises:
        ConfigError: PyCUDA, the driver or a GPU is missing.
    """
    try:
        import pycuda.driver as cuda  # only if a GPU is needed
    except (ImportError, OSError) as error:
        raise MachineError(
            f"the TensorRT runtimes need PyCUDA, which cannot be imported here ({error}). Install "
            "steel-batch[gpu] on every GPU node (PyCUDA is compiled from source and needs CUDA's "
            f"headers){OTHERWISE}"
        ) from error
    _set_environment()
    try:
        cuda.init()
        num_devices = cuda.Device.count()
    except cuda.Error as error:
        raise MachineError(
            f"NVIDIA's driver does not start here ({error}): check `nvidia-smi` and "
            f"CUDA_VISIBLE_DEVICES{OTHERWISE}"
        ) from error
    if not num_devices:
        raise MachineError(
            f"this process sees no GPU: check `nvidia-smi` and CUDA_VISIBLE_DEVICES{OTHERWISE}"
        )
    return cuda


def open_early() -> None:
    """Create the context that `open_gpu` finds, in a thread beside which others can run.

    It takes a second, and PyCUDA would hold the interpreter's lock. What fails here fails again in
    `open_gpu`, with its error.
    """
    _set_environment()
    with contextlib.suppress(DriverError):
        retain_primary_context()


def _set_environment() -> None:
    """Set what the driver reads when it starts."""
    # Load kernels on first use: TensorRT 8.5 would load all of its own at once.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    # With CUDA's default of eight queues for all streams, decoding of one batch waits for inference
    # of others.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")


class Gpu:
    """The first GPU that is visible to this process; created by `open_gpu`.

    Args:
        cuda: PyCUDA's driver API, initialised.
    """

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        device = cuda.Device(0)
        major, minor = device.compute_capability()
        self.name = str(device.name())
        self.compute_capability = f"{major}.{minor}"
        version = int(cuda.get_driver_version())
        self.cuda_version = f"{version // 1000}.{version % 1000 // 10}"
        """The newest CUDA version that the driver supports, such as ``12.8``."""
        self._context = device.retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread for a `with` block. Blocks nest."""
        self._context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total memory in bytes.

        Raises:
            EngineError: The GPU does not answer.
        """
        try:
            with self.current():
                free, total = self.cuda.mem_get_info()
        except self.cuda.Error as error:
            raise EngineError(
                f"{self.name} does not answer: {error}. Check `nvidia-smi` and the kernel's log."
            ) from error
        return int(free), int(total)


@functools.cache
def open_gpu() -> Gpu:
    """The first GPU that is visible to this process, the same object each time.

    Raises:
        ConfigError: PyCUDA, the driver or a GPU is missing.
        EngineError: The GPU refuses a context: it is full, or another process uses it exclusively.
    """
    cuda = load_driver()
    try:
        return Gpu(cuda)
    except cuda.Error as error:
        raise EngineError(
            f"the GPU refuses a context to this process ({error}): it is out of memory, or another "
            "process uses it exclusively. Check the processes in `nvidia-smi` and end those that "
            "should not be there."
        ) from error
