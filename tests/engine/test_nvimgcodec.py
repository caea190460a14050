"""Decoding on the GPU, as far as it can be seen without one; the rest is test_gpu_decode.py."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.config import ScoreConfig
from steel_batch.engine import nvimgcodec
from steel_batch.engine.runtime import decodes_on_gpu, open_runtime
from steel_batch.engine.tensorrt import missing_parts
from steel_batch.errors import ConfigError
from steel_batch.registry import load_engine

KNOWN = json.loads((Path(__file__).parent / "nvimgcodec_0_9_names.json").read_text())
"""Written by `dir` and the docstrings' signatures in 0.9.0, whose 80 MB are not for tests."""
CODEC = "codec"


def tree() -> ast.Module:
    return ast.parse(Path(nvimgcodec.__file__).read_text())


def path_of(node: ast.expr) -> list[str]:
    """The names of ``a.b.c``, or nothing for another kind of expression."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    return [node.id, *path] if isinstance(node, ast.Name) else []


def used_names() -> set[tuple[str, ...]]:
    found = {tuple(path_of(n)) for n in ast.walk(tree()) if isinstance(n, ast.Attribute)}
    return {path[1:] for path in found if path[:1] == (CODEC,)}


def used_arguments() -> set[tuple[str, str]]:
    """Calls of nvImageCodec's with an argument by its name."""
    found = set()
    for call in (n for n in ast.walk(tree()) if isinstance(n, ast.Call)):
        path = path_of(call.func)
        if path == ["self", "_decoder", "decode"]:
            name = "Decoder.decode"
        elif path[:1] == [CODEC]:
            name = path[1] if path[1][0].isupper() else f"module.{path[1]}"
        else:
            continue
        found |= {(name, keyword.arg) for keyword in call.keywords if keyword.arg}
    return found


def test_the_source_is_read_as_it_is_written() -> None:
    assert ("BackendKind", "HW_GPU_ONLY") in used_names()
    assert ("as_image",) in used_names()
    assert {
        ("Decoder", "max_num_cpu_threads"),
        ("Decoder.decode", "images"),
        ("module.as_image", "cuda_stream"),
    } <= used_arguments()


def test_nvimagecodec_0_9_has_every_name_and_argument_that_we_use() -> None:
    names = {kind: set(listed.split()) for kind, listed in KNOWN["names"].items()}
    for first, *rest in used_names():
        assert first in names["module"]
        assert set(rest) <= names.get(first, set())
    arguments = {name: set(listed.split()) for name, listed in KNOWN["arguments"].items()}
    for name, argument in used_arguments():
        assert argument in arguments[name], f"{name}({argument}=)"


@pytest.mark.skipif(
    importlib.util.find_spec("nvidia.nvimgcodec") is not None
    if importlib.util.find_spec("nvidia") is not None
    else False,
    reason="nvImageCodec is installed here",
)
def test_without_nvimagecodec_it_is_said_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"steel-batch\[gpu\] on every GPU node.*--decode cpu"):
        nvimgcodec.import_nvimgcodec()


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
        open_runtime(load_engine("demo", store=None), runtime="onnxruntime", decode="gpu")


def test_the_gpu_is_not_to_decode_what_another_decoder_makes() -> None:
    with pytest.raises(ConfigError, match="my:decoder makes the pixels"):
        ScoreConfig(images="x", store="y", decode="gpu", decoder="my:decoder")


def test_an_unknown_way_of_decoding_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="--decode 'tpu' is none of auto, gpu, cpu"):
        decodes_on_gpu("tpu", runtime="tensorrt")
