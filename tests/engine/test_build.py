from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from steel_batch.cli import cli
from steel_batch.config import RuntimeSettings
from steel_batch.engine.build import _run, build, compare, ensure_plan, usual_precision
from steel_batch.engine.check import check_plan
from steel_batch.engine.compiled_plans import (
    ANY_GPU,
    Machine,
    find_plan,
    list_plans,
    plan_name,
    put_plan,
    read_plan,
)
from steel_batch.engine.contract import Output
from steel_batch.engine.machine import find_machine
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.runtime import open_runtime
from steel_batch.errors import ConfigError, EngineError, EngineMismatchError
from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.registry.versions import Engine, load_engine
from tests.conftest import band_image
from tests.engine.fake_gpu import fake_gpu
from tests.tiny_engine import tiny_version, write_tiny_engine

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")

CARD, GRAPHS = tiny_version(precisions=("fp32", "fp16"))
RTX = "tensorrt_rtx"
HERE = Machine(runtime=RTX, runtime_version=trt.__version__, compute_capability="8.9")
H200 = Machine(
    runtime="tensorrt",
    runtime_version="8.5.3.1",
    compute_capability="9.0",
    device_name="NVIDIA H200",
)


def registered(lake: Lake) -> Engine:
    register(lake, CARD, GRAPHS)
    return load_engine(CARD.name, store=lake)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return registered(Lake(str(tmp_path / "store")))


def test_a_built_plan_is_found_on_each_gpu_that_it_is_for(lake: Lake) -> None:
    engine = registered(lake)
    record = build(engine, runtime=RTX, precision="fp16", batch_size=8)
    assert record.name == f"tensorrt_rtx{trt.__version__}-any-fp16-b8"
    assert record.compute_capability == ANY_GPU
    assert record.graph_sha256 == CARD.graph("fp16").sha256
    found = find_plan(engine, HERE, precision="fp16", batch_size=None)
    assert found == record
    assert len(read_plan(engine, found)) == record.size_bytes


def test_a_plan_that_is_there_is_not_built_again(engine: Engine) -> None:
    said: list[str] = []
    first = build(engine, runtime=RTX, precision="fp16", batch_size=8)
    assert build(engine, runtime=RTX, precision="fp16", batch_size=8, notify=said.append) == first
    assert len(said) == 1
    assert "already exists" in said[0]


def test_of_two_builders_at_once_one_plan_stands(lake: Lake) -> None:
    engine = registered(lake)
    with ThreadPoolExecutor(2) as threads:
        builds = [
            threads.submit(build, engine, runtime=RTX, precision="fp16", batch_size=8)
            for _ in range(2)
        ]
        records = [future.result() for future in builds]
    assert records[0] == records[1]
    assert list_plans(engine) == [records[0]]
    read_plan(engine, records[0])


def test_a_plan_that_is_not_its_records_is_not_loaded(engine: Engine) -> None:
    record = build(engine, runtime=RTX, precision="fp16", batch_size=8)
    key = f"{engine.plan_folder}/{record.file}"
    plan = bytearray(engine.plan_home.read(key))
    plan[len(plan) // 2] ^= 1
    engine.plan_home.write(key, bytes(plan))
    with pytest.raises(EngineError, match=r"was changed and is not loaded\. Delete it"):
        read_plan(engine, record)
    engine.plan_home.delete([key])
    with pytest.raises(EngineError, match="does not exist, but its record does"):
        read_plan(engine, record)


def test_a_cut_plan_is_mended_by_deleting_its_record_and_putting_it_again(lake: Lake) -> None:
    engine = registered(lake)
    record = build(engine, runtime=RTX, precision="fp16", batch_size=8)
    plan = read_plan(engine, record)
    lake.write(f"{engine.plan_folder}/{record.file}", plan[:1000])
    lake.delete([f"{engine.plan_folder}/{record.name}.json"])
    assert put_plan(engine, record, plan) == record
    assert read_plan(engine, record) == plan


def test_tensorrt_for_rtx_has_one_name_and_one_lock_with_a_gpu_and_without(engine: Engine) -> None:
    machine = find_machine(RTX)
    with fake_gpu():
        with_gpu = find_machine(RTX)
    assert with_gpu.device_name == "NVIDIA H200"
    assert str(with_gpu) == f"{RTX} {trt.__version__} on NVIDIA H200"
    name = plan_name(machine, "fp16", 8)
    assert name == plan_name(with_gpu, "fp16", 8) == f"{RTX}{trt.__version__}-any-fp16-b8"
    seen = []

    def look(said: str) -> None:
        if said.startswith("building"):
            finding, _ = check_plan(
                engine, with_gpu, precision="fp16", batch_size=8, source_precision="fp16"
            )
            seen.append(finding.found)

    record = ensure_plan(engine, runtime=RTX, precision="fp16", batch_size=8, notify=look)
    assert record.name == name
    assert len(seen) == 1
    assert seen[0].startswith(f"compiled plan {name} is missing: actors wait for process")
    again = ensure_plan(engine, runtime=RTX, precision="fp16", batch_size=8, notify=look)
    assert again == record


def test_a_missing_plan_is_explained_with_both_sides_and_a_command_that_is_one(
    engine: Engine,
) -> None:
    with pytest.raises(EngineMismatchError, match="It has: no compiled plans"):
        find_plan(engine, H200, precision="fp16", batch_size=None)
    build(engine, runtime=RTX, precision="fp16", batch_size=8)
    with pytest.raises(EngineMismatchError) as missing:
        find_plan(engine, H200, precision="fp16", batch_size=16)
    text = str(missing.value)
    assert "for tensorrt 8.5.3.1 on NVIDIA H200, compute capability 9.0" in text
    assert f"It has: tensorrt_rtx {trt.__version__}, compute capability any, fp16" in text
    command = shlex.split(text.rpartition("run: ")[2])
    assert command[0] == "steel-batch"
    group, *arguments = command[1:]
    parsed = cli.commands[group].make_context(group, arguments)
    assert parsed.params["engine"] == CARD.name
    assert parsed.params["store"] == engine.plan_home.url
    assert (parsed.params["runtime"], parsed.params["batch_size"]) == ("tensorrt", 16)


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": "tensorrt"},
        {"runtime_version": "1.0.0.1"},
    ],
)
def test_a_plan_for_another_runtime_or_version_does_not_fit(
    engine: Engine, change: dict[str, str]
) -> None:
    build(engine, runtime=RTX, precision="fp16", batch_size=8)
    with pytest.raises(EngineMismatchError, match="has no compiled fp16 plan"):
        find_plan(engine, dataclasses.replace(HERE, **change), precision="fp16", batch_size=8)


def test_a_plan_for_another_gpu_does_not_fit(engine: Engine) -> None:
    built = build(engine, runtime=RTX, precision="fp16", batch_size=8)
    other = dataclasses.replace(built, compute_capability="12.0", file="other.plan")
    put_plan(engine, other, b"plan")
    for capability, expected in (("12.0", {ANY_GPU, "12.0"}), ("8.9", {ANY_GPU})):
        machine = dataclasses.replace(HERE, compute_capability=capability)
        fitting = {p.compute_capability for p in list_plans(engine) if p.fits(machine)}
        assert fitting == expected


def test_the_usual_batch_is_taken_before_a_larger_one(engine: Engine) -> None:
    for batch_size in (8, 64, 32):
        build(engine, runtime=RTX, precision="fp16", batch_size=batch_size)
    assert find_plan(engine, HERE, precision="fp16", batch_size=None).batch_size == 32
    assert find_plan(engine, HERE, precision="fp16", batch_size=64).batch_size == 64


def test_auto_is_fp16_only_where_the_engine_has_it(engine: Engine, tiny_engine: Path) -> None:
    assert usual_precision(engine, RTX) == "fp16"
    assert usual_precision(load_engine(str(tiny_engine), store=None), RTX) == "fp32"


def test_a_precision_that_the_engine_lacks_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"has no int8 graph; it has: fp32, fp16"):
        build(engine, runtime=RTX, precision="int8")


def output(mask_NHW: np.ndarray, num_classes: int = 2) -> Output:
    pixels = mask_NHW.reshape(len(mask_NHW), -1)
    count = [(pixels >> c & 1).sum(axis=1) for c in range(num_classes)]
    count_NC = np.stack(count, axis=1).astype(np.float32)
    return Output(mask_NHW=mask_NHW, peak_NC=np.minimum(count_NC, 0.9), count_NC=count_NC)


def marked_masks() -> np.ndarray:
    mask_NHW = np.zeros((4, 100, 100), np.uint8)
    mask_NHW[0, 10:30, 10:30] = 1
    mask_NHW[1, 50:60, 10:90] = 2
    return mask_NHW


def test_a_plan_that_rounds_differently_is_kept_and_the_difference_noted() -> None:
    mask_NHW = marked_masks()
    mask_NHW[0, 30, 10:30] = 1
    check = compare(output(marked_masks()), output(mask_NHW), precision="fp16", engine="e")
    assert check == {
        "num_images": 4,
        "differing_share": 20 / 40_000,
        "defect_share": 1200 / 40_000,
        "miscounted_share": 0.0,
        "peak_difference": 0.0,
        "mean_peak_difference": 0.0,
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_that_finds_nothing_is_not_kept(precision: str) -> None:
    empty = output(np.zeros((4, 100, 100), np.uint8))
    with pytest.raises(EngineError, match=r"3\.000% of all pixels differ.*are defects"):
        compare(output(marked_masks()), empty, precision=precision, engine="e")


def test_a_plan_whose_counts_are_not_of_its_masks_is_not_kept() -> None:
    good = output(marked_masks())
    wrong = dataclasses.replace(good, count_NC=np.zeros_like(good.count_NC))
    with pytest.raises(EngineError, match=r"25\.0% of its counts"):
        compare(good, wrong, precision="fp16", engine="e")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_that_overflows_is_not_kept_where_nothing_is_marked(precision: str) -> None:
    clean = output(np.zeros((4, 100, 100), np.uint8))
    for value in (np.nan, np.inf):
        peak_NC = clean.peak_NC.copy()
        peak_NC[3, 1] = value
        overflown = dataclasses.replace(clean, peak_NC=peak_NC)
        with pytest.raises(EngineError, match="some peaks are not finite"):
            compare(clean, overflown, precision=precision, engine="e")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 0.005), ("fp16", 0.02), ("int8", 0.1)])
def test_peaks_may_be_off_by_so_much_on_average_also_where_nothing_is_marked(
    precision: str, allowed: float
) -> None:
    clean = output(np.zeros((4, 100, 100), np.uint8))
    for factor in (0.99, 1.01):
        peak_NC = clean.peak_NC.copy()
        peak_NC[0] = 4 * factor * allowed  # of one image in four
        off = dataclasses.replace(clean, peak_NC=peak_NC)
        if factor < 1:
            check = compare(clean, off, precision=precision, engine="e")
            assert check["peak_difference"] == pytest.approx(4 * factor * allowed)
            assert check["mean_peak_difference"] == pytest.approx(factor * allowed)
        else:
            with pytest.raises(EngineError, match=rf"on average, at most {allowed}"):
                compare(clean, off, precision=precision, engine="e")


def test_a_record_holds_no_number_that_json_does_not_know(engine: Engine) -> None:
    record = build(engine, runtime=RTX, precision="fp16", batch_size=8)
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(record, check={"peak_difference": np.nan}).to_json()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_plan_is_compared_on_the_same_images_whatever_its_batch(batch_size: int) -> None:
    images_NHW = np.stack([band_image(seed) for seed in range(8)])
    whole, parts = (
        _run(
            OrtRuntime(GRAPHS["fp32"], CARD, precision="fp32", batch_size=size, num_threads=1),
            images_NHW,
        )
        for size in (8, batch_size)
    )
    assert whole.mask_NHW.any()
    assert (parts.mask_NHW == whole.mask_NHW).all()
    assert (parts.count_NC == whole.count_NC).all()
    np.testing.assert_allclose(parts.peak_NC, whole.peak_NC, rtol=1e-5)


def test_build_engine_prints_what_it_made_as_json(tmp_path: Path) -> None:
    folder = write_tiny_engine(tmp_path / "tiny", precisions=("fp32", "fp16"))
    arguments = ["build-engine", str(folder), "--runtime", RTX, "--output", "json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    made = json.loads(done.stdout)
    assert (made["precision"], made["batch_size"], made["strongly_typed"]) == ("fp16", 32, True)
    assert Path(made["uri"]).stat().st_size == made["size_bytes"]


@pytest.mark.skipif(
    importlib.util.find_spec("pycuda") is not None, reason="this machine has PyCUDA"
)
def test_without_tensorrt_or_pycuda_the_message_says_what_to_install(tiny_engine: Path) -> None:
    engine = load_engine(str(tiny_engine), store=None)
    with pytest.raises(ConfigError, match=r"steel-batch\[gpu\]"):
        open_runtime(engine, RuntimeSettings(runtime="tensorrt", precision="auto", batch_size=None))
    with pytest.raises(ConfigError, match=r"need PyCUDA.*steel-batch\[gpu\]"):
        open_runtime(
            engine, RuntimeSettings(runtime="tensorrt_rtx", precision="auto", batch_size=None)
        )
    assert list_plans(engine) == []
