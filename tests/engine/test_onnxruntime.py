from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from steel_batch.engine import onnxruntime
from steel_batch.engine.contract import infer_all
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.errors import EngineError
from steel_batch.registry.card import Card
from steel_batch.registry.graph import open_session
from tests.conftest import band_image
from tests.tiny_engine import LEVELS, tiny_graph, tiny_version

CARD, GRAPHS = tiny_version(precisions=("fp32", "fp16"))
IMAGES_NHW = np.stack([band_image(seed) for seed in range(10)])


def open_tiny(
    graph: bytes = GRAPHS["fp32"], card: Card = CARD, *, batch_size: int = 4
) -> OrtRuntime:
    return OrtRuntime(graph, card, precision="fp32", batch_size=batch_size, num_threads=1)


def blurred(image_HW: np.ndarray) -> np.ndarray:
    padded = np.pad(image_HW.astype(np.float64), 1)
    height, width = image_HW.shape
    windows = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.sum(windows, axis=0) / 9 / 255


def test_masks_peaks_and_counts_are_what_the_graph_defines() -> None:
    runtime = open_tiny(batch_size=10)
    with runtime.acquire() as slot:
        slot.image_NHW[:] = IMAGES_NHW
        output = infer_all(slot, 10)
    for image_HW, mask_HW, peak_C, count_C in zip(
        IMAGES_NHW, output.mask_NHW, output.peak_NC, output.count_NC, strict=True
    ):
        brightness = blurred(image_HW)
        for c, level in enumerate(LEVELS):
            sure = np.abs(brightness - level) > 1e-6
            assert ((mask_HW >> c & 1 == 1) == (brightness > level))[sure].all()
            assert count_C[c] == (mask_HW >> c & 1).sum()
            assert (peak_C[c] > 0.5) == (count_C[c] > 0)
    assert output.mask_NHW.any()
    assert output.mask_NHW.dtype == np.uint8
    runtime.close()


@pytest.mark.parametrize(("num_graphs", "num_sessions"), [(9, 3), (3, 3), (2, 2), (1, 1), (0, 1)])
def test_threads_share_sessions_if_their_graphs_would_be_large(
    monkeypatch: pytest.MonkeyPatch, num_graphs: int, num_sessions: int
) -> None:
    opened = []

    def opening(*args: Any, **kwargs: Any) -> Any:
        opened.append(open_session(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(onnxruntime, "open_session", opening)
    monkeypatch.setattr(onnxruntime, "SESSIONS_BYTES", num_graphs * len(GRAPHS["fp32"]))
    runtime = OrtRuntime(GRAPHS["fp32"], CARD, precision="fp32", batch_size=1, num_threads=3)
    assert len(opened) == num_sessions
    with ExitStack() as held:
        masks = []
        for slot in [held.enter_context(runtime.acquire()) for _ in range(3)]:
            slot.image_NHW[:] = IMAGES_NHW[:1]
            masks.append(infer_all(slot, 1).mask_NHW)
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == masks[2]).all()


def test_a_batch_that_is_not_full_gives_only_its_images() -> None:
    runtime = open_tiny()
    with runtime.acquire() as slot:
        slot.image_NHW[:] = 255
        slot.image_NHW[:3] = IMAGES_NHW[:3]
        output = infer_all(slot, 3)
    assert output.mask_NHW.shape == (3, 64, 160)
    with runtime.acquire() as slot:
        slot.image_NHW[0] = IMAGES_NHW[2]
        assert (infer_all(slot, 1).mask_NHW[0] == output.mask_NHW[2]).all()
    runtime.close()


def test_threads_do_not_see_each_others_images() -> None:
    runtime = open_tiny(batch_size=1)
    with runtime.acquire() as slot:
        expected = []
        for image_HW in IMAGES_NHW:
            slot.image_NHW[0] = image_HW
            expected.append(infer_all(slot, 1).mask_NHW[0].copy())

    def score(index: int) -> bool:
        with runtime.acquire() as slot:
            slot.image_NHW[0] = IMAGES_NHW[index % 10]
            return bool((infer_all(slot, 1).mask_NHW[0] == expected[index % 10]).all())

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(score, range(60)))
    runtime.close()


def test_close_twice_is_fine_and_a_closed_runtime_says_so() -> None:
    runtime = open_tiny()
    runtime.close()
    runtime.close()
    with pytest.raises(EngineError, match="was closed"), runtime.acquire():
        pass


def test_the_half_precision_graph_marks_the_same_pixels() -> None:
    runtime = OrtRuntime(GRAPHS["fp16"], CARD, precision="fp16", batch_size=10, num_threads=1)
    full = open_tiny(batch_size=10)
    with runtime.acquire() as half_slot, full.acquire() as full_slot:
        half_slot.image_NHW[:] = full_slot.image_NHW[:] = IMAGES_NHW
        half, whole = infer_all(half_slot, 10), infer_all(full_slot, 10)
    assert (half.mask_NHW == whole.mask_NHW).all()
    assert np.abs(half.peak_NC - whole.peak_NC).max() < 0.005


def test_bytes_that_are_no_onnx_are_refused() -> None:
    with pytest.raises(EngineError, match=r"graph of engine tiny-\w+ is not an ONNX file: "):
        open_tiny(b"not a graph")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("height", 32, r"image is N×\[1, 64, 160\], not N×\[1, 32, 160\]"),
        ("classes", ("a", "b", "c"), r"peak is N×\[4\], not N×\[3\]"),
    ],
)
def test_a_graph_that_is_not_the_cards_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_tiny(card=dataclasses.replace(CARD, **{field: value}))


def changed_graph(*, drop: str = "", fixed_batch: bool = False, extra: bool = False) -> bytes:
    model = onnx.load_model_from_string(tiny_graph(64, 160))
    outputs = [o for o in model.graph.output if o.name != drop]
    if extra:
        outputs.append(helper.make_tensor_value_info("over", TensorProto.BOOL, ["N", 4, 64, 160]))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    if fixed_batch:
        for tensor in (*model.graph.input, *model.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_value = 8
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (changed_graph(drop="count"), "count is missing"),
        (changed_graph(fixed_batch=True), "image has a fixed batch of 8"),
        (changed_graph(extra=True), "over is not in the contract"),
    ],
)
def test_a_graph_outside_the_contract_is_refused(graph: bytes, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        open_tiny(graph)


def test_nothing_is_kept_for_the_maker_of_onnx_runtime(tmp_path: Path) -> None:
    code = "import steel_batch.engine.onnxruntime, sys; assert 'onnxruntime' in sys.modules"
    kept = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI")}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=kept | home, check=True)
    assert list(tmp_path.rglob("onnxruntime*")) == []
