"""The GPU of this process through PyCUDA, and its context.

The primary context is the one that the CUDA runtime has as well, so TensorRT, PyTorch and decoders
share it. It is retained once and kept as long as the process lives. Each call pushes it, because
Ray calls one actor from many threads: what is pushed in one is not current in the other, and what
is left pushed aborts the process at its exit.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, Final

from steel_batch.errors import EngineError, MachineError

NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA has no name for: never waits for the default stream."""
OTHERWISE: Final = ", or give --runtime onnxruntime."
"""How messages end that say what a GPU runtime lacks. Who cannot follow it ends them otherwise."""


def load_driver() -> Any:
    """PyCUDA's driver API, initialised, with a GPU there.

    Raises:
        ConfigError: PyCUDA, the driver or a GPU is missing.
    """
    try:
        import pycuda.driver as cuda  # only where a GPU is wanted
    except (ImportError, OSError) as error:
        raise MachineError(
            f"the TensorRT runtimes need PyCUDA, which cannot be imported here ({error}). Install "
            "steel-batch[gpu] on every GPU node (PyCUDA is compiled from source and needs CUDA's "
            f"headers){OTHERWISE}"
        ) from error
    # Kernels are loaded when they are first used: TensorRT 8.5 would load all of its own at once.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    # With CUDA's usual eight queues for all streams, what one batch decodes waits for what others
    # infer.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
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


class Gpu:
    """The first GPU that this process sees; get it from `open_gpu`.

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
        """The newest CUDA that the driver runs, such as ``12.8``."""
        self._context = device.retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the context this thread's for a `with` block. Blocks nest."""
        self._context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes.

        Raises:
            EngineError: The GPU does not answer.
        """
        try:
            with self.current():
                free, total = self.cuda.mem_get_info()
        except self.cuda.Error as error:
            raise EngineError(f"{self.name} does not answer: {error}.") from error
        return int(free), int(total)


@functools.cache
def open_gpu() -> Gpu:
    """The first GPU that this process sees, the same object each time.

    Raises:
        ConfigError: PyCUDA, the driver or a GPU is missing.
        EngineError: The GPU gives no context: it is full, or another process has it for itself.
    """
    cuda = load_driver()
    try:
        return Gpu(cuda)
    except cuda.Error as error:
        raise EngineError(
            f"the GPU gives this process no context ({error}): it is out of memory or another "
            "process has it for itself; see `nvidia-smi`."
        ) from error
