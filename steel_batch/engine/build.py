"""Compile an engine's graph into a plan, for the GPU of this machine or, for RTX, for any.

From 10 on TensorRT's networks are strongly typed: types are those of the FP16 or Q/DQ graph. Before
that the master graph is compiled with a flag that permits the lower precision.
"""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np

from steel_batch.decode import fit_to
from steel_batch.engine.machine import find_machine, import_tensorrt, open_logger
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.plans import (
    ANY_GPU,
    DEFAULT_BATCH_SIZE,
    Machine,
    PlanRecord,
    find_plan,
    plan_file,
    plan_name,
    put_plan,
)
from steel_batch.engine.tensorrt import TrtRuntime
from steel_batch.errors import EngineError, EngineMismatchError, MissingObjectError
from steel_batch.lock import Lease
from steel_batch.registry import Engine
from steel_batch.synthetic import render

WORKSPACE_BYTES: Final = 4 << 30
BUILD_WAIT_SECONDS: Final = 1800.0
"""How long an actor waits for another one's build of the same plan."""
NUM_CHECKED: Final = 8
LARGEST_DIFFERING_SHARE: Final = {"fp32": 0.0005, "fp16": 0.005, "int8": 0.05}
"""Of all pixels on the images of the check: more than this is a wrong plan, not rounding."""

Notify = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltPlan:
    """What the builder made."""

    plan: bytes
    timing_cache: bytes
    strongly_typed: bool
    layers: Mapping[str, int]
    """How many layers put out each type; empty where TensorRT does not say."""
    seconds: float


def compile_graph(
    graph: bytes,
    *,
    trt: ModuleType,
    precision: str,
    batch_size: int,
    timing_cache: bytes = b"",
) -> BuiltPlan:
    """Compile ONNX bytes for a fixed batch.

    Args:
        graph: The graph of `graph_precision`.
        trt: The bindings, with their builder.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch_size: Of every inference.
        timing_cache: Of an earlier build on such a machine; makes this one faster.

    Raises:
        EngineError: TensorRT does not parse the graph or cannot build it.
    """
    started = time.monotonic()
    logger = open_logger(trt)
    builder = trt.Builder(logger)
    strongly_typed = is_strongly_typed(trt)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineError(
            f"{trt.__name__} {trt.__version__} does not parse the {precision} graph: "
            f"{'; '.join(errors) or 'no reason given'}."
        )
    image = network.get_input(0)
    image.shape = (batch_size, *tuple(image.shape)[1:])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not strongly_typed:
        for name in {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}[precision]:
            config.set_flag(getattr(trt.BuilderFlag, name))
    cache = config.create_timing_cache(timing_cache)
    config.set_timing_cache(cache, ignore_mismatch=False)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot build a {precision} plan for batches of "
            f"{batch_size}: {'; '.join(logger.errors[-3:]) or 'no reason given'}."
        )
    return BuiltPlan(
        plan=bytes(serialized),
        timing_cache=bytes(cache.serialize()),
        strongly_typed=strongly_typed,
        layers=_count_layers(network),
        seconds=round(time.monotonic() - started, 1),
    )


def is_strongly_typed(trt: ModuleType) -> bool:
    """Whether a network's types are those of its graph."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def graph_precision(trt: ModuleType, precision: str) -> str:
    """Which of an engine's graphs a plan of a precision is compiled from."""
    return "fp32" if precision == "fp16" and not is_strongly_typed(trt) else precision


def build(
    engine: Engine,
    *,
    runtime: str,
    precision: str,
    batch_size: int = DEFAULT_BATCH_SIZE,
    notify: Notify = lambda _: None,
) -> PlanRecord:
    """Build a plan for this machine, check it against ONNX Runtime, and keep it with its record.

    Args:
        engine: Whose.
        runtime: ``tensorrt`` needs this machine's GPU; ``tensorrt_rtx`` needs none.
        precision: Which.
        batch_size: Images of every inference.
        notify: Told what is being done.

    Returns:
        The record that stands: another builder's, if that one was first.

    Raises:
        ConfigError: The bindings or the GPU are missing.
        EngineError: It cannot be built, or its masks are not those of ONNX Runtime.
    """
    trt = import_tensorrt(runtime)
    if runtime == "tensorrt_rtx":
        machine = Machine(
            runtime=runtime, runtime_version=trt.__version__, compute_capability=ANY_GPU
        )
    else:
        machine = find_machine(runtime)
    source = graph_precision(trt, precision)
    graph = engine.read_graph(source)
    name = plan_name(machine, precision, batch_size)
    cache_key = f"{engine.plan_folder}/{name}.cache"
    try:
        timing_cache = engine.plan_home.read(cache_key)
    except MissingObjectError:
        timing_cache = b""
    notify(f"building {name}: takes one to five minutes")
    built = compile_graph(
        graph, trt=trt, precision=precision, batch_size=batch_size, timing_cache=timing_cache
    )
    check: dict[str, Any] = {}
    if machine.compute_capability != ANY_GPU:
        notify(f"checking {name} against ONNX Runtime")
        check = _check(engine, built.plan, runtime, precision, batch_size)
    file, sha256 = plan_file(name, built.plan)
    record = PlanRecord(
        file=file,
        sha256=sha256,
        size_bytes=len(built.plan),
        engine=engine.card.name,
        graph_sha256=engine.card.graph(source).sha256,
        runtime=runtime,
        runtime_version=trt.__version__,
        compute_capability=machine.compute_capability,
        device_name=machine.device_name,
        precision=precision,
        batch_size=batch_size,
        strongly_typed=built.strongly_typed,
        layers=built.layers,
        build_seconds=built.seconds,
        check=check,
        host=platform.node(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    engine.plan_home.write(cache_key, built.timing_cache)
    return put_plan(engine, record, built.plan)


def ensure_plan(
    engine: Engine, *, runtime: str, precision: str, batch_size: int | None
) -> PlanRecord:
    """The plan that fits this machine; the first to miss it builds it, the others wait for that.

    Raises:
        EngineError: It cannot be built.
        LockHeldError: Somebody else has been building it for half an hour.
    """
    machine = find_machine(runtime)
    try:
        return find_plan(engine, machine, precision=precision, batch_size=batch_size)
    except EngineMismatchError as error:
        log.warning("%s; it is built now", error)
    name = plan_name(machine, precision, batch_size or DEFAULT_BATCH_SIZE)
    with Lease(
        engine.plan_home,
        f"locks/plans/{engine.card.name}/{name}",
        what=f"building plan {name} of engine {engine.card.name}",
        wait_seconds=BUILD_WAIT_SECONDS,
    ):
        try:
            return find_plan(engine, machine, precision=precision, batch_size=batch_size)
        except EngineMismatchError:
            return build(
                engine,
                runtime=runtime,
                precision=precision,
                batch_size=batch_size or DEFAULT_BATCH_SIZE,
                notify=lambda text: log.warning("%s", text),
            )


def _check(
    engine: Engine, plan: bytes, runtime: str, precision: str, batch_size: int
) -> dict[str, Any]:
    """Compare the plan's masks with those of the master graph on synthetic strips."""
    card = engine.card
    num = min(NUM_CHECKED, batch_size)
    images_NHW = [
        fit_to(render(0, index).image_HW, card.height, card.width, "fit") for index in range(num)
    ]
    masks = []
    reference = OrtRuntime(
        engine.read_graph("fp32"), card, precision="fp32", batch_size=num, num_threads=4
    )
    compiled = TrtRuntime(
        plan, card, runtime=runtime, batch_size=batch_size, precision=precision, num_slots=1
    )
    for loaded in (reference, compiled):
        try:
            with loaded.acquire() as slot:
                slot.image_NHW[:num] = images_NHW
                masks.append(slot.infer(num).mask_NHW.copy())
        finally:
            loaded.close()
    share = float(np.mean(masks[0] != masks[1]))
    if share > LARGEST_DIFFERING_SHARE[precision]:
        raise EngineError(
            f"the {precision} plan of engine {card.name} differs from ONNX Runtime in {share:.2%} "
            f"of all pixels, more than {LARGEST_DIFFERING_SHARE[precision]:.2%}: it is not kept. "
            "Build another precision, or another version of TensorRT."
        )
    return {"num_images": num, "differing_share": share}


def _network_flags(trt: ModuleType) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    names = ("STRONGLY_TYPED", "EXPLICIT_BATCH")  # the second is the only kind from 10 on
    found = [int(getattr(flags, name)) for name in names if hasattr(flags, name)]
    return sum(1 << bit for bit in found)


def _count_layers(network: Any) -> dict[str, int]:
    """How many layers put out each type, in the network that was compiled."""
    kinds = Counter(
        str(network.get_layer(i).get_output(0).dtype).rpartition(".")[2].lower()
        for i in range(network.num_layers)
        if network.get_layer(i).num_outputs
    )
    return dict(sorted(kinds.items()))


def describe(record: PlanRecord) -> str:
    """A record in one line."""
    check = record.check
    agreement = (
        f", {check['differing_share']:.4%} of pixels differ from ONNX Runtime" if check else ""
    )
    return (
        f"{record.name}: {record.size_bytes >> 20} MiB in {record.build_seconds:.0f} s{agreement}"
    )
