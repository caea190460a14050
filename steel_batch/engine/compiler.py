"""Compiles ONNX bytes with the builders of TensorRT, 8.5 to 11, and of TensorRT for RTX.

From version 10 on, TensorRT's networks are strongly typed: types are those of the FP16 or Q/DQ
graph. Before that, the master graph is compiled with a flag that permits the lower precision, and
the types of the input and the outputs stay as in the graph.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from steel_batch.engine.machine import open_logger
from steel_batch.errors import EngineError

WORKSPACE_BYTES: Final = 4 << 30
_FLAGS: Final = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}
"""Flags of a builder without strong types."""
_TYPES: Final = re.compile(r"fp8|bf16|fp16|half|fp32|float|uint8|int8|int32|int64|bool", re.I)
_SAME_TYPE: Final = {"half": "fp16", "float": "fp32"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltPlan:
    """Result of the builder."""

    plan: bytes
    timing_cache: bytes
    """For the next build on such a machine; empty if the builder has none."""
    strongly_typed: bool
    layers: Mapping[str, int]
    """How many layers output each type, in the network that was compiled."""
    seconds: float


def is_strongly_typed(trt: ModuleType) -> bool:
    """Whether a network's types are those of its graph."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(
        trt.BuilderFlag, "FP16"
    )


def graph_precision(trt: ModuleType, precision: str) -> str:
    """Precision of the engine's graph that a compiled plan is made from."""
    return "fp32" if precision == "fp16" and not is_strongly_typed(trt) else precision


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
        batch_size: Images of every inference.
        timing_cache: Cache of an earlier build on such a machine; makes this one faster.

    Raises:
        EngineError: TensorRT cannot parse the graph or build it.
    """
    started = time.monotonic()
    logger = open_logger(trt)
    logger.take_errors()
    name = f"{trt.__name__.removesuffix('_bindings')} {trt.__version__}"
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # how the bindings report that there is none
        raise EngineError(f"{name} has no builder on this machine: {_why(logger)}.") from error
    strongly_typed = is_strongly_typed(trt)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = [_parse_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(
            f"{name} cannot parse the {precision} graph: "
            f"{'; '.join(reasons[:3]) or 'it gives no reason'}. Export it with training/export.py, "
            "which uses only operators that every TensorRT from 8.5 on supports."
        )
    image = network.get_input(0)
    image.shape = (batch_size, *tuple(image.shape)[1:])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not strongly_typed:
        for flag in _FLAGS[precision]:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    _choose_kernels(trt, config, precision)
    cache = _use_timing_cache(trt, config, timing_cache)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(
            f"{name} cannot build a {precision} plan for batches of {batch_size}: {_why(logger)}. "
            "Try a smaller --batch-size or another --precision."
        )
    return BuiltPlan(
        plan=bytes(serialized),
        timing_cache=b"" if cache is None else bytes(cache.serialize()),
        strongly_typed=strongly_typed,
        layers=_count_types(_stated_types(network)),
        seconds=round(time.monotonic() - started, 1),
    )


def compiled_layers(trt: ModuleType, plan: bytes) -> dict[str, int]:
    """How many layers of a compiled plan output each type; empty if TensorRT does not report it.

    The plan is loaded for this, so the GPU's context must be current.
    """
    logger = open_logger(trt)
    runtime = trt.Runtime(logger)
    cuda_engine = runtime.deserialize_cuda_engine(plan)
    if cuda_engine is None:
        return {}
    inspector = cuda_engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    del inspector  # or it would outlive its plan
    return layer_types(text)


def layer_types(text: str) -> dict[str, int]:
    """Count the output types of layers in the report of TensorRT's inspector.

    Args:
        text: JSON. Its fields have changed between versions: 8.5 writes the type into
            ``Format/Datatype``, others into fields of their own.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        log.info("cannot read the inspector's report: %r", error)
        return {}
    found = []
    for entry in entries:  # layers, or only their names at low verbosity
        outputs = entry.get("Outputs") if isinstance(entry, dict) else None
        if outputs:
            fields = {k.lower(): str(v) for k, v in outputs[0].items()}
            stated = [v for k, v in fields.items() if "datatype" in k or "format" in k]
            found.append(" ".join(stated))
    return _count_types(found)


def _stated_types(network: Any) -> Iterator[str]:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            tensor = layer.get_output(0)
            yield str(tensor.dtype)


def _count_types(texts: Iterable[str]) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for text in texts:
        match = _TYPES.search(text.rpartition("DataType.")[2])
        kind = match.group().lower() if match else "other"
        kinds[_SAME_TYPE.get(kind, kind)] += 1
    return dict(sorted(kinds.items()))


def _use_timing_cache(trt: ModuleType, config: Any, known: bytes) -> Any:
    """Let the builder use the timings of earlier builds; None if it does not time anything."""
    if trt.__name__.startswith("tensorrt_rtx"):  # selects kernels when a plan is loaded
        return None
    for content in (known, b""):  # a cache of another machine is refused
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _choose_kernels(trt: ModuleType, config: Any, precision: str) -> None:
    """Exclude cuBLAS and cuDNN, as TensorRT does by default from 10 on: nodes then need neither.

    With a cuBLAS that it cannot use, 8.5 builds no plan at all. INT8 plans are built without
    convolutions that are compiled at build time: that takes 8.5 two to five minutes; with them, two
    builds were stopped after four and five.
    """
    own = config.get_tactic_sources()
    left_out = ["CUBLAS", "CUBLAS_LT", "CUDNN"]
    if precision == "int8":
        left_out.append("JIT_CONVOLUTIONS")
    for name in left_out:
        source = getattr(trt.TacticSource, name, None)
        if source is not None:
            own &= ~(1 << int(source))
    config.set_tactic_sources(own)


def _network_flags(trt: ModuleType) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    names = ("STRONGLY_TYPED", "EXPLICIT_BATCH")  # the second is the only kind from 10 on
    found = [int(getattr(flags, name)) for name in names if hasattr(flags, name)]
    return sum(1 << bit for bit in found)


def _parse_error(parse_error: Any) -> str:
    number = parse_error.node()
    place = f" (node {number} of the graph)" if number >= 0 else ""
    return " ".join(parse_error.desc().split()).strip(" .") + place


def _why(logger: Any) -> str:
    """TensorRT's last errors: earlier ones come from attempts that it did without."""
    return "; ".join(logger.take_errors()[-3:]) or "it gives no reason"
