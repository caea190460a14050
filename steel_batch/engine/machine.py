"""What this machine runs compiled plans with: TensorRT's bindings, their version, and the GPU.

`tensorrt` and `tensorrt_rtx` are the same API under two names. Nothing is imported until one of
these runtimes is requested.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections import deque
from types import ModuleType
from typing import Any, Final

from steel_batch.engine.compiled_plans import ANY_GPU, Machine
from steel_batch.engine.gpu import OTHERWISE, open_gpu
from steel_batch.errors import ConfigError, MachineError

MODULES: Final = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Modules of each runtime's bindings, and the module of its libraries' package, if there is one."""
_OF_ANOTHER_MODEL: Final = "different models of devices"
"""TensorRT's message if a plan was built on another GPU model."""

log = logging.getLogger(__name__)


def import_tensorrt(runtime: str) -> ModuleType:
    """Import the bindings of a runtime.

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
    raise MachineError(
        f"--runtime {runtime} needs the Python package {MODULES[runtime][0]}, which cannot be "
        f"imported here ({'; '.join(reasons)}). Install steel-batch[{extra}] on every GPU "
        f"node{OTHERWISE}"
    )


@functools.cache
def open_logger(trt: ModuleType) -> Any:
    """The logger of a TensorRT module, which forwards to Python's and keeps the last errors.

    TensorRT reports to the first logger of the process, whichever it is given later, so there is
    one, and it is kept.
    """

    class PythonLogger(trt.ILogger):  # type: ignore[misc, name-defined] # the module is an argument
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=16)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._errors.append(message.strip().rstrip("."))
                log.info("TensorRT: %s", message)
            elif severity == trt.ILogger.Severity.WARNING:
                level = logging.WARNING if _OF_ANOTHER_MODEL in message else logging.DEBUG
                log.log(level, "TensorRT: %s", message)

        def take_errors(self) -> list[str]:
            """Take the errors since the last call, oldest first: the first is the cause."""
            errors = list(self._errors)
            self._errors.clear()
            return errors

    return PythonLogger()


def check_start(runtime: str) -> None:
    """Check that TensorRT starts, which it does not if the driver is too old for its CUDA.

    Raises:
        ConfigError: The bindings are missing, or it does not start.
    """
    trt = import_tensorrt(runtime)
    logger = open_logger(trt)
    logger.take_errors()
    started = None
    with contextlib.suppress(TypeError, RuntimeError):  # how the bindings report that there is none
        started = trt.Runtime(logger)
    if started is None:
        reason = (logger.take_errors() or ["it gives no reason"])[0]
        raise MachineError(
            f"{runtime} {trt.__version__} does not start on this machine: {reason}. Install a "
            "newer NVIDIA driver, or a TensorRT for the CUDA version of this driver."
        )


def find_machine(runtime: str) -> Machine:
    """Describe what this machine runs plans with; plans are named and locked by it.

    The plans of TensorRT for RTX are for any GPU, and none is needed to build them.

    Raises:
        ConfigError: The bindings are missing; for ``tensorrt`` also PyCUDA, the driver or a GPU.
        EngineError: The GPU refuses a context to this process.
    """
    trt = import_tensorrt(runtime)
    if runtime == "tensorrt_rtx":
        capability, device_name = ANY_GPU, ""
        with contextlib.suppress(ConfigError):
            device_name = open_gpu().name
    else:
        gpu = open_gpu()
        capability, device_name = gpu.compute_capability, gpu.name
    return Machine(
        runtime=runtime,
        runtime_version=trt.__version__,
        compute_capability=capability,
        device_name=device_name,
    )
