"""Decoding on the GPU, as far as it can be seen without one; the rest is test_gpu_decode.py."""

from __future__ import annotations

import itertools
import os
import platform
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.config import RuntimeSettings, ScoreConfig
from steel_batch.engine import nvjpeg
from steel_batch.engine.runtime import decodes_on_gpu, open_runtime
from steel_batch.engine.tensorrt_slot import missing_parts
from steel_batch.errors import ConfigError
from steel_batch.registry.versions import load_engine

needs_nvjpeg = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="nvJPEG has no wheel for this machine",
)


@needs_nvjpeg
def test_nvjpeg_has_every_function_that_we_use() -> None:
    library = nvjpeg.load_nvjpeg()
    for name in nvjpeg.FUNCTIONS:
        assert getattr(library, name).argtypes


@needs_nvjpeg
def test_the_version_of_nvjpeg_is_known_without_a_gpu() -> None:
    assert re.fullmatch(r"1[23]\.\d+\.\d+", nvjpeg.find_version(nvjpeg.load_nvjpeg()))


@needs_nvjpeg
def test_without_a_gpu_it_is_said_which_function_failed() -> None:
    script = (
        "from types import SimpleNamespace\n"
        "from steel_batch.engine.nvjpeg import GpuDecoder\n"
        "GpuDecoder(None, SimpleNamespace(handle=0), 0, (1, 256, 1600))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: nvjpegCreateEx: ")


def test_without_nvjpeg_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(ConfigError, match=r"steel-batch\[gpu\] on every GPU node.*--decode cpu"):
        nvjpeg.load_nvjpeg.__wrapped__()


@given(st.integers(0, 40), st.sets(st.integers(0, 45)))
def test_what_is_copied_is_what_is_not_loaded(num_images: int, loaded: set[int]) -> None:
    parts = missing_parts(num_images, frozenset(loaded))
    copied = [place for part in parts for place in range(part.start, part.stop)]
    assert copied == [place for place in range(num_images) if place not in loaded]
    assert all(a.stop < b.start for a, b in itertools.pairwise(parts))


def test_a_batch_of_which_nothing_is_loaded_is_one_copy_and_a_loaded_one_is_none() -> None:
    assert missing_parts(32, frozenset()) == [slice(0, 32)]
    assert missing_parts(32, frozenset(range(32))) == []


@pytest.mark.parametrize(("decode", "on_gpu"), [("auto", True), ("gpu", True), ("cpu", False)])
def test_a_gpu_decodes_unless_it_is_not_to(decode: str, *, on_gpu: bool) -> None:
    assert decodes_on_gpu(decode, runtime="tensorrt") == on_gpu


@pytest.mark.parametrize("decode", ["auto", "cpu"])
def test_where_the_cpu_scores_the_cpu_decodes(decode: str) -> None:
    assert not decodes_on_gpu(decode, runtime="onnxruntime")


def test_the_gpu_is_not_to_decode_where_the_cpu_scores() -> None:
    with pytest.raises(ConfigError, match="--runtime tensorrt, or --decode cpu"):
        open_runtime(
            load_engine("demo", store=None),
            RuntimeSettings(runtime="onnxruntime", precision="auto", batch_size=None),
            decode_on="gpu",
        )


def test_the_gpu_is_not_to_decode_what_another_decoder_makes() -> None:
    with pytest.raises(ConfigError, match="my:decoder, which decodes on the CPU"):
        ScoreConfig(images="x", store="y", decode_on="gpu", decoder="my:decoder")


def test_an_unknown_way_of_decoding_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match="--decode 'tpu' is unknown; expected one of auto, gpu, cpu"
    ):
        decodes_on_gpu("tpu", runtime="tensorrt")
