"""Whether a machine can run an engine. The tests marked gpu need no fixture of the suite:

python -m pytest -c /dev/null --rootdir . --noconftest -m gpu tests/engine/test_check.py
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.cli import cli
from steel_batch.config import Precision, RuntimeSettings
from steel_batch.engine.build import build
from steel_batch.engine.check import check_gpu, check_graph, check_memory, check_plan
from steel_batch.engine.compiled_plans import ANY_GPU, Machine, PlanRecord, plan_file, put_plan
from steel_batch.engine.finding import Finding
from steel_batch.engine.gpu import open_gpu
from steel_batch.errors import ConfigError, EngineError
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.registry.registration import register
from steel_batch.registry.versions import Engine, load_engine
from tests.engine.fake_gpu import CudaError, fake_gpu
from tests.tiny_engine import tiny_version

CARD, GRAPHS = tiny_version(height=256, width=1600, precisions=("fp32", "fp16"))
MIB = 1 << 20
H200 = Machine(
    runtime="tensorrt",
    runtime_version="8.5.3.1",
    compute_capability="9.0",
    device_name="NVIDIA H200",
)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    store = Lake(str(tmp_path / "store"))
    register(store, CARD, GRAPHS)
    return load_engine(CARD.name, store=store)


def settings(precision: Precision, batch_size: int | None = None) -> RuntimeSettings:
    return RuntimeSettings(runtime="tensorrt", precision=precision, batch_size=batch_size)


def record_of(machine: Machine, plan: bytes = b"code", **changes: object) -> PlanRecord:
    made = PlanRecord(
        file="",
        sha256="",
        size_bytes=len(plan),
        engine=CARD.name,
        graph_sha256=CARD.graph("fp16").sha256,
        runtime=machine.runtime,
        runtime_version=machine.runtime_version,
        compute_capability=machine.compute_capability,
        device_name=machine.device_name,
        precision="fp16",
        batch_size=32,
        strongly_typed=False,
        build_seconds=90.0,
        slot_bytes=1000 * MIB,
        host="gpu-7",
        created="2026-11-21T03:00:00+00:00",
    )
    made = dataclasses.replace(made, **changes)  # type: ignore[arg-type]
    file, sha256 = plan_file(made.name, plan)
    return dataclasses.replace(made, file=file, sha256=sha256)


def plan_of(engine: Engine, **changes: object) -> tuple[Finding, PlanRecord | None]:
    settings = {"precision": "fp16", "batch_size": None, "source_precision": "fp16"} | changes
    return check_plan(engine, H200, **settings)  # type: ignore[arg-type]


def test_a_plan_that_fits_is_named_with_where_it_was_built(engine: Engine) -> None:
    record = put_plan(engine, record_of(H200), b"code")
    finding, found = plan_of(engine)
    assert (finding.state, found) == ("ok", record)
    assert finding.found.startswith("tensorrt8.5.3.1-sm90-fp16-b32, 0.0 MiB, built on gpu-7")


def test_a_plan_of_another_model_of_gpu_runs_and_both_are_named(engine: Engine) -> None:
    other = dataclasses.replace(H200, device_name="NVIDIA H100 80GB HBM3")
    record = put_plan(engine, record_of(other), b"code")
    finding, found = plan_of(engine)
    assert (finding.state, found) == ("note", record)
    assert "was built on NVIDIA H100 80GB HBM3, but this is NVIDIA H200: it may run slower" in (
        finding.found
    )
    assert finding.remedy.endswith("--runtime tensorrt --precision fp16 --batch-size 32")


@pytest.mark.parametrize("built_on", ["", "NVIDIA L4"])
def test_a_plan_for_any_gpu_is_at_home_on_each(engine: Engine, built_on: str) -> None:
    here = dataclasses.replace(H200, runtime="tensorrt_rtx", compute_capability=ANY_GPU)
    record = put_plan(engine, record_of(dataclasses.replace(here, device_name=built_on)), b"code")
    finding, found = check_plan(
        engine, here, precision="fp16", batch_size=None, source_precision="fp16"
    )
    assert (finding.state, found) == ("ok", record)


def test_a_plan_of_another_gpu_is_named_beside_this_one_with_the_command(engine: Engine) -> None:
    other = dataclasses.replace(H200, compute_capability="8.9", device_name="NVIDIA L4")
    put_plan(engine, record_of(other), b"code")
    finding, found = plan_of(engine, batch_size=16)
    assert (finding.state, found) == ("note", None)
    name = "tensorrt8.5.3.1-sm90-fp16-b16"
    assert finding.found.startswith(f"compiled plan {name} is missing: the first actor")
    assert "for tensorrt 8.5.3.1 on NVIDIA H200, compute capability 9.0" in finding.remedy
    assert "It has: tensorrt 8.5.3.1, compute capability 8.9, fp16" in finding.remedy
    _, group, *arguments = shlex.split(finding.remedy.rpartition("run: ")[2])
    parsed = cli.commands[group].make_context(group, arguments).params
    assert (group, parsed["engine"], parsed["batch_size"]) == ("build-engine", CARD.name, 16)


def test_a_plan_that_another_process_builds_is_waited_for(engine: Engine) -> None:
    series = layout.plan_lock(CARD.name, "tensorrt8.5.3.1-sm90-fp16-b32")
    with Lease(engine.plan_home, series, what="the plan"):
        finding, _ = plan_of(engine)
    assert finding.state == "note"
    assert f"actors wait for process {os.getpid()} of " in finding.found
    finding, _ = plan_of(engine)
    assert "the first actor builds it" in finding.found


def test_a_plan_that_nobody_can_build_is_wrong(engine: Engine) -> None:
    finding, _ = plan_of(engine, precision="int8", source_precision="int8")
    assert finding.state == "wrong"
    assert "tensorrt8.5.3.1-sm90-int8-b32 is missing and cannot be built" in finding.found
    assert "has no int8 graph; it has: fp32, fp16" in finding.found
    assert "--precision" in finding.remedy


@pytest.mark.parametrize("left", [b"", b"cod"])
def test_a_record_whose_plan_is_gone_or_cut_is_wrong(engine: Engine, left: bytes) -> None:
    record = put_plan(engine, record_of(H200), b"code")
    key = f"{engine.plan_folder}/{record.file}"
    if left:
        engine.plan_home.write(key, left)
    else:
        engine.plan_home.delete([key])
    finding, _ = plan_of(engine)
    assert finding.state == "wrong"
    assert ("has 3 bytes" if left else "does not exist") in finding.found
    assert "steel-batch build-engine" in finding.remedy


def test_a_record_that_is_none_is_wrong(engine: Engine) -> None:
    engine.plan_home.write(f"{engine.plan_folder}/some.json", b"{}")
    finding, _ = plan_of(engine)
    assert finding.state == "wrong"
    assert "is not a valid record of a compiled plan" in finding.found


def test_memory_that_holds_the_batches_in_flight_to_the_byte_is_enough() -> None:
    record = record_of(H200, size_bytes=100 * MIB)
    needed = (100 + 4 * 1000) * MIB
    finding = check_memory(record, CARD, needed, 8000 * MIB, num_slots=4)
    assert finding.state == "ok"
    assert finding.found == (
        "4,100 of 8,000 MiB are free; batches of 32, 4 of them in flight, need 4,100 MiB; "
        "batches of up to 32 would fit"
    )
    assert check_memory(record, CARD, needed - 1, 8000 * MIB, num_slots=4).state == "wrong"


def test_too_little_memory_names_the_batch_that_fits() -> None:
    record = record_of(H200, size_bytes=100 * MIB)
    finding = check_memory(record, CARD, 2100 * MIB, 8000 * MIB, num_slots=4)
    assert finding.remedy.startswith("Give --batch-size 16 or less, or end other processes on")
    assert check_memory(record, CARD, 50 * MIB, 8000 * MIB, num_slots=4).remedy.startswith(
        "End other"
    )


def test_without_a_slot_in_the_record_only_a_bound_is_said() -> None:
    finding = check_memory(record_of(H200, slot_bytes=0), CARD, 8000 * MIB, 8000 * MIB, num_slots=4)
    assert finding.state == "ok"
    assert finding.found.endswith("4 of them in flight, need at least 100 MiB")


def test_the_graph_of_the_card_is_loaded(engine: Engine) -> None:
    finding = check_graph(engine, "auto")
    assert finding.state == "ok"
    assert finding.found.startswith("model.onnx, fp32, ")


def test_a_damaged_graph_is_wrong(engine: Engine) -> None:
    key = f"{engine.folder}/model.onnx"
    engine.home.write(key, engine.home.read(key)[:-1])
    finding = check_graph(engine, "fp32")
    assert finding.state == "wrong"
    assert "was changed and is not loaded" in finding.found
    assert check_graph(engine, "fp16").state == "ok"
    assert "has no int8 graph" in check_graph(engine, "int8").found


@pytest.mark.skipif(
    importlib.util.find_spec("pycuda") is not None, reason="this machine has PyCUDA"
)
def test_without_a_gpu_all_that_is_missing_is_named_at_once(engine: Engine) -> None:
    found = {f.name: f for f in check_gpu(engine, settings("auto"))}
    assert list(found) == ["driver", "GPU", "TensorRT"]
    assert {finding.state for finding in found.values()} == {"wrong"}
    assert "Install NVIDIA's driver" in found["driver"].remedy
    assert "Install steel-batch[gpu]" in found["GPU"].found
    assert "Install steel-batch[gpu]" in found["TensorRT"].found


def test_each_thing_that_is_wrong_is_named_by_itself(engine: Engine) -> None:
    machine = dataclasses.replace(H200, runtime_version="10.0.0.1")
    put_plan(engine, record_of(machine, precision="fp32", slot_bytes=MIB), b"code")
    with fake_gpu(CARD) as calls:
        well = check_gpu(engine, settings("fp32"))
        calls.faults["mem_get_info"] = CudaError("unspecified launch failure")
        ill = check_gpu(engine, settings("fp32"))
    assert {f.name: f.state for f in well} == dict.fromkeys(
        ("driver", "GPU", "TensorRT", "plan", "memory"), "ok"
    )
    assert well[0].found == "for CUDA up to 12.8"
    assert {f.name for f in ill if f.state == "wrong"} == {"GPU", "memory"}


@pytest.mark.gpu
def test_on_a_gpu_everything_is_found_and_the_plan_once_it_is_built(engine: Engine) -> None:
    try:
        gpu = open_gpu()
    except (ConfigError, EngineError) as error:
        pytest.skip(str(error))

    def look() -> dict[str, Finding]:
        findings = check_gpu(engine, settings("auto", 8))
        print(*(f"{f.state:5} {f.name}: {f.text}" for f in findings), sep="\n")
        return {finding.name: finding for finding in findings}

    found = look()
    assert list(found) == ["driver", "GPU", "TensorRT", "plan"]
    assert [f.state for f in found.values()] == ["ok", "ok", "ok", "note"]
    assert f"for CUDA up to {gpu.cuda_version}" in found["driver"].found
    assert f"{gpu.name}, compute capability {gpu.compute_capability}" in found["GPU"].found
    assert "the first actor builds it" in found["plan"].found
    record = build(engine, runtime="tensorrt", precision="fp16", batch_size=8)
    assert record.slot_bytes >= 8 * 2 * 256 * 1600
    found = look()
    assert [f.state for f in found.values()] == ["ok"] * 5
    assert found["plan"].found.startswith(record.name)
    with gpu.current():
        taken = []
        for size in (1 << 30, 1 << 24):
            while gpu.cuda.mem_get_info()[0] > size + (1 << 24):
                taken.append(gpu.cuda.mem_alloc(size))
        try:
            full = look()["memory"]
        finally:
            for memory in taken:
                memory.free()
    needed = record.size_bytes + 4 * record.slot_bytes
    assert full.state == ("wrong" if needed > 1 << 25 else "ok")
