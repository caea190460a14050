"""Decoding on the GPU, as far as it can be seen without one; the rest is test_gpu_decode.py."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

from steel_batch.config import RuntimeSettings, ScoreConfig
from steel_batch.engine import nvjpeg
from steel_batch.engine.runtime import decodes_on_gpu, open_runtime
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
