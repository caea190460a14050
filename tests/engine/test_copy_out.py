"""Masks come out of a slot one by one, into the memory of whoever asks; the GPU is a fake."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.engine.contract import Runtime, infer_all
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.engine.tensorrt import TrtRuntime
from steel_batch.engine.tensorrt_slot import contiguous
from steel_batch.errors import DeviceError, EngineError
from tests.engine.fake_gpu import Calls, CudaError, fake_gpu
from tests.tiny_engine import tiny_version

CARD, GRAPHS = tiny_version()
BATCH = 10
PLACES: tuple[list[int], ...] = ([], [0], [9], [0, 1, 2], [1, 3, 4, 5, 9], list(range(BATCH)))


@pytest.fixture
def calls() -> Iterator[Calls]:
    with fake_gpu(CARD, BATCH) as made:
        yield made


@pytest.fixture(params=["onnxruntime", "tensorrt"])
def runtime(request: pytest.FixtureRequest, calls: Calls) -> Iterator[Runtime]:
    if request.param == "tensorrt":
        opened: Runtime = open_trt()
    else:
        opened = OrtRuntime(GRAPHS["fp32"], CARD, precision="fp32", batch_size=BATCH, num_threads=1)
    yield opened
    opened.close()


def open_trt() -> TrtRuntime:
    return TrtRuntime(b"plan", CARD, runtime="tensorrt", batch_size=BATCH, precision="fp16")


def strips() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (BATCH, 64, 160), np.uint8)


@pytest.mark.parametrize("places", PLACES)
def test_chosen_masks_lie_one_after_the_other(runtime: Runtime, places: list[int]) -> None:
    with runtime.acquire() as slot:
        slot.image_NHW[:] = strips()
        expected_NHW = infer_all(slot, BATCH).mask_NHW[places]
        mask_NHW = np.full((BATCH, 64, 160), 99, np.uint8)
        sample_NHW = np.full((BATCH, 16, 160), 99, np.uint8)
        slot.copy_out(places, mask_NHW[: len(places)], sample_NHW[:7])
    np.testing.assert_array_equal(mask_NHW[: len(places)], expected_NHW)
    np.testing.assert_array_equal(sample_NHW[:7], strips()[:7, ::4])
    assert (mask_NHW[len(places) :] == 99).all()
    assert (sample_NHW[7:] == 99).all()


def test_a_mask_that_the_last_batch_has_not_is_refused(runtime: Runtime) -> None:
    with runtime.acquire() as slot:
        slot.image_NHW[:] = strips()
        infer_all(slot, BATCH)
        slot.infer(2)
        with pytest.raises(IndexError):
            slot.copy_out([1, 2], np.zeros((2, 64, 160), np.uint8))


def test_a_gpu_writes_masks_to_registered_memory_and_only_those_asked_for(calls: Calls) -> None:
    runtime = open_trt()
    memory = np.zeros(BATCH * 64 * 160, np.uint8)
    runtime.register(memory)
    assert calls.registered == {memory.ctypes.data: memory.nbytes}
    with runtime.acquire() as slot:
        slot.image_NHW[:] = strips()
        slot.infer(BATCH)
        assert sum(size for _, size in calls.copied) < 64 * 160, "peaks and counts alone"
        calls.copied.clear()
        slot.copy_out([2, 3, 8], memory.reshape(BATCH, 64, 160)[:3])
    image = 64 * 160
    address = memory.ctypes.data
    assert calls.copied == [(address, 2 * image), (address + 2 * image, image)]
    runtime.close()
    assert not calls.registered


def test_memory_that_cannot_be_registered_gets_the_masks_too(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.refusals["cuMemHostRegister_v2"] = 801
    runtime = open_trt()
    memory = np.zeros((BATCH, 64, 160), np.uint8)
    runtime.register(memory)
    runtime.register(memory)
    assert caplog.text.count("so masks are copied twice") == 1
    assert "register this process's memory (cuMemHostRegister_v2: status 801)" in caplog.text
    with runtime.acquire() as slot:
        slot.image_NHW[:] = strips()
        slot.infer(BATCH)
        slot.copy_out(range(BATCH), memory)
    np.testing.assert_array_equal(memory, strips() & 1)
    runtime.close()


def test_a_refusal_beside_one_that_is_being_logged_is_not_logged(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.refusals["cuMemHostRegister_v2"] = 801
    runtime, logger = open_trt(), logging.getLogger("steel_batch.engine.tensorrt")
    memory_NHW = np.zeros((2, 64, 160), np.uint8)

    def register_another(_: logging.LogRecord) -> bool:
        logger.removeFilter(register_another)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(runtime.register, memory_NHW[1]).result()
        return True

    logger.addFilter(register_another)
    runtime.register(memory_NHW[0])
    assert register_another not in logger.filters
    assert caplog.text.count("so masks are copied twice") == 1


def test_a_gpu_that_fails_while_it_copies_is_no_use_to_this_process(calls: Calls) -> None:
    runtime = open_trt()
    with runtime.acquire() as slot:
        slot.infer(BATCH)
        calls.faults["Event.synchronize"] = CudaError("an illegal memory access")
        with pytest.raises(DeviceError, match="H200 failed while it copied masks: an illegal"):
            slot.copy_out([1], np.zeros((1, 64, 160), np.uint8))


def test_pixels_get_pinned_memory_when_the_cpu_writes_the_first(calls: Calls) -> None:
    runtime = open_trt()
    with runtime.acquire() as slot:
        pinned = len(calls.pinned)
        calls.faults["pagelocked_zeros"] = CudaError("out of memory")
        with pytest.raises(EngineError, match="0 MiB of this machine's memory cannot be pinned"):
            slot.image_NHW  # noqa: B018 # it is made by looking at it
        del calls.faults["pagelocked_zeros"]
        for _ in range(2):
            slot.image_NHW[:] = strips()
        np.testing.assert_array_equal(infer_all(slot, BATCH).mask_NHW, strips() & 1)
        assert calls.pinned[pinned:] == [(BATCH, 64, 160)]
    runtime.close()


@given(st.sets(st.integers(0, 40)))
def test_parts_are_contiguous_whole_and_as_few_as_possible(chosen: set[int]) -> None:
    places = sorted(chosen)
    found = contiguous(places)
    assert [place for part in found for place in part] == places
    assert all(before.stop < after.start for before, after in itertools.pairwise(found))


def test_places_side_by_side_are_one_part_and_no_place_is_none() -> None:
    assert contiguous(range(32)) == [range(32)]
    assert contiguous([]) == []
