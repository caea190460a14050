"""What the scorer leaves to a device that decodes JPEGs itself, and what it does with the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steel_batch import schema
from steel_batch.config import DECODER, DecodeSettings
from steel_batch.engine.contract import Figures, Provenance, Runtime, Slot
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.errors import DecodeError, ImageError
from steel_batch.images.appearance import measure, row_step
from steel_batch.images.decode import decode_gray
from steel_batch.images.jpeg import is_plain_jpeg
from steel_batch.lake import Lake
from steel_batch.scoring.children import Children
from steel_batch.scoring.description import DEFECTS, joined
from steel_batch.scoring.rows import Scores
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.scoring.shard import ShardInput, check_jpegs
from tests.bad_files import strange_files
from tests.image_files import HEIGHT, WIDTH
from tests.tiny_engine import tiny_version

CARD, GRAPHS = tiny_version(height=HEIGHT, width=WIDTH)
FILES = [file for file in strange_files() if file.code not in ("too_large", "crashed_decoder")]
MISSING = len(FILES) // 2
"""The place of an image whose object was gone."""


DECODING = DecodeSettings(decode_on="cpu", decoder=DECODER, bits=None, decode_seconds=30.0)


class DeviceSlot:
    """A slot whose device has memory of its own and decodes every other plain JPEG into it."""

    def __init__(self, slot: Slot, given: list[int]) -> None:
        self._slot, self._given = slot, given
        self._device_NHW = np.zeros_like(slot.image_NHW)
        self._loaded: frozenset[int] = frozenset()
        self.image_NHW = np.full_like(slot.image_NHW, 7)

    jpeg_decoder = "a device's decoder 1.0"

    def load_jpegs(self, jpegs: Mapping[int, Any]) -> frozenset[int]:
        self._given.append(len(jpegs))
        assert all(is_plain_jpeg(data, HEIGHT, WIDTH) for data in jpegs.values())
        loaded = set()
        for place in list(jpegs)[::2]:
            with suppress(ImageError):
                self._device_NHW[place] = decode_gray(jpegs[place])
                loaded.add(place)
        self._loaded = frozenset(loaded)
        return self._loaded

    def infer(self, num_images: int) -> Figures:
        for place in set(range(num_images)) - self._loaded:
            self._device_NHW[place] = self.image_NHW[place]
        self._slot.image_NHW[:] = self._device_NHW
        return self._slot.infer(num_images)

    def copy_out(
        self, places: Sequence[int], mask_NHW: np.ndarray, sample_NHW: np.ndarray | None = None
    ) -> None:
        self._slot.copy_out(places, mask_NHW, sample_NHW)


class DeviceRuntime:
    """ONNX Runtime behind such slots."""

    description = "a device that decodes"
    provenance = Provenance(
        runtime="tensorrt", runtime_version="10.1", precision="fp16", device="a device"
    )
    num_slots = 2

    def __init__(self, runtime: OrtRuntime) -> None:
        self._runtime = runtime
        self.batch_size = runtime.batch_size
        self.given: list[int] = []

    @contextmanager
    def _slot(self) -> Iterator[DeviceSlot]:
        with self._runtime.acquire() as slot:
            yield DeviceSlot(slot, self.given)

    def acquire(self) -> AbstractContextManager[DeviceSlot]:
        return self._slot()

    def register(self, memory: np.ndarray) -> None:
        self._runtime.register(memory)

    def close(self) -> None:
        self._runtime.close()


class OverflowingRuntime(DeviceRuntime):
    """Computes no number for every third image of a batch."""

    @contextmanager
    def _slot(self) -> Iterator[DeviceSlot]:
        with self._runtime.acquire() as slot:
            yield OverflowingSlot(slot, self.given)


class OverflowingSlot(DeviceSlot):
    def infer(self, num_images: int) -> Figures:
        figures = super().infer(num_images)
        peak_NC = figures.peak_NC.copy()
        peak_NC[::3, -1] = np.nan
        return dataclasses.replace(figures, peak_NC=peak_NC)


def shard() -> ShardInput:
    keys = [file.name for file in FILES]
    columns = {"image_key": keys, "image_id": keys, "tags": [[] for _ in keys]}
    refs = pa.table(
        [pa.array(columns.get(f.name, [None] * len(keys)), f.type) for f in schema.PLAN],
        schema=schema.PLAN,
    )
    errors: list[ImageError | None] = [None] * len(FILES)
    errors[MISSING] = DecodeError("it is gone.", code="missing")
    return ShardInput(
        run_id="r", plan_digest="0", shard=0, refs=refs,
        contents=[file.data for file in FILES], errors=errors,
    )  # fmt: skip


def open_cpu() -> OrtRuntime:
    return OrtRuntime(GRAPHS["fp32"], CARD, precision="fp32", batch_size=8, num_threads=1)


def scores(
    runtime: Runtime,
    given: ShardInput,
    lake: Lake,
    *,
    decoder: str = DECODER,
    isolated: bool = False,
    num_describers: int = 0,
) -> Scores:
    scorer = ShardScorer(
        runtime,
        CARD,
        lake,
        dataclasses.replace(DECODING, decoder=decoder),
        num_threads=3,
        children=Children.start(
            CARD.post_process, lake, num_describers=num_describers, num_writers=0
        ),
    )
    try:
        return scorer.score_images(given, isolated=isolated)
    finally:
        scorer.close()


def outcomes(found: Scores) -> list[object]:
    return [
        (shape.code, shape.message) if isinstance(shape, ImageError) else shape
        for shape in found.shapes
    ]


def defects(found: Scores) -> pa.ListArray:
    return joined(found.described)[DEFECTS].combine_chunks()


def looks(found: Scores) -> np.ndarray:
    table = joined(found.described)
    return np.column_stack([table[name].to_numpy() for name in schema.APPEARANCE.names])


@pytest.fixture
def lake(tmp_path: Any) -> Lake:
    return Lake(str(tmp_path))


def test_an_image_for_which_the_engine_computes_no_number_is_quarantined(lake: Lake) -> None:
    """Its mask is empty, as NaN exceeds no threshold: it would pass as an image without defects."""
    given = check_jpegs(shard(), HEIGHT, WIDTH)
    sound = scores(DeviceRuntime(open_cpu()), given, lake)
    found = scores(OverflowingRuntime(open_cpu()), given, lake)
    size = open_cpu().batch_size
    num_refused = 0
    for place, before in enumerate(outcomes(sound)):
        if place % size % 3 or isinstance(sound.shapes[place], ImageError):
            assert outcomes(found)[place] == before
            assert defects(found)[place] == defects(sound)[place]
            continue
        error = found.shapes[place]
        assert isinstance(error, ImageError)
        assert error.code == "not_a_number"
        assert "not a number (tensorrt fp16)" in error.message
        assert len(defects(found)[place]) == 0
        num_refused += 1
    assert num_refused


def test_looks_are_those_of_the_pixels_that_were_scored(lake: Lake) -> None:
    """Also where a device decoded some of them, into memory of its own."""
    given = check_jpegs(shard(), HEIGHT, WIDTH)
    on_cpu = scores(open_cpu(), given, lake)
    on_device = scores(DeviceRuntime(open_cpu()), given, lake)
    assert any(decoder is not None for decoder in on_device.gpu_decoders)
    num_compared = 0
    for place, (file, shape) in enumerate(zip(FILES, on_cpu.shapes, strict=True)):
        if isinstance(shape, ImageError):
            continue
        image_HW = decode_gray(file.data)
        expected = measure(image_HW[None, :: row_step(HEIGHT)])
        for found in (on_cpu, on_device):
            np.testing.assert_array_equal(looks(found)[place], expected[0])
        num_compared += 1
    assert num_compared > 5


def test_rows_do_not_depend_on_who_describes(lake: Lake) -> None:
    expected = scores(open_cpu(), shard(), lake)
    found = scores(open_cpu(), shard(), lake, num_describers=2)
    assert outcomes(found) == outcomes(expected)
    assert defects(found).equals(defects(expected))
    assert len(defects(expected).flatten())


def test_a_describers_memory_is_registered_once_and_when_it_gets_a_batch(lake: Lake) -> None:
    registered: list[np.ndarray] = []

    class RegisteringRuntime(OrtRuntime):
        def register(self, memory: np.ndarray) -> None:
            registered.append(memory)

    runtime = RegisteringRuntime(
        GRAPHS["fp32"], CARD, precision="fp32", batch_size=8, num_threads=1
    )
    children = Children.start(CARD.post_process, lake, num_describers=1, num_writers=0)
    with closing(ShardScorer(runtime, CARD, lake, DECODING, num_threads=1, children=children)) as (
        scorer
    ):
        assert not registered  # an actor is ready without it
        for _ in range(2):
            scorer.score_images(shard())
        (memory,) = registered
        (describer,) = children.describers
        for array in (describer.mask_NHW, describer.sample_NHW):
            assert np.shares_memory(memory, array)


def test_rows_do_not_depend_on_who_decodes(lake: Lake) -> None:
    checked = check_jpegs(shard(), HEIGHT, WIDTH)
    expected = scores(open_cpu(), checked, lake)
    runtime = DeviceRuntime(open_cpu())
    found = scores(runtime, checked, lake)
    refused = [error is not None for error in checked.errors]
    assert sum(runtime.given) == sum(
        p and not r for p, r in zip(checked.plain or (), refused, strict=True)
    )
    assert outcomes(found) == outcomes(expected)
    assert defects(found).equals(defects(expected))
    good = [not isinstance(shape, ImageError) for shape in expected.shapes]
    assert (found.peak_NC[good] == expected.peak_NC[good]).all()
    assert len(defects(expected).flatten())


def test_what_was_not_checked_is_left_to_the_cpu(lake: Lake) -> None:
    runtime = DeviceRuntime(open_cpu())
    found = scores(runtime, shard(), lake)
    assert set(runtime.given) == {0}
    assert outcomes(found) == outcomes(scores(open_cpu(), shard(), lake))


def test_another_decoder_gets_every_file(lake: Lake) -> None:
    runtime = DeviceRuntime(open_cpu())
    named = "tests.strange_decoders:deadly"
    checked = check_jpegs(shard(), HEIGHT, WIDTH)
    with_device = outcomes(scores(runtime, checked, lake, decoder=named))
    assert set(runtime.given) == {0}
    assert with_device == outcomes(scores(open_cpu(), checked, lake, decoder=named))


def test_a_shard_that_killed_a_process_is_kept_from_the_device(lake: Lake) -> None:
    runtime = DeviceRuntime(open_cpu())
    scores(runtime, check_jpegs(shard(), HEIGHT, WIDTH), lake, isolated=True)
    assert set(runtime.given) == {0}


def test_a_shard_comes_over_the_wire_as_it_was_and_its_images_are_not_copied() -> None:
    sent = check_jpegs(shard(), HEIGHT, WIDTH)
    table = sent.to_wire()
    found = ShardInput.from_wire(table)
    assert [bytes(content or b"") for content in found.contents] == list(sent.contents)
    told = [[(e.code, e.message) if e else None for e in s.errors] for s in (sent, found)]
    assert told[0] == told[1]
    assert any(told[0])
    assert found.refs.equals(sent.refs)
    assert found.plain == sent.plain
    assert any(sent.plain or ())
    assert not all(sent.plain or ())
    _, _, data = table["data"].chunk(0).buffers()
    for content in found.contents:
        if content:
            address = np.frombuffer(content, np.uint8).ctypes.data
            assert data.address <= address < data.address + data.size
