"""Checks whether a machine can run an engine: driver, GPU, TensorRT, plan and memory, or the graph.

Each check returns findings and raises none of our errors, so that one pass shows all that is
missing. Nothing is changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import time
from typing import Final

from steel_batch import interrupt, layout
from steel_batch.config import GPU_BATCH_SIZE, RuntimeSettings
from steel_batch.engine.build import usual_precision
from steel_batch.engine.compiled_plans import (
    ANY_GPU,
    Machine,
    PlanRecord,
    build_command,
    find_plan,
    plan_name,
)
from steel_batch.engine.compiler import graph_precision
from steel_batch.engine.finding import Finding, version_of, wrong
from steel_batch.engine.gpu import Gpu, open_gpu
from steel_batch.engine.installed import installed
from steel_batch.engine.machine import check_start, find_machine, import_tensorrt
from steel_batch.engine.tensorrt import NUM_SLOTS
from steel_batch.errors import EngineError, EngineMismatchError, LakeError, SteelBatchError
from steel_batch.lake.lock import holder_of
from steel_batch.registry.card import Card
from steel_batch.registry.graph import open_session
from steel_batch.registry.versions import Engine

PACKAGES: Final = (
    "ray",
    "pyarrow",
    "deltalake",
    "duckdb",
    "s3fs",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
)
MEMORY_WAIT_SECONDS: Final = 5.0
"""How long to wait for memory that processes which just ended are giving back."""
MIB: Final = 1 << 20


def check_packages(version: str) -> Finding:
    """Check the versions that a run depends on.

    Args:
        version: `installed` on the machine of the command: this machine's must be equal.
    """
    if version != installed():
        return Finding(
            name="packages",
            state="wrong",
            found=f"this machine has steel-batch {installed()}, the command has {version}.",
            remedy="Install the same steel-batch on every node.",
        )
    found = [f"steel-batch {installed()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # under another name, or in a bundle
            continue
    return Finding(name="packages", state="ok", found=", ".join(found))


def check_gpu(
    engine: Engine | None, settings: RuntimeSettings, *, num_slots: int = NUM_SLOTS
) -> list[Finding]:
    """Check driver, GPU, TensorRT, compiled plan and memory, up to the first that fails.

    Args:
        engine: The engine to score with; without it, plan and memory are not checked.
        settings: Settings of a runtime that uses a GPU; if its batch size is None, that of the
            existing compiled plan is taken.
        num_slots: Batches in flight on the GPU.
    """
    gpu: Gpu | None = None
    runtime, precision = settings.runtime, str(settings.precision)
    try:
        gpu = open_gpu()
        free, total = gpu.memory()
        seen = Finding(
            name="GPU",
            state="ok",
            found=f"{gpu.name}, compute capability {gpu.compute_capability}, {free // MIB:,} of "
            f"{total // MIB:,} MiB free, PyCUDA {version_of('pycuda')}",
        )
    except SteelBatchError as error:
        seen = wrong("GPU", error)
    findings = [_check_driver(gpu), seen]
    try:
        trt = import_tensorrt(runtime)
        if gpu is not None:
            check_start(runtime)
    except SteelBatchError as error:
        return [*findings, wrong("TensorRT", error)]
    findings.append(Finding(name="TensorRT", state="ok", found=f"{runtime} {trt.__version__}"))
    if engine is None or gpu is None:
        return findings
    try:
        if precision == "auto":
            precision = usual_precision(engine, runtime)
        plan, record = check_plan(
            engine,
            find_machine(runtime),
            precision=precision,
            batch_size=settings.batch_size,
            source_precision=graph_precision(trt, precision),
        )
    except SteelBatchError as error:
        return [*findings, wrong("plan", error)]
    findings.append(plan)
    if record is not None:
        findings.append(_wait_for_memory(gpu, record, engine.card, num_slots))
    return findings


def check_plan(
    engine: Engine,
    machine: Machine,
    *,
    precision: str,
    batch_size: int | None,
    source_precision: str,
) -> tuple[Finding, PlanRecord | None]:
    """Check whether an engine has a compiled plan for a machine, or one can be built there.

    Args:
        engine: The engine.
        machine: The machine that is to run it.
        precision: Precision of the compiled plan.
        batch_size: Images of every inference; None takes the usual one of the existing plans.
        source_precision: The graph that the machine's TensorRT builds it from.

    Returns:
        The finding, and the record of the compiled plan that fits.
    """
    try:
        record = find_plan(engine, machine, precision=precision, batch_size=batch_size)
        return _check_file(engine, record, machine), record
    except EngineMismatchError as error:
        missing = error.message
    except SteelBatchError as error:
        return wrong("plan", error), None
    name = plan_name(machine, precision, batch_size or GPU_BATCH_SIZE)
    try:
        engine.card.graph(source_precision)
        builder = holder_of(engine.plan_home, layout.plan_lock(engine.card.name, name))
    except EngineError as error:
        found = f"compiled plan {name} is missing and cannot be built: {error.message}"
        remedy = "Give another --precision, or register a version that has that graph."
        return Finding(name="plan", state="wrong", found=found, remedy=remedy), None
    except LakeError as error:
        return wrong("plan", error), None
    if builder is None:
        found = (
            f"compiled plan {name} is missing: the first actor builds it, in one to five minutes"
        )
    else:
        found = f"compiled plan {name} is missing: actors wait for {builder}, which is building it"
    return Finding(name="plan", state="note", found=found, remedy=missing), None


def _check_file(engine: Engine, record: PlanRecord, machine: Machine) -> Finding:
    """Check that a compiled plan's file exists and is for this GPU; its digest is checked later."""
    key = f"{engine.plan_folder}/{record.file}"
    item = engine.plan_home.stat(key)
    command = build_command(engine, record.runtime, record.precision, record.batch_size)
    if item is None or item.size_bytes != record.size_bytes:
        size = "does not exist" if item is None else f"has {item.size_bytes:,} bytes"
        return Finding(
            name="plan",
            state="wrong",
            found=f"{engine.plan_home.uri(key)} {size}, but its record states "
            f"{record.size_bytes:,} bytes.",
            remedy=f"Delete the record {record.name}.json, then run on such a GPU: {command}",
        )
    if record.compute_capability != ANY_GPU and record.device_name != machine.device_name:
        return Finding(
            name="plan",
            state="note",
            found=f"{record.name} was built on {record.device_name}, but this is "
            f"{machine.device_name}: it may run slower here than one built on this GPU",
            remedy=f"To build one for this GPU, delete the record {record.name}.json and run here: "
            f"{command}",
        )
    return Finding(
        name="plan",
        state="ok",
        found=f"{record.name}, {record.size_bytes / MIB:.1f} MiB, built on {record.host} at "
        f"{record.created}",
    )


def _wait_for_memory(gpu: Gpu, record: PlanRecord, card: Card, num_slots: int) -> Finding:
    give_up = time.monotonic() + MEMORY_WAIT_SECONDS
    while True:
        try:
            finding = check_memory(record, card, *gpu.memory(), num_slots=num_slots)
        except EngineError as error:
            return wrong("memory", error)
        if finding.state == "ok" or time.monotonic() > give_up:
            return finding
        interrupt.sleep(0.2)


def check_memory(
    record: PlanRecord,
    card: Card,
    free_bytes: int,
    total_bytes: int,
    *,
    num_slots: int = NUM_SLOTS,
) -> Finding:
    """Check whether a GPU's free memory holds a compiled plan with all of its batches in flight.

    The memory of a batch is stated in the plan's record, measured when the plan was checked. If the
    record does not state it, only pixels are counted: a lower bound. Then what the plan really
    takes only shows, with a clear error, when it is set up.
    """
    slot = record.slot_bytes or record.batch_size * (2 * card.height * card.width)
    needed = record.size_bytes + num_slots * slot
    bound = "" if record.slot_bytes else "at least "
    largest = max(0, (free_bytes - record.size_bytes) * record.batch_size // (num_slots * slot))
    found = (
        f"{free_bytes // MIB:,} of {total_bytes // MIB:,} MiB are free; batches of "
        f"{record.batch_size}, {num_slots} of them in flight, need {bound}{needed // MIB:,} MiB"
    )
    if needed <= free_bytes:
        fits = f"; batches of up to {largest:,} would fit" if record.slot_bytes else ""
        return Finding(name="memory", state="ok", found=found + fits)
    smaller = f"Give --batch-size {largest} or less, or end" if largest else "End"
    return Finding(
        name="memory",
        state="wrong",
        found=f"{found}.",
        remedy=f"{smaller} other processes on this GPU: list them with `nvidia-smi`.",
    )


def _check_driver(gpu: Gpu | None) -> Finding:
    if gpu is not None:
        return Finding(name="driver", state="ok", found=f"for CUDA up to {gpu.cuda_version}")
    answered, said = _ask_nvidia_smi("driver_version")
    if answered:
        return Finding(name="driver", state="ok", found=f"NVIDIA {said.splitlines()[0]}")
    return Finding(
        name="driver",
        state="wrong",
        found=f"{said}.",
        remedy="Install NVIDIA's driver, give the container its GPU (docker run --gpus all), or "
        "give --runtime onnxruntime.",
    )


def check_unused_gpu() -> Finding:
    """What happens to this machine's GPU if ONNX Runtime scores."""
    answered, said = _ask_nvidia_smi("name")
    if not answered:
        return Finding(name="GPU", state="note", found="no GPU: ONNX Runtime on the CPU will score")
    absent = [name for name in ("tensorrt", "pycuda") if importlib.util.find_spec(name) is None]
    why = f"without {' and '.join(absent)}" if absent else "as requested"
    return Finding(
        name="GPU",
        state="note",
        found=f"{said.splitlines()[0]} is not used: ONNX Runtime on the CPU will score, {why}.",
        remedy="To score on the GPU: pip install 'steel-batch[gpu]'" if absent else "",
    )


def check_graph(engine: Engine, precision: str) -> Finding:
    """Check that ONNX Runtime loads an engine's graph, and that it is the one in its card."""
    precision = "fp32" if precision == "auto" else precision
    try:
        data = engine.read_graph(precision)
        open_session(data, engine.card, precision=precision)
        file = engine.card.graph(precision).file
    except SteelBatchError as error:
        return wrong("graph", error)
    return Finding(
        name="graph",
        state="ok",
        found=f"{file}, {precision}, {len(data) / 1e6:.1f} MB, with the digest of the card; "
        f"ONNX Runtime {version_of('onnxruntime')} loads it",
    )


def _ask_nvidia_smi(field: str) -> tuple[bool, str]:
    """True and a line per GPU; or False and the reason."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(  # noqa: S603 # nothing in it comes from outside
            command, capture_output=True, text=True, timeout=10, check=False
        )
    except FileNotFoundError:
        return False, "nvidia-smi is not installed here"
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"nvidia-smi does not run ({error})"
    said = " ".join(done.stdout.split("\n")).strip()
    if done.returncode or not said:
        return False, f"nvidia-smi reports: {(said or done.stderr.strip()).rstrip('.')}"
    return True, done.stdout.strip()
