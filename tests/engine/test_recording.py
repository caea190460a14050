"""CUDA graphs, as far as they can be seen without a GPU; the driver is a fake."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import numpy as np
import pytest

from steel_batch.engine.contract import infer_all
from steel_batch.engine.cuda_driver import DriverError, load_libcuda
from steel_batch.engine.recording import Recording
from steel_batch.engine.tensorrt import TrtRuntime
from steel_batch.errors import DeviceError
from tests.engine.fake_gpu import Calls, fake_gpu
from tests.tiny_engine import tiny_version

CARD, _ = tiny_version()
BATCH = 4
LAUNCH_FAILED = 719


@pytest.fixture
def calls() -> Iterator[Calls]:
    with fake_gpu(CARD, BATCH) as made:
        yield made


@pytest.fixture
def runtime(calls: Calls) -> TrtRuntime:
    return TrtRuntime(b"plan", CARD, runtime="tensorrt", batch_size=BATCH, precision="fp16")


def check_batch(runtime: TrtRuntime, num_images: int, seed: int) -> None:
    """Score a batch of noise; masks and sample rows must be of its own images."""
    pixels_NHW = np.random.default_rng(seed).integers(0, 256, (num_images, 64, 160), np.uint8)
    with runtime.acquire() as slot:
        slot.image_NHW[:num_images] = pixels_NHW
        np.testing.assert_array_equal(infer_all(slot, num_images).mask_NHW, pixels_NHW & 1)
        sample_NHW = np.zeros((num_images, 16, 160), np.uint8)
        slot.copy_out([], pixels_NHW[:0], sample_NHW)
        np.testing.assert_array_equal(sample_NHW, pixels_NHW[:, ::4])


def num_kernel_by_kernel(calls: Calls) -> int:
    return calls.names.count("execute_async_v3")


def test_full_batches_are_launched_as_one_graph_and_short_ones_are_not(
    calls: Calls, runtime: TrtRuntime
) -> None:
    num_slots = 6
    sizes = [2, BATCH, BATCH, 3, BATCH] * num_slots * 2
    for seed, num_images in enumerate(sizes):
        check_batch(runtime, num_images, seed)
    launched, recorded = calls.names.count("cuGraphLaunch"), calls.names.count("cuStreamEndCapture")
    assert 1 <= recorded <= num_slots
    assert launched == sizes.count(BATCH) - recorded
    assert num_kernel_by_kernel(calls) == len(sizes) - launched + recorded


@pytest.mark.parametrize(
    "refusing",
    ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"],
)
def test_work_that_cannot_be_recorded_is_launched_kernel_by_kernel(
    calls: Calls, runtime: TrtRuntime, refusing: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="steel_batch")
    calls.refusals[refusing] = 900
    for seed in range(20):
        check_batch(runtime, BATCH, seed)
    assert "cuGraphLaunch" not in calls.names
    assert calls.names.count("cuStreamBeginCapture_v2") <= 6, "each slot tries once"
    assert f"kernel by kernel ({refusing}: status 900)" in caplog.text
    assert not calls.graphs


def test_a_graph_that_does_not_launch_means_that_the_gpu_failed(calls: Calls) -> None:
    runtime = TrtRuntime(
        b"plan", CARD, runtime="tensorrt", batch_size=BATCH, precision="fp16", num_slots=1
    )
    check_batch(runtime, BATCH, 0)
    calls.refusals["cuGraphLaunch"] = LAUNCH_FAILED
    expected = "H200 failed while it scored a batch: cuGraphLaunch: CUDA_ERROR_LAUNCH_FAILED"
    with pytest.raises(DeviceError, match=expected):
        check_batch(runtime, BATCH, 1)


def test_work_that_fails_while_it_is_recorded_leaves_no_graph(calls: Calls) -> None:
    def enqueue() -> None:
        raise ValueError("no kernel")

    with pytest.raises(ValueError, match="no kernel"):
        Recording(0, enqueue)
    assert calls.captured is None, "the stream records no more"
    assert not calls.graphs


def test_a_recording_is_freed_once(calls: Calls) -> None:
    recording = Recording(0, lambda: None)
    assert len(calls.graphs) == 1
    recording.free()
    recording.free()  # the fake driver fails if a graph is freed twice
    assert not calls.graphs


def test_closing_a_runtime_frees_its_graphs(calls: Calls, runtime: TrtRuntime) -> None:
    for seed in range(20):
        check_batch(runtime, BATCH, seed)
    assert calls.graphs
    runtime.close()
    assert not calls.graphs


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("libmissing.so.1", "libmissing.so.1: cannot open shared object file"),
        ("libc.so.6", "undefined symbol: cuInit"),
    ],
)
def test_a_driver_that_is_missing_or_too_old_is_named(name: str, found: str) -> None:
    with pytest.raises(DriverError, match=re.escape(found)):
        load_libcuda(name)
