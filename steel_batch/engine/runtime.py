"""Which runtime executes an engine on this machine."""

from __future__ import annotations

import importlib.util
import logging
import shutil

from steel_batch.config import CPU_BATCH_SIZE, DECODES, RUNTIMES
from steel_batch.engine.build import ensure_plan, usual_precision
from steel_batch.engine.compiled_plans import read_plan
from steel_batch.engine.contract import Runtime
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.nvjpeg import check_decoder
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.tensorrt import NUM_SLOTS, TrtRuntime
from steel_batch.errors import ConfigError
from steel_batch.registry.card import Card
from steel_batch.registry.versions import Engine

log = logging.getLogger(__name__)


def wants_gpu(runtime: str) -> bool:
    """Whether a runtime's actors need a GPU; ``auto`` takes one where TensorRT and one are here.

    Raises:
        ConfigError: There is no runtime of that name.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"--runtime {runtime!r} is none of {', '.join(RUNTIMES)}.")
    if runtime != "auto":
        return runtime != "onnxruntime"
    return shutil.which("nvidia-smi") is not None and (
        importlib.util.find_spec("tensorrt") is not None
        and importlib.util.find_spec("pycuda") is not None
    )


def decodes_on_gpu(decode: str, *, runtime: str) -> bool:
    """Whether an actor's JPEGs are to be decoded on its GPU, if that can.

    Args:
        decode: One of `DECODES`.
        runtime: Of the actor, never ``auto``.

    Raises:
        ConfigError: There is no such way, or the GPU is asked for where the CPU scores.
    """
    if decode not in DECODES:
        raise ConfigError(f"--decode {decode!r} is none of {', '.join(DECODES)}.")
    if runtime == "onnxruntime":
        if decode == "gpu":
            raise ConfigError(
                "--decode gpu was asked for and ONNX Runtime scores, on CPUs: give "
                "--runtime tensorrt, or --decode cpu."
            )
        return False
    return decode != "cpu"


def open_runtime(
    engine: Engine,
    *,
    runtime: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    num_threads: int = 1,
    decode: str = "cpu",
    num_slots: int = NUM_SLOTS,
) -> Runtime:
    """Load an engine on this machine.

    A GPU that has no plan of the engine gets one, built by whoever comes first: one to five minutes
    in which the others wait.

    Args:
        engine: Which engine.
        runtime: One of `RUNTIMES`.
        precision: ``fp32``, ``fp16``, ``int8``, or ``auto`` for the runtime's usual one.
        batch_size: Images of one inference; None for the runtime's usual number.
        num_threads: CPU threads of the actor: batches in flight where the CPU infers.
        decode: One of `DECODES`: where JPEGs become pixels. ``auto`` is the GPU where it decodes.
        num_slots: Batches in flight on a GPU.

    Raises:
        EngineError: The engine's files are missing, damaged or do not keep the contract, or the GPU
            does not work.
        ConfigError: A GPU runtime or its decoder is asked for where packages, the driver or a GPU
            is missing.
        EngineMismatchError: The plan that fits by its record does not load.
        LockHeldError: Another actor has been building the missing plan for half an hour.
    """
    card = engine.card
    if wants_gpu(runtime):
        runtime = "tensorrt" if runtime == "auto" else runtime
        precision = usual_precision(engine, runtime) if precision == "auto" else precision
        open_gpu()  # or TensorRT for RTX, whose builder needs none, builds a plan for nothing
        decodes_jpegs = decodes_on_gpu(decode, runtime=runtime) and _can_decode(card, decode)
        plan = ensure_plan(engine, runtime=runtime, precision=precision, batch_size=batch_size)
        return TrtRuntime(
            read_plan(engine, plan),
            card,
            runtime=runtime,
            batch_size=plan.batch_size,
            precision=precision,
            num_slots=num_slots,
            decodes_jpegs=decodes_jpegs,
        )
    decodes_on_gpu(decode, runtime="onnxruntime")
    precision = "fp32" if precision == "auto" else precision
    return OrtRuntime(
        engine.read_graph(precision),
        card,
        precision=precision,
        batch_size=batch_size or CPU_BATCH_SIZE,
        num_threads=num_threads,
    )


def _can_decode(card: Card, decode: str) -> bool:
    """Whether this process's GPU decodes an engine's images; an error only where it is to."""
    try:
        check_decoder(card.height, card.width)
    except ConfigError as error:
        if decode == "gpu":
            raise
        log.warning("JPEGs are decoded on the CPU: %s", error)
        return False
    return True
