"""What is said and done where the GPU, TensorRT or nvJPEG fails: each is a fake that can."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from steel_batch.config import DecodeOn
from steel_batch.engine.contract import Provenance, infer_all
from steel_batch.engine.gpu import open_early, open_gpu
from steel_batch.engine.nvjpeg import DECODES_AT_ONCE, check_decoder, start_early
from steel_batch.engine.runtime import _can_decode, load_libraries
from steel_batch.engine.tensorrt import TrtRuntime
from steel_batch.errors import ConfigError, DeviceError, EngineError, EngineMismatchError
from tests.engine.fake_gpu import Calls, CudaError, fake_gpu
from tests.tiny_engine import tiny_version

CARD, _ = tiny_version()
BATCH = 4
JPEG = cv2.imencode(".jpg", np.full((64, 160), 90, np.uint8))[1].tobytes()
HARDWARE, OTHER_UNITS = "nvjpegCreateEx(3)", "nvjpegCreateEx(2)"
STATE, CONTEXT = "nvjpegJpegStateCreate", "cuDevicePrimaryCtxRetain"


@pytest.fixture
def calls() -> Iterator[Calls]:
    with fake_gpu(CARD, BATCH) as made:
        yield made


def open_trt(*, decodes_jpegs: bool = False, **changes: object) -> TrtRuntime:
    settings = {"runtime": "tensorrt", "batch_size": BATCH, "precision": "fp16"} | changes
    runtime = TrtRuntime(b"plan", CARD, **settings)  # type: ignore[arg-type]
    if decodes_jpegs:
        runtime.open_decoders()
    return runtime


def test_a_gpu_that_fails_in_a_batch_is_no_use_to_this_process(calls: Calls) -> None:
    runtime = open_trt()
    with runtime.acquire() as slot:
        assert infer_all(slot, 3).mask_NHW.shape == (3, 64, 160)
        calls.faults["Event.synchronize"] = CudaError("an illegal memory access")
        with pytest.raises(DeviceError, match="H200 failed while it scored a batch: an illegal"):
            slot.infer(BATCH)


def test_a_gpu_that_fails_while_it_decodes_is_no_use_to_this_process(calls: Calls) -> None:
    runtime = open_trt(decodes_jpegs=True)
    with runtime.acquire() as slot:
        assert slot.load_jpegs({0: JPEG, 2: JPEG}) == {0, 2}
        calls.refusals["nvjpegDecodeBatched"] = 6
        assert slot.load_jpegs({0: JPEG, 2: JPEG}) == frozenset()
        calls.faults["Context.synchronize"] = CudaError("an illegal memory access")
        with pytest.raises(DeviceError, match="H200 failed while it decoded JPEGs: an illegal"):
            slot.load_jpegs({0: JPEG, 2: JPEG})


def test_two_batches_are_decoded_at_once_however_many_are_in_flight(calls: Calls) -> None:
    runtime = open_trt(decodes_jpegs=True)

    def load(_: int) -> frozenset[int]:
        with runtime.acquire() as slot:
            return slot.load_jpegs({0: JPEG})

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(load, range(18))) == {frozenset({0})}
    assert calls.most_decoding == 2


def test_a_decoder_that_fails_does_not_keep_its_turn(calls: Calls) -> None:
    runtime = open_trt(decodes_jpegs=True)
    calls.refusals["nvjpegDecodeBatched"] = 6
    for _ in range(3):
        with runtime.acquire() as slot:
            assert slot.load_jpegs({0: JPEG}) == frozenset()
    calls.refusals.clear()
    with runtime.acquire() as slot:
        assert slot.load_jpegs({0: JPEG}) == {0}


def test_some_rows_of_each_image_come_back_also_of_those_that_the_gpu_decoded(
    calls: Calls,
) -> None:
    runtime = open_trt(decodes_jpegs=True)
    pixels_NHW = np.random.default_rng(3).integers(0, 256, (BATCH, 64, 160), np.uint8)
    with runtime.acquire() as slot:
        slot.image_NHW[:] = pixels_NHW
        assert slot.load_jpegs({1: JPEG}) == {1}
        pixels_NHW[1] = cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_GRAYSCALE)
        slot.infer(3)
        sample_NHW = np.zeros((3, 16, 160), np.uint8)
        slot.copy_out([], pixels_NHW[:0], sample_NHW)
        np.testing.assert_array_equal(sample_NHW, pixels_NHW[:3, ::4])


def test_a_batch_that_is_given_up_is_waited_for_before_its_slot_is_lent_again(calls: Calls) -> None:
    runtime = open_trt()
    calls.faults["Event.synchronize"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), runtime.acquire() as slot:
        slot.infer(BATCH)
    assert calls.names[-1] == "Stream.synchronize"
    calls.names.clear()
    calls.refusals["execute_async_v3"] = False
    with pytest.raises(EngineError, match="cannot start a batch"), runtime.acquire() as slot:
        slot.infer(BATCH)
    assert calls.names[-1] == "Stream.synchronize"
    calls.faults["Stream.synchronize"] = CudaError("an illegal memory access")
    with pytest.raises(EngineError, match="cannot start a batch"), runtime.acquire() as slot:
        slot.infer(BATCH)


def test_what_is_said_to_be_free_on_a_full_gpu_is_so_without_the_weights(calls: Calls) -> None:
    calls.refusals["create_execution_context"] = None
    with pytest.raises(
        EngineError, match=r"apart from it, 4,096 of 4,096 MiB are free\. Give a small"
    ):
        open_trt()
    del calls.refusals["create_execution_context"]
    runtime = open_trt()
    assert len(calls.loaded) == 1
    runtime.close()
    assert len(calls.loaded) == 0


def test_a_plan_that_does_not_load_is_not_deleted_before_the_gpu_is_looked_at(
    calls: Calls,
) -> None:
    calls.refusals["deserialize_cuda_engine"] = None
    with pytest.raises(
        EngineMismatchError,
        match=r"refuses the compiled plan of engine tiny-.*: it gives no reason\. Check the "
        r"GPU with `nvidia-smi`. If it is healthy, .*delete the plan and its record, then run "
        r"`steel-batch build",
    ):
        open_trt()


@pytest.mark.parametrize(
    ("status", "ending"),
    [(0, ", JPEGs decoded on the GPU by its JPEG unit"), (7, ", JPEGs decoded on the GPU")],
)
def test_a_runtime_says_what_decodes_its_jpegs(calls: Calls, status: int, ending: str) -> None:
    calls.refusals[HARDWARE] = status
    assert open_trt(decodes_jpegs=True).description.endswith(f", batches of 4{ending}")
    assert open_trt().description.endswith(", batches of 4")


@pytest.mark.parametrize(("status", "unit"), [(0, "hardware"), (7, "cuda")])
def test_a_runtime_says_what_makes_its_rows(calls: Calls, status: int, unit: str) -> None:
    calls.refusals[HARDWARE] = status
    runtime = open_trt(decodes_jpegs=True)
    assert runtime.provenance == Provenance(
        runtime="tensorrt", runtime_version="10.0.0.1", precision="fp16", device="NVIDIA H200"
    )
    with runtime.acquire() as slot:
        assert slot.jpeg_decoder == f"nvjpeg 0.0.0 {unit}"
    with open_trt().acquire() as slot:
        assert slot.jpeg_decoder is None


@pytest.mark.parametrize("status", [0, 7, 9])
def test_a_gpu_without_a_jpeg_unit_decodes_without_a_word(
    calls: Calls, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    calls.refusals[HARDWARE] = status
    check_decoder(64, 160)
    assert caplog.records == []


def test_a_jpeg_unit_that_is_there_and_not_to_be_had_is_logged_once(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.refusals[HARDWARE] = 1
    check_decoder(64, 160)
    open_trt(decodes_jpegs=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the hardware decoder of NVIDIA H200 (not initialized)" in record.getMessage()
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in record.getMessage()


def test_where_nvjpeg_does_not_decode_it_is_said(calls: Calls) -> None:
    assert _can_decode(CARD, "auto")
    calls.refusals["nvjpegDecodeBatched"] = 6
    with pytest.raises(ConfigError, match=r"to nothing on NVIDIA H200.*--decode cpu"):
        check_decoder(64, 160)


def test_nvjpeg_starts_once_for_all_decoders(calls: Calls) -> None:
    assert _can_decode(CARD, "gpu")
    open_trt(decodes_jpegs=True)
    assert calls.names.count(HARDWARE) == 1


def test_a_state_of_nvjpeg_is_made_with_the_first_jpegs(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = open_trt(decodes_jpegs=True)
    assert STATE not in calls.names
    with runtime.acquire() as slot:
        calls.refusals[STATE] = 5
        assert slot.load_jpegs({0: JPEG}) == frozenset()
        assert "decodes none of 1 JPEGs: nvjpegJpegStateCreate: allocation failed" in caplog.text
        calls.refusals.clear()
        assert slot.load_jpegs({0: JPEG}) == slot.load_jpegs({0: JPEG}) == {0}
    assert calls.names.count(STATE) == 2


@pytest.mark.parametrize("status", [0, 6])
def test_all_slots_use_the_state_of_the_check(calls: Calls, status: int) -> None:
    calls.refusals["nvjpegDecodeBatched"] = status
    with contextlib.suppress(ConfigError):
        check_decoder(64, 160)
    calls.refusals.clear()
    runtime = open_trt(decodes_jpegs=True)
    with runtime.acquire() as first, runtime.acquire() as second:
        assert first.load_jpegs({0: JPEG}) == second.load_jpegs({0: JPEG}) == {0}
    assert calls.names.count(STATE) == 1


def test_a_state_is_set_up_for_each_size_of_batch_and_after_a_failure(calls: Calls) -> None:
    runtime = open_trt(decodes_jpegs=True)
    with runtime.acquire() as slot:
        for num in (1, 2, 2, 1):
            assert len(slot.load_jpegs(dict.fromkeys(range(num), JPEG))) == num
        calls.refusals["nvjpegDecodeBatched"] = 6
        assert slot.load_jpegs({0: JPEG}) == frozenset()
        calls.refusals.clear()
        assert slot.load_jpegs({0: JPEG}) == {0}


def test_a_gpu_that_fails_when_its_decoders_are_opened_is_an_error(calls: Calls) -> None:
    runtime = open_trt()
    calls.faults["Event"] = CudaError("out of memory")
    with pytest.raises(EngineError, match=r"NVIDIA H200 \(out of memory\).*--decode cpu"):
        runtime.open_decoders()


def test_there_are_no_more_states_than_batches_are_decoded_at_once(calls: Calls) -> None:
    runtime = open_trt(decodes_jpegs=True, num_slots=6)

    def decode(num: int) -> bool:
        with runtime.acquire() as slot:
            return len(slot.load_jpegs(dict.fromkeys(range(num), JPEG))) == num

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(decode, [1, 2, 3, BATCH] * 12))
    assert 1 <= calls.names.count(STATE) <= DECODES_AT_ONCE


def test_nvjpeg_is_started_early_for_the_check_that_follows(calls: Calls) -> None:
    start_early()
    assert (calls.names.count(HARDWARE), calls.names.count(STATE)) == (1, 1)
    check_decoder(64, 160)
    runtime = open_trt(decodes_jpegs=True)
    with runtime.acquire() as slot:
        assert slot.load_jpegs({0: JPEG}) == {0}
    assert (calls.names.count(HARDWARE), calls.names.count(STATE)) == (1, 1)


@pytest.mark.parametrize("name", [OTHER_UNITS, STATE])
def test_what_fails_early_fails_again_where_it_is_needed(calls: Calls, name: str) -> None:
    calls.refusals |= {HARDWARE: 7, name: 5}
    start_early()
    with pytest.raises(ConfigError):
        check_decoder(64, 160)
    calls.refusals.clear()
    check_decoder(64, 160)


def test_a_gpu_is_opened_early_without_pycuda(calls: Calls) -> None:
    open_early()
    assert calls.names == ["cuInit", "cuDeviceGet", CONTEXT]


@pytest.mark.parametrize("runtime", ["auto", "tensorrt", "tensorrt_rtx"])
def test_libraries_that_are_missing_are_named_later(
    monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    for name in ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    load_libraries(runtime, "gpu")


@pytest.mark.parametrize("refused", ["cuInit", "cuDeviceGet", CONTEXT])
def test_what_fails_early_fails_later_with_its_error(calls: Calls, refused: str) -> None:
    calls.refusals[refused] = 100
    open_early()
    assert calls.names[-1] == refused
    open_gpu()  # PyCUDA's own calls, which do not fail here


def test_where_nvjpeg_does_not_start_the_cpu_decodes(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.refusals |= {HARDWARE: 7, OTHER_UNITS: 1}
    with pytest.raises(ConfigError, match="nvJPEG does not work on NVIDIA H200: nvjpegCreateEx: n"):
        check_decoder(64, 160)
    assert not _can_decode(CARD, "auto")
    assert "JPEGs are decoded on the CPU" in caplog.records[-1].getMessage()
    with pytest.raises(ConfigError):
        _can_decode(CARD, "gpu")


@pytest.mark.parametrize("name", [HARDWARE, STATE])
def test_a_gpu_that_is_too_full_for_nvjpeg_is_said_to_be(calls: Calls, name: str) -> None:
    """And its other units are not taken instead, which have no more memory and are slower."""
    calls.refusals[name] = 5
    with pytest.raises(
        ConfigError,
        match=r"allocation failed\. [\d,]+ of its [\d,]+ MiB .* smaller --batch-size, end",
    ):
        check_decoder(64, 160)
    assert OTHER_UNITS not in calls.names
    calls.refusals.clear()
    check_decoder(64, 160)


@pytest.mark.parametrize("decode", ["auto", "gpu"])
def test_a_gpu_that_fails_on_the_first_jpeg_is_not_taken_for_a_missing_decoder(
    calls: Calls, decode: DecodeOn
) -> None:
    calls.faults["memcpy_dtoh"] = CudaError("an illegal memory access")
    with pytest.raises(EngineError, match="H200 failed while it decoded one JPEG: an illegal"):
        _can_decode(CARD, decode)
