"""TensorRT on a GPU. Needs no fixture of the suite, so that it also runs where little is installed:

python -m pytest -c /dev/null --rootdir . --noconftest -m gpu tests/engine/test_tensorrt.py
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from steel_batch.config import RuntimeSettings
from steel_batch.engine.build import build, ensure_plan
from steel_batch.engine.compiled_plans import PlanRecord, list_plans, read_plan
from steel_batch.engine.contract import Runtime, infer_all
from steel_batch.engine.gpu import open_gpu
from steel_batch.engine.machine import find_machine
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.runtime import open_runtime
from steel_batch.engine.tensorrt import NUM_SLOTS, TrtRuntime
from steel_batch.errors import ConfigError, EngineError, EngineMismatchError
from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.registry.versions import Engine, load_engine
from tests.tiny_engine import tiny_version

pytestmark = pytest.mark.gpu

HEIGHT, WIDTH = 256, 1600
CARD, GRAPHS = tiny_version(height=HEIGHT, width=WIDTH, precisions=("fp32", "fp16"))
BATCH = 8


def strips(num: int, seed: int) -> np.ndarray:
    """Dark noise with blocks of every class's brightness; no pixel's class is a matter of luck."""
    rng = np.random.default_rng(seed)
    image_NHW = rng.integers(40, 70, (num, HEIGHT, WIDTH)).astype(np.uint8)
    for index in range(num):
        y, x = rng.integers(0, HEIGHT - 60), rng.integers(0, WIDTH - 200)
        image_NHW[index, y : y + 50, x : x + 150] = 153 + 25 * (index % 5)
    return image_NHW


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    try:
        find_machine("tensorrt")
    except (ConfigError, EngineError) as error:
        pytest.skip(str(error))
    lake = Lake(str(tmp_path_factory.mktemp("store")))
    register(lake, CARD, GRAPHS)
    return load_engine(CARD.name, store=lake)


@pytest.fixture(scope="module")
def record(engine: Engine) -> PlanRecord:
    return build(engine, runtime="tensorrt", precision="fp16", batch_size=BATCH)


def open_trt(engine: Engine, record: PlanRecord, **changes: object) -> TrtRuntime:
    settings = {
        "runtime": "tensorrt",
        "batch_size": BATCH,
        "precision": "fp16",
        "num_slots": 3,
    } | changes
    return TrtRuntime(read_plan(engine, record), CARD, **settings)  # type: ignore[arg-type]


@pytest.fixture
def runtime(engine: Engine, record: PlanRecord) -> Iterator[TrtRuntime]:
    opened = open_trt(engine, record)
    yield opened
    opened.close()


def masks(runtime: Runtime, image_NHW: np.ndarray) -> np.ndarray:
    with runtime.acquire() as slot:
        slot.image_NHW[: len(image_NHW)] = image_NHW
        return infer_all(slot, len(image_NHW)).mask_NHW


def expected_masks(image_NHW: np.ndarray) -> np.ndarray:
    reference = OrtRuntime(
        GRAPHS["fp32"], CARD, precision="fp32", batch_size=len(image_NHW), num_threads=4
    )
    return masks(reference, image_NHW)


def free_bytes() -> int:
    return open_gpu().memory()[0]


def test_masks_counts_and_peaks_are_those_of_onnx_runtime(runtime: TrtRuntime) -> None:
    image_NHW = strips(BATCH, seed=1)
    expected = expected_masks(image_NHW)
    assert expected.any()
    with runtime.acquire() as slot:
        slot.image_NHW[:] = image_NHW
        output = infer_all(slot, BATCH)
        assert float(np.mean(output.mask_NHW != expected)) < 0.001
        for c in range(4):
            present = (output.mask_NHW >> c & 1).any(axis=(1, 2))
            assert ((output.count_NC[:, c] > 0) == present).all()
            assert ((output.peak_NC[:, c] > 0.5) == present).all()


def test_a_batch_that_is_not_full_gives_only_its_images(runtime: TrtRuntime) -> None:
    image_NHW = strips(BATCH, seed=2)
    full = masks(runtime, image_NHW)
    for num in (1, 3, BATCH):
        some = masks(runtime, image_NHW[:num])
        assert some.shape == (num, HEIGHT, WIDTH)
        assert (some == full[:num]).all()


def test_many_threads_use_one_runtime_and_do_not_see_each_others_images(
    runtime: TrtRuntime,
) -> None:
    batches = [strips(BATCH, seed=seed) for seed in range(6)]
    expected = [masks(runtime, batch) for batch in batches]
    with ThreadPoolExecutor(6) as threads:
        same = threads.map(
            lambda i: (masks(runtime, batches[i % 6]) == expected[i % 6]).all(), range(300)
        )
        assert all(same)


def test_neither_batches_nor_runtimes_leak(engine: Engine, record: PlanRecord) -> None:
    def resident_bytes() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * 4096

    image_NHW = strips(BATCH, seed=3)
    open_trt(engine, record).close()
    before = free_bytes()
    opened = open_trt(engine, record)
    for _ in range(50):
        masks(opened, image_NHW)
    free, resident = free_bytes(), resident_bytes()
    for _ in range(1000):
        masks(opened, image_NHW)
    assert free_bytes() == free
    assert resident_bytes() - resident < 32 << 20
    opened.close()
    for _ in range(5):
        open_trt(engine, record).close()
    assert abs(free_bytes() - before) < 8 << 20


def test_close_frees_from_any_thread_and_twice_is_fine(engine: Engine, record: PlanRecord) -> None:
    open_trt(engine, record).close()
    before = free_bytes()
    opened = open_trt(engine, record)
    masks(opened, strips(BATCH, seed=4))
    closer = threading.Thread(target=opened.close)
    closer.start()
    closer.join()
    opened.close()
    assert abs(free_bytes() - before) < 8 << 20
    with pytest.raises(EngineError, match="was closed"), opened.acquire():
        pass


def test_a_damaged_plan_is_refused(engine: Engine, record: PlanRecord) -> None:
    plan = bytearray(read_plan(engine, record))
    plan[:64] = bytes(64)
    with pytest.raises(EngineMismatchError, match=r"refuses the compiled plan.*build-engine"):
        TrtRuntime(bytes(plan), CARD, runtime="tensorrt", batch_size=BATCH, precision="fp16")


def test_a_plan_of_another_batch_than_its_record_says_is_refused(
    engine: Engine, record: PlanRecord
) -> None:
    with pytest.raises(EngineError, match=r"image is \[8, 1, 256, 1600\], not \[16,"):
        open_trt(engine, record, batch_size=16)


def test_a_full_gpu_is_said_to_be_full_and_works_when_it_is_not(
    engine: Engine, record: PlanRecord
) -> None:
    open_trt(engine, record).close()
    gpu = open_gpu()
    with gpu.current():
        taken = []
        for size in (1 << 30, 1 << 24):
            while gpu.cuda.mem_get_info()[0] > size + (1 << 24):
                taken.append(gpu.cuda.mem_alloc(size))
        try:
            with pytest.raises(EngineError, match=r"MiB are free\. Give a smaller --batch-size"):
                open_trt(engine, record, num_slots=200)
        finally:
            for memory in taken:
                memory.free()
    opened = open_trt(engine, record)
    image_NHW = strips(BATCH, seed=5)
    assert float(np.mean(masks(opened, image_NHW) != expected_masks(image_NHW))) < 0.001
    opened.close()


def test_of_actors_that_miss_a_plan_one_builds_it_and_the_others_wait(engine: Engine) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(3) as threads:
        ensured = [
            threads.submit(
                ensure_plan,
                engine,
                runtime="tensorrt",
                precision="fp16",
                batch_size=2,
                notify=said.append,
            )
            for _ in range(3)
        ]
        records = [future.result() for future in ensured]
    assert records[0] == records[1] == records[2]
    assert sum("takes one to five minutes" in text for text in said) == 1
    assert sum("another actor is building" in text for text in said) >= 1
    assert records[0].check["differing_share"] < 0.005
    assert records[0].layers.get("fp16", 0) > 0


def test_an_engine_is_opened_with_the_plan_that_is_there(
    engine: Engine, record: PlanRecord
) -> None:
    opened = open_runtime(
        engine, RuntimeSettings(runtime="tensorrt", precision="auto", batch_size=BATCH)
    )
    try:
        assert (opened.batch_size, opened.num_slots) == (BATCH, NUM_SLOTS)
        assert record.device_name in opened.description
    finally:
        opened.close()
    assert record in list_plans(engine)
