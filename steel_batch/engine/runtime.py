"""Selects and opens the runtime that executes an engine on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil

from steel_batch.config import CPU_BATCH_SIZE, DECODES_ON, RUNTIMES, DecodeOn, RuntimeSettings
from steel_batch.engine.build import ensure_plan, usual_precision
from steel_batch.engine.compiled_plans import read_plan
from steel_batch.engine.contract import Runtime
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.machine import import_tensorrt
from steel_batch.engine.nvjpeg import check_decoder, load_nvjpeg
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.tensorrt import NUM_SLOTS, TrtRuntime
from steel_batch.errors import ConfigError
from steel_batch.registry.card import Card
from steel_batch.registry.versions import Engine

log = logging.getLogger(__name__)


def wants_gpu(runtime: str) -> bool:
    """Whether a runtime's actors need a GPU; ``auto`` does if TensorRT and a GPU are present.

    Raises:
        ConfigError: There is no runtime of that name.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(
            f"--runtime {runtime!r} is unknown; expected one of {', '.join(RUNTIMES)}."
        )
    if runtime != "auto":
        return runtime != "onnxruntime"
    return shutil.which("nvidia-smi") is not None and (
        importlib.util.find_spec("tensorrt") is not None
        and importlib.util.find_spec("pycuda") is not None
    )


def decodes_on_gpu(decode_on: str, *, runtime: str) -> bool:
    """Whether an actor's JPEGs are to be decoded on its GPU, if the GPU can.

    Args:
        decode_on: One of `DECODES_ON`.
        runtime: Runtime of the actor, never ``auto``.

    Raises:
        ConfigError: `decode` is unknown, or ``gpu`` is requested but the CPU scores.
    """
    if decode_on not in DECODES_ON:
        raise ConfigError(
            f"--decode {decode_on!r} is unknown; expected one of {', '.join(DECODES_ON)}."
        )
    if runtime == "onnxruntime":
        if decode_on == "gpu":
            raise ConfigError(
                "--decode gpu cannot be combined with ONNX Runtime, which scores on CPUs: give "
                "--runtime tensorrt, or --decode cpu."
            )
        return False
    return decode_on != "cpu"


def load_libraries(runtime: str, decode_on: DecodeOn) -> None:
    """Load what `open_runtime` and `let_gpu_decode` need, without the GPU: half a second.

    What fails here fails again there, with its error.
    """
    with contextlib.suppress(ConfigError):
        import_tensorrt("tensorrt" if runtime == "auto" else runtime)
    if decode_on != "cpu":
        with contextlib.suppress(ConfigError):
            load_nvjpeg()


def open_runtime(
    engine: Engine,
    settings: RuntimeSettings,
    *,
    decode_on: DecodeOn = "cpu",
    num_threads: int = 1,
    num_slots: int = NUM_SLOTS,
) -> Runtime:
    """Load an engine on this machine.

    If the engine has no compiled plan for the GPU, the first actor builds one, in one to five
    minutes, while the others wait.

    Args:
        engine: The engine.
        settings: Runtime, precision and batch size.
        decode_on: Where JPEGs are decoded. ``auto`` is the GPU if it can.
        num_threads: CPU threads of the actor: batches in flight if the CPU infers.
        num_slots: Batches in flight on a GPU.

    Raises:
        EngineError: The engine's files are missing, damaged or do not fulfil the contract, or the
            GPU does not work.
        ConfigError: A GPU runtime or its decoder is requested, but packages, the driver or a GPU
            are missing.
        EngineMismatchError: A compiled plan that fits by its record does not load.
        LockHeldError: Another actor has been building the missing plan for half an hour.
    """
    runtime = _load(engine, settings, num_threads, num_slots)
    try:
        let_gpu_decode(runtime, engine.card, decode_on)
    except BaseException:
        runtime.close()
        raise
    return runtime


def let_gpu_decode(runtime: Runtime, card: Card, decode_on: DecodeOn) -> None:
    """Let a runtime's GPU decode JPEGs, if it is to and can; before the first batch.

    Args:
        runtime: The runtime, opened to decode on the CPU.
        card: Its engine's card.
        decode_on: See `open_runtime`.

    Raises:
        ConfigError: ``gpu`` is requested, but the GPU or its decoder cannot decode, or a CPU
            scores.
        EngineError: The GPU does not work.
    """
    name = runtime.provenance.runtime
    if not isinstance(runtime, TrtRuntime):
        decodes_on_gpu(decode_on, runtime=name)
    elif decodes_on_gpu(decode_on, runtime=name) and _can_decode(card, decode_on):
        runtime.open_decoders()


def _load(
    engine: Engine, settings: RuntimeSettings, num_threads: int, num_slots: int
) -> TrtRuntime | OrtRuntime:
    card, batch_size = engine.card, settings.batch_size
    runtime, precision = settings.runtime, str(settings.precision)
    if wants_gpu(runtime):
        runtime = "tensorrt" if runtime == "auto" else runtime
        precision = usual_precision(engine, runtime) if precision == "auto" else precision
        open_gpu()  # or TensorRT for RTX, whose builder needs no GPU, would build a useless plan
        plan = ensure_plan(engine, runtime=runtime, precision=precision, batch_size=batch_size)
        return TrtRuntime(
            read_plan(engine, plan),
            card,
            runtime=runtime,
            batch_size=plan.batch_size,
            precision=precision,
            num_slots=num_slots,
        )
    precision = "fp32" if precision == "auto" else precision
    return OrtRuntime(
        engine.read_graph(precision),
        card,
        precision=precision,
        batch_size=batch_size or CPU_BATCH_SIZE,
        num_threads=num_threads,
    )


def _can_decode(card: Card, decode_on: DecodeOn) -> bool:
    """Whether this process's GPU decodes an engine's images; raises only if it is required to."""
    try:
        check_decoder(card.height, card.width)
    except ConfigError as error:
        if decode_on == "gpu":
            raise
        log.warning("JPEGs are decoded on the CPU: %s", error)
        return False
    return True
