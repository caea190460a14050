"""Makes a missing compiled plan: compiles it, refuses one unlike ONNX Runtime, and stores it.

A builder holds a lease, so if several actors miss the same compiled plan, one builds it.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import platform
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steel_batch import layout
from steel_batch.config import GPU_BATCH_SIZE
from steel_batch.engine.compiled_plans import (
    Machine,
    PlanRecord,
    find_plan,
    list_plans,
    plan_file,
    plan_name,
    put_plan,
    read_timing_cache,
    timing_cache_key,
)
from steel_batch.engine.compiler import (
    compile_graph,
    compiled_layers,
    graph_precision,
    is_strongly_typed,
)
from steel_batch.engine.contract import Output, infer_all
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.machine import find_machine, import_tensorrt
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.tensorrt import TrtRuntime
from steel_batch.errors import EngineError, EngineMismatchError, LockHeldError
from steel_batch.images.decode import fit_to
from steel_batch.lake.lock import Lease
from steel_batch.registry.versions import Engine
from steel_batch.synthetic import render

BUILD_WAIT_SECONDS: Final = 1800.0
"""How long an actor waits for another actor's build of the same compiled plan."""
NUM_CHECKED: Final = 8
"""Images that a compiled plan is compared on, whatever its batch size."""
LARGEST_DIFFERING_SHARE: Final = {"fp32": 0.0005, "fp16": 0.005, "int8": 0.05}
"""Share of all pixels on the checked images: beyond this, the compiled plan is wrong."""
LARGEST_PEAK_DIFFERENCE: Final = {"fp32": 0.005, "fp16": 0.02, "int8": 0.1}
"""The mean over images and classes; single peaks of FP16 plans differed by 0.0003 to 0.017."""
SMALLEST_DEFECT_SHARE: Final = 0.001
"""With fewer defect pixels than this, the compiled plan need not beat an empty mask."""
LARGEST_MISCOUNTED_SHARE: Final = 0.1
"""Share of images and classes: pixels exactly at the threshold may be counted but not marked."""

Notify = Callable[[str], None]

log = logging.getLogger(__name__)


def usual_precision(engine: Engine, runtime: str) -> str:
    """What ``auto`` means: fp16 if the engine has that graph or the builder does not need it.

    Raises:
        ConfigError: The bindings are missing.
    """
    trt = import_tensorrt(runtime)
    have = [graph.precision for graph in engine.card.graphs]
    return "fp16" if "fp16" in have or not is_strongly_typed(trt) else "fp32"


def build(
    engine: Engine,
    *,
    runtime: str,
    precision: str,
    batch_size: int = GPU_BATCH_SIZE,
    notify: Notify = lambda _: None,
) -> PlanRecord:
    """Build a compiled plan for this machine, check it, and store it with its record.

    It is checked against ONNX Runtime if there is a GPU to run it. An existing compiled plan of the
    same name is kept, and nothing is built.

    Args:
        engine: The engine to compile.
        runtime: ``tensorrt`` needs this machine's GPU; ``tensorrt_rtx`` needs none.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch_size: Images of every inference.
        notify: Called with messages about progress.

    Returns:
        The stored record: another builder's, if that one was first.

    Raises:
        ConfigError: The bindings or the GPU are missing.
        EngineError: The GPU refuses a context to this process, the plan cannot be built, or it
            disagrees with ONNX Runtime.
    """
    trt = import_tensorrt(runtime)
    machine = find_machine(runtime)
    name = plan_name(machine, precision, batch_size)
    for standing in list_plans(engine):
        if standing.name == name:
            notify(f"{name} already exists; to rebuild it, delete its record")
            return standing
    source = graph_precision(trt, precision)
    graph = engine.read_graph(source)
    timing_cache = read_timing_cache(engine, machine)
    notify(f"building {name}: takes one to five minutes")
    built = compile_graph(
        graph, trt=trt, precision=precision, batch_size=batch_size, timing_cache=timing_cache
    )
    check: dict[str, Any] = {}
    slot_bytes = 0
    layers = built.layers
    if machine.device_name:
        notify(f"checking {name} against ONNX Runtime")
        check, slot_bytes = _check(engine, built.plan, runtime, precision, batch_size)
        with open_gpu().current():
            layers = compiled_layers(trt, built.plan) or layers
    file, sha256 = plan_file(name, built.plan)
    cache_sha256 = hashlib.sha256(built.timing_cache).hexdigest() if built.timing_cache else ""
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
        layers=layers,
        build_seconds=built.seconds,
        slot_bytes=slot_bytes,
        check=check,
        host=platform.node(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        timing_cache_sha256=cache_sha256,
    )
    if cache_sha256:
        key = timing_cache_key(engine, machine, cache_sha256)
        engine.plan_home.write(key, built.timing_cache)
    return put_plan(engine, record, built.plan)


def ensure_plan(
    engine: Engine,
    *,
    runtime: str,
    precision: str,
    batch_size: int | None,
    notify: Notify = log.warning,
) -> PlanRecord:
    """Return the compiled plan that fits this machine; if there is none, build it or wait for it.

    Args:
        engine: The engine.
        runtime: ``tensorrt`` or ``tensorrt_rtx``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch_size: Images of every inference; None takes the usual one of the existing plans.
        notify: Called with messages about building and waiting.

    Raises:
        ConfigError: The bindings or the GPU are missing.
        EngineError: The GPU refuses a context to this process, or the plan cannot be built.
        LockHeldError: Another process has been building it for half an hour.
    """
    machine = find_machine(runtime)
    try:
        return find_plan(engine, machine, precision=precision, batch_size=batch_size)
    except EngineMismatchError as error:
        notify(f"{error} Building it now.")
    name = plan_name(machine, precision, batch_size or GPU_BATCH_SIZE)
    for wait_seconds in (0.0, BUILD_WAIT_SECONDS):
        lease = Lease(
            engine.plan_home,
            layout.plan_lock(engine.card.name, name),
            what=f"compiled plan {name} of engine {engine.card.name}",
            wait_seconds=wait_seconds,
        )
        try:
            with lease:
                return _find_or_build(engine, machine, precision, batch_size, notify)
        except LockHeldError:
            if wait_seconds:
                raise
            notify(f"waiting for compiled plan {name}, which another actor is building")
    raise AssertionError("the second attempt returns or raises")


def _find_or_build(
    engine: Engine, machine: Machine, precision: str, batch_size: int | None, notify: Notify
) -> PlanRecord:
    try:
        return find_plan(engine, machine, precision=precision, batch_size=batch_size)
    except EngineMismatchError:
        return build(
            engine,
            runtime=machine.runtime,
            precision=precision,
            batch_size=batch_size or GPU_BATCH_SIZE,
            notify=notify,
        )


def _check(
    engine: Engine, plan: bytes, runtime: str, precision: str, batch_size: int
) -> tuple[dict[str, Any], int]:
    """Compare a compiled plan with the master graph on synthetic strips; also measure its slots."""
    card = engine.card
    strips = [render(0, i).image_HW for i in range(NUM_CHECKED)]
    images_NHW = np.stack([fit_to(strip, card.height, card.width, "fit") for strip in strips])
    reference = OrtRuntime(
        engine.read_graph("fp32"), card, precision="fp32", batch_size=NUM_CHECKED, num_threads=1
    )
    expected = _run(reference, images_NHW)
    compiled = TrtRuntime(
        plan, card, runtime=runtime, batch_size=batch_size, precision=precision, num_slots=1
    )
    found = _run(compiled, images_NHW)
    check = compare(expected, found, precision=precision, engine=engine.card.name)
    return check, compiled.slot_bytes


def _run(runtime: OrtRuntime | TrtRuntime, images_NHW: npt.NDArray[np.uint8]) -> Output:
    """Run images in as many batches as needed, then close the runtime; return its output."""
    starts = range(0, len(images_NHW), runtime.batch_size)
    try:
        said = [_infer(runtime, images_NHW[k : k + runtime.batch_size]) for k in starts]
    finally:
        runtime.close()
    return Output(
        mask_NHW=np.concatenate([output.mask_NHW for output in said]),
        peak_NC=np.concatenate([output.peak_NC for output in said]),
        count_NC=np.concatenate([output.count_NC for output in said]),
    )


def _infer(runtime: OrtRuntime | TrtRuntime, images_NHW: npt.NDArray[np.uint8]) -> Output:
    """Run one batch."""
    num = len(images_NHW)
    with runtime.acquire() as slot:
        slot.image_NHW[:num] = images_NHW
        return infer_all(slot, num)


def compare(expected: Output, found: Output, *, precision: str, engine: str) -> dict[str, Any]:
    """Compare a compiled plan's output with the master graph's, for the same images.

    Args:
        expected: Output of the master graph.
        found: Output of the compiled plan.
        precision: Precision of the compiled plan.
        engine: Name of the engine, for messages.

    Returns:
        The differences, for the compiled plan's record.

    Raises:
        EngineError: They differ by more than rounding explains, the output is no better than an
            empty mask, or peaks are not finite.
    """
    share = float(np.mean(expected.mask_NHW != found.mask_NHW))
    marked = float(np.mean(expected.mask_NHW != 0))
    allowed = LARGEST_DIFFERING_SHARE[precision]
    is_empty = marked > SMALLEST_DEFECT_SHARE and share >= marked
    pixels_NP = found.mask_NHW.reshape(len(found.mask_NHW), -1)
    classes = range(found.count_NC.shape[1])
    present_NC = np.stack([(pixels_NP >> c & 1).any(axis=1) for c in classes], axis=1)
    miscounted = float(np.mean(present_NC != (found.count_NC > 0)))
    apart_NC = np.abs(expected.peak_NC - found.peak_NC)
    apart, allowed_apart = float(apart_NC.mean()), LARGEST_PEAK_DIFFERENCE[precision]
    wrong = []
    if share > allowed or is_empty:
        wrong.append(
            f"{share:.3%} of all pixels differ, where at most {allowed:.3%} may and {marked:.3%} "
            "are defects"
        )
    if miscounted > LARGEST_MISCOUNTED_SHARE:
        wrong.append(f"{miscounted:.1%} of its counts per image and class do not match its masks")
    if not np.isfinite(apart):
        wrong.append("some peaks are not finite")
    elif apart > allowed_apart:
        wrong.append(
            f"its peaks differ by {apart:.4f} on average, at most {allowed_apart} expected"
        )
    if wrong:
        raise EngineError(
            f"the compiled {precision} plan of engine {engine} disagrees with ONNX Runtime: "
            f"{'; '.join(wrong)}. It is not kept. Build it in another precision, or with another "
            "version of TensorRT."
        )
    return {
        "num_images": len(pixels_NP),
        "differing_share": share,
        "defect_share": marked,
        "miscounted_share": miscounted,
        "peak_difference": float(apart_NC.max()),
        "mean_peak_difference": apart,
    }
