"""JPEGs on a GPU. Needs no fixture of the suite, so that it also runs where little is installed:

python -m pytest -c /dev/null --rootdir . --noconftest -m gpu -rs -s tests/engine/test_gpu_decode.py
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest

from steel_batch.config import DecodeOn, RuntimeSettings
from steel_batch.engine.build import build
from steel_batch.engine.compiled_plans import PlanRecord, read_plan
from steel_batch.engine.contract import infer_all
from steel_batch.engine.gpu import NON_BLOCKING, open_gpu
from steel_batch.engine.machine import find_machine
from steel_batch.engine.nvjpeg import GpuDecoder, check_decoder, load_nvjpeg
from steel_batch.engine.runtime import open_runtime
from steel_batch.engine.tensorrt import TrtRuntime
from steel_batch.errors import ConfigError, DecodeError, EngineError
from steel_batch.images.decode import check_jpeg, decode_gray
from steel_batch.images.jpeg import is_plain_jpeg
from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.registry.versions import Engine, load_engine
from steel_batch.synthetic import render
from tests.images.jpeg_scans import intervals_of, with_intervals, with_restart_interval
from tests.tiny_engine import tiny_version

pytestmark = pytest.mark.gpu

HEIGHT, WIDTH = 256, 1600
BATCH = 16
CARD, GRAPHS = tiny_version(height=HEIGHT, width=WIDTH, precisions=("fp32", "fp16"))


@functools.cache
def strip(number: int) -> np.ndarray:
    """A strip whose contrast is stretched, so that an engine finds something."""
    image_HW = render(41, number).image_HW.astype(np.int32)
    low, high = image_HW.min(), image_HW.max()
    return ((image_HW - low) * 225 // max(1, high - low) + 15).astype(np.uint8)


@functools.cache
def jpeg(number: int, kind: str = "gray", quality: int = 90) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    image = strip(number)
    if kind in ("4:4:4", "4:2:2", "4:2:0"):
        factors = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111}
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors[kind]]
        image = np.dstack([image, image, image])
    elif kind == "tinted":  # real colour, as no camera over a line gives, but some file may
        image = np.dstack([image, 255 - image, image // 2 + 60])
    elif kind == "progressive":
        flags += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    elif kind == "restarts":
        flags += [cv2.IMWRITE_JPEG_RST_INTERVAL, 7]
    elif kind == "optimised":
        flags += [cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    done, data = cv2.imencode(".jpg", image, flags)
    assert done
    return data.tobytes()


def with_restarts(number: int, kind: str, interval: int) -> bytes:
    """A strip whose decoder restarts after each `interval` units."""
    image = strip(number) if kind == "gray" else np.dstack([strip(number)] * 3)
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_RST_INTERVAL, interval]
    done, data = cv2.imencode(".jpg", image, flags)
    assert done
    return data.tobytes()


def rotated_by_exif(data: bytes, orientation: int) -> bytes:
    entry = orientation.to_bytes(2, "little")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + entry + bytes(6)
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def cut_and_closed(data: bytes, share: float) -> bytes:
    """The same file as a camera leaves it that stops early and still writes its end."""
    scan = data.index(b"\xff\xda")
    kept = data[: scan + int((len(data) - scan) * share)]
    return kept.rstrip(b"\xff") + b"\xff\xd9"


def plain(jpegs: Mapping[int, bytes]) -> dict[int, bytes]:
    """Those that a read task lets a GPU decode."""
    return {k: data for k, data in jpegs.items() if is_plain_jpeg(data, HEIGHT, WIDTH)}


@dataclass
class Opened:
    """A decoder with memory of its own."""

    decoder: GpuDecoder
    memory: Any
    stream: Any

    def decode(self, jpegs: Mapping[int, bytes]) -> tuple[frozenset[int], np.ndarray]:
        """What was decoded of the plain ones, and all of the memory."""
        found_NHW = np.zeros((BATCH, HEIGHT, WIDTH), np.uint8)
        gpu = open_gpu()
        with gpu.current():
            decoded = self.decoder.decode(plain(jpegs))
            self.stream.synchronize()
            gpu.cuda.memcpy_dtoh(found_NHW, self.memory)
        return frozenset(decoded), found_NHW


@contextmanager
def opened() -> Iterator[Opened]:
    gpu = open_gpu()
    with gpu.current():
        memory = gpu.cuda.mem_alloc(BATCH * HEIGHT * WIDTH)
        stream = gpu.cuda.Stream(NON_BLOCKING)
        made = GpuDecoder(gpu, stream, int(memory), (BATCH, HEIGHT, WIDTH))
    try:
        yield Opened(made, memory, stream)
    finally:
        with gpu.current():
            made.free()
            memory.free()
            del stream


@pytest.fixture(scope="module", autouse=True)
def _needs_a_gpu_and_the_package() -> None:
    try:
        open_gpu()
        load_nvjpeg()
    except (ConfigError, EngineError) as error:
        pytest.skip(str(error))


@pytest.fixture
def decoder() -> Iterator[Opened]:
    with opened() as made:
        yield made


@pytest.mark.parametrize("size", [(256, 1600), (64, 160), (250, 1590), (8, 8), (1024, 4096)])
def test_what_an_actor_tries_first_succeeds_in_each_size(size: tuple[int, int]) -> None:
    check_decoder(*size)


@pytest.mark.parametrize(
    "kind", ["gray", "4:4:4", "4:2:2", "4:2:0", "tinted", "restarts", "optimised"]
)
def test_pixels_are_those_of_the_cpu_within_one_gray_level(decoder: Opened, kind: str) -> None:
    num_differing = 0
    for first in range(0, 48, BATCH):
        jpegs = {k: jpeg(first + k, kind) for k in range(BATCH)}
        decoded, found_NHW = decoder.decode(jpegs)
        assert decoded == frozenset(jpegs)
        for k, data in jpegs.items():
            difference = np.abs(found_NHW[k].astype(np.int16) - decode_gray(data))
            assert int(difference.max()) <= 1
            num_differing += int(np.count_nonzero(difference))
    print(f"\n{kind}: {num_differing / (48 * HEIGHT * WIDTH):.6%} of pixels differ by one")


def test_each_quality_is_decoded_alike(decoder: Opened) -> None:
    jpegs = {k: jpeg(k, "gray", quality=25 + 5 * k) for k in range(BATCH)}
    decoded, found_NHW = decoder.decode(jpegs)
    assert decoded == frozenset(jpegs)
    for k, data in jpegs.items():
        assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(data)).max()) <= 1


def test_an_orientation_in_exif_turns_nothing(decoder: Opened) -> None:
    jpegs = {k: rotated_by_exif(jpeg(k), k) for k in range(1, 9)}
    decoded, found_NHW = decoder.decode(jpegs)
    assert decoded == frozenset(jpegs)
    for k, data in jpegs.items():
        assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(data)).max()) <= 1


def test_what_is_not_plain_is_left_and_its_neighbours_are_decoded(decoder: Opened) -> None:
    done, png = cv2.imencode(".png", strip(0))
    assert done
    smaller = cv2.imencode(".jpg", strip(0)[:128])[1].tobytes()
    jpegs = {
        1: jpeg(1),
        2: jpeg(2, "progressive"),
        3: png.tobytes(),
        4: smaller,
        7: jpeg(7, "4:2:0"),
        8: b"\xff\xd8\xff\xd9",
        9: b"",
        15: jpeg(15),
    }
    decoded, found_NHW = decoder.decode(jpegs)
    assert decoded == {1, 7, 15}
    for k in decoded:
        assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(jpegs[k])).max()) <= 1
    assert decoder.decode({3: png.tobytes()})[0] == frozenset()
    assert decoder.decode({})[0] == frozenset()


def passes(data: bytes) -> bool:
    """Whether a read task takes a file for whole."""
    try:
        check_jpeg(data)
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize("kind", ["gray", "4:2:0"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_that_was_cut_and_closed_harms_no_neighbour(
    decoder: Opened, kind: str, share: float
) -> None:
    """The CPU refuses it. An H200's decoder makes an image of it and says nothing."""
    jpegs = {k: jpeg(k, kind) for k in range(BATCH)}
    cut = {3: cut_and_closed(jpegs[3], share), 11: cut_and_closed(jpegs[11], share)}
    for data in cut.values():
        assert passes(data)  # by its structure it is whole
        with pytest.raises(DecodeError, match="stop before its end"):
            decode_gray(data)
    decoded, found_NHW = decoder.decode(jpegs | cut)
    assert decoded >= frozenset(jpegs) - frozenset(cut)
    for k in frozenset(jpegs) - frozenset(cut):
        assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(jpegs[k])).max()) <= 1


@pytest.mark.parametrize("interval", [1, 3, 8, 25, 200, 201, 1000])
@pytest.mark.parametrize("kind", ["gray", "4:2:0"])
def test_whole_restart_intervals_are_the_pixels_of_the_cpu(
    decoder: Opened, kind: str, interval: int
) -> None:
    jpegs = {k: with_restarts(k, kind, interval) for k in range(BATCH)}
    assert all(passes(data) for data in jpegs.values())
    decoded, found_NHW = decoder.decode(jpegs)
    assert decoded == frozenset(jpegs)
    for k, data in jpegs.items():
        assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(data)).max()) <= 1


def test_faulty_restart_intervals_are_kept_from_the_gpu_and_harm_no_neighbour(
    decoder: Opened,
) -> None:
    """Of such files an H200's decoder makes other pixels than libjpeg and reports success."""
    row = WIDTH // 8
    good = {k: with_restarts(k, "gray", row) for k in range(BATCH)}
    rows = intervals_of(good[5])
    assert len(rows) == HEIGHT // 8
    faulty = [
        with_intervals(good[5], [*rows[:4], *rows[5:]], [*range(4), *range(5, 31)]),
        with_intervals(good[5], [*rows[:4], *rows[5:]]),
        with_intervals(good[5], [*rows[:4], *rows[12:]]),
        with_intervals(good[5], rows, range(1, 32)),
        with_intervals(good[5], rows, [1, 0, *range(2, 31)]),
        with_intervals(good[5], [*rows[:4], *rows[3:]]),
        with_intervals(good[5], [*rows[:4], b"", *rows[5:]]),
        with_restart_interval(good[5], 0),
        with_restart_interval(good[5], row // 2),
    ]
    for data in faulty:
        assert not passes(data)
        jpegs = {k: whole for k, whole in (good | {5: data}).items() if passes(whole)}
        decoded, found_NHW = decoder.decode(jpegs)
        assert decoded == frozenset(good) - {5}
        for k in decoded:
            assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(good[k])).max()) <= 1


def test_gray_with_sampling_factors_is_kept_from_the_gpu(decoder: Opened) -> None:
    """Factors mean nothing for one channel, and nvJPEG reports success with other pixels."""
    jpegs = {k: jpeg(k) for k in range(BATCH)}
    at = jpegs[4].index(b"\xff\xc0") + 11
    doubled = {k: jpegs[k][:at] + b"\x22" + jpegs[k][at + 1 :] for k in (4, 9)}
    decoded, _ = decoder.decode(jpegs | doubled)
    assert decoded == frozenset(jpegs) - frozenset(doubled)
    for k, data in doubled.items():
        assert (decode_gray(data) == decode_gray(jpegs[k])).all()


def test_damage_among_the_pixels_harms_no_neighbour_and_no_later_batch(decoder: Opened) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        jpegs = {k: jpeg(k) for k in range(BATCH)}
        damaged = bytearray(jpegs[5])
        start = damaged.index(b"\xff\xda") + 20
        for place in rng.integers(start, len(damaged) - 2, 40):
            damaged[place] = int(rng.integers(0, 255))
        jpegs[5] = bytes(damaged)
        decoded, found_NHW = decoder.decode(jpegs)
        assert decoded >= frozenset(jpegs) - {5}
        for k in frozenset(jpegs) - {5}:
            assert int(np.abs(found_NHW[k].astype(np.int16) - decode_gray(jpegs[k])).max()) <= 1


def test_two_hundred_batches_take_no_more_of_the_gpu_than_twenty(decoder: Opened) -> None:
    jpegs = {k: jpeg(k, "4:2:0") for k in range(BATCH)}
    for _ in range(20):
        decoder.decode(jpegs)
    free = open_gpu().memory()[0]
    for _ in range(200):
        assert len(decoder.decode(jpegs)[0]) == BATCH
    assert free - open_gpu().memory()[0] < 4 << 20


def test_decoders_that_come_and_go_leave_the_gpu_as_it_was() -> None:
    with opened() as made:
        made.decode({0: jpeg(0)})
    free = open_gpu().memory()[0]
    for _ in range(5):
        with opened() as made:
            assert made.decode({0: jpeg(0)})[0] == {0}
    assert free - open_gpu().memory()[0] < 16 << 20


def test_decoders_in_many_threads_do_not_see_each_others_images() -> None:
    expected = {k: decode_gray(jpeg(k)).astype(np.int16) for k in range(40)}

    def work(thread: int) -> bool:
        with opened() as made:
            for turn in range(25):
                numbers = [(thread * 7 + turn + k) % 40 for k in range(BATCH)]
                decoded, found_NHW = made.decode({k: jpeg(n) for k, n in enumerate(numbers)})
                differences = [
                    int(np.abs(found_NHW[k] - expected[n]).max()) for k, n in enumerate(numbers)
                ]
                if len(decoded) != BATCH or max(differences) > 1:
                    return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))


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


@pytest.fixture(scope="module")
def runtime(engine: Engine, record: PlanRecord) -> Iterator[TrtRuntime]:
    opened_engine = TrtRuntime(
        read_plan(engine, record), CARD, runtime="tensorrt", batch_size=BATCH, precision="fp16",
        num_slots=3,
    )  # fmt: skip
    opened_engine.open_decoders()
    yield opened_engine
    opened_engine.close()


def masks(runtime: TrtRuntime, files: list[bytes], *, on_gpu: bool) -> np.ndarray:
    """Masks of a batch whose files the GPU decodes as far as it can, or not at all."""
    with runtime.acquire() as slot:
        jpegs = plain(dict(enumerate(files))) if on_gpu else {}
        loaded = slot.load_jpegs(jpegs)
        assert bool(loaded) == on_gpu
        for place, data in enumerate(files):
            slot.image_NHW[place] = 255 if place in loaded else decode_gray(data)
        return infer_all(slot, len(files)).mask_NHW


def mixed(first: int) -> list[bytes]:
    """A batch of which some are left to the CPU: at both ends, alone and side by side."""
    left_out = {0, 5, 6, BATCH - 1}
    return [jpeg(first + k, "progressive" if k in left_out else "gray") for k in range(BATCH)]


def test_masks_are_those_of_pixels_from_the_cpu(runtime: TrtRuntime) -> None:
    num_pixels = num_differing = 0
    for first in range(0, 64, BATCH):
        for files in (mixed(first), [jpeg(first + k, "4:2:0") for k in range(BATCH)]):
            expected = masks(runtime, files, on_gpu=False)
            found = masks(runtime, files, on_gpu=True)
            assert expected.any()
            num_differing += int(np.count_nonzero(found != expected))
            num_pixels += expected.size
    print(f"\n{num_differing / num_pixels:.6%} of the masks' pixels differ")
    assert num_differing / num_pixels < 0.001


def test_some_rows_come_back_of_what_either_side_decoded(runtime: TrtRuntime) -> None:
    files = mixed(5)
    pixels_NHW = np.stack([decode_gray(data) for data in files])
    with runtime.acquire() as slot:
        loaded = slot.load_jpegs(plain(dict(enumerate(files))))
        assert 0 < len(loaded) < BATCH
        for place in set(range(BATCH)) - set(loaded):
            slot.image_NHW[place] = pixels_NHW[place]
        slot.infer(BATCH)
        found_NHW = np.zeros((BATCH, 16, WIDTH), np.uint8)
        slot.copy_out([], np.zeros((0, HEIGHT, WIDTH), np.uint8), found_NHW)
    assert np.abs(found_NHW.astype(int) - pixels_NHW[:, ::16]).max() <= 1


def test_a_batch_that_is_not_full_is_scored_from_both_sides(runtime: TrtRuntime) -> None:
    full = masks(runtime, mixed(3), on_gpu=True)
    for num in (1, 2, 6, 7):
        some = masks(runtime, [jpeg(90), *mixed(3)[1:num]], on_gpu=True)
        assert some.shape == (num, HEIGHT, WIDTH)
        assert (some[1:] == full[1:num]).all()


def test_what_one_batch_loaded_is_not_taken_for_the_next(runtime: TrtRuntime) -> None:
    files = mixed(7)
    expected = masks(runtime, files, on_gpu=False)
    for _ in range(3 * runtime.num_slots):
        masks(runtime, [jpeg(30 + k) for k in range(BATCH)], on_gpu=True)
        assert (masks(runtime, files, on_gpu=False) == expected).all()
    with runtime.acquire() as slot:  # a batch that is given up between the two calls
        slot.load_jpegs({k: jpeg(k) for k in range(BATCH)})
        slot.load_jpegs({})
        slot.image_NHW[:] = [decode_gray(data) for data in files]
        assert (infer_all(slot, BATCH).mask_NHW == expected).all()


def test_slots_decode_and_score_at_once(runtime: TrtRuntime) -> None:
    batches = [mixed(9 * k) for k in range(6)]
    expected = [masks(runtime, batch, on_gpu=True) for batch in batches]
    with ThreadPoolExecutor(6) as threads:
        same = threads.map(
            lambda i: (masks(runtime, batches[i % 6], on_gpu=True) == expected[i % 6]).all(),
            range(120),
        )
        assert all(same)


def test_a_gpu_that_can_decodes_unless_it_is_not_to(engine: Engine, record: PlanRecord) -> None:
    assert record.batch_size == BATCH
    cases: tuple[tuple[DecodeOn, bool], ...] = (("gpu", True), ("auto", True), ("cpu", False))
    for decode, is_loaded in cases:
        made = open_runtime(
            engine,
            RuntimeSettings(runtime="tensorrt", precision="auto", batch_size=BATCH),
            decode_on=decode,
        )
        try:
            assert ("decoded on the GPU" in made.description) == is_loaded
            with made.acquire() as slot:
                assert bool(slot.load_jpegs({0: jpeg(0)})) == is_loaded
        finally:
            made.close()


@contextmanager
def busy_gpu() -> Iterator[None]:
    """Copies within the device's memory, one after the other, on a stream of their own."""
    gpu, num_bytes, stop = open_gpu(), 1 << 28, threading.Event()
    with gpu.current():
        memory = [gpu.cuda.mem_alloc(num_bytes) for _ in range(2)]

    def copy() -> None:
        with gpu.current():
            stream = gpu.cuda.Stream(NON_BLOCKING)
            while not stop.is_set():
                for _ in range(50):
                    gpu.cuda.memcpy_dtod_async(memory[0], memory[1], num_bytes, stream)
                stream.synchronize()
            del stream

    with ThreadPoolExecutor(1) as thread:
        copying = thread.submit(copy)
        try:
            yield
        finally:
            stop.set()
            copying.result()
            with gpu.current():
                for part in memory:
                    part.free()


def test_what_the_stream_is_given_after_decoding_sees_the_pixels(decoder: Opened) -> None:
    gpu, num_bytes = open_gpu(), BATCH * HEIGHT * WIDTH
    jpegs = {k: jpeg(k) for k in range(BATCH)}
    found_NHW = np.zeros((BATCH, HEIGHT, WIDTH), np.uint8)
    with busy_gpu(), gpu.current():
        copy = gpu.cuda.mem_alloc(num_bytes)
        for _ in range(100):
            assert len(decoder.decoder.decode(jpegs)) == BATCH
            gpu.cuda.memcpy_dtod_async(copy, decoder.memory, num_bytes, decoder.stream)
            gpu.cuda.memset_d8_async(int(decoder.memory), 255, num_bytes, decoder.stream)
            decoder.stream.synchronize()
            gpu.cuda.memcpy_dtoh(found_NHW, copy)
            for k, data in jpegs.items():
                assert int(cv2.absdiff(found_NHW[k], decode_gray(data)).max()) <= 1
        copy.free()


def test_several_decoders_of_a_busy_gpu_give_the_pixels_of_the_cpu() -> None:
    """A run of 65,536 images had some with other defects: nothing showed it on an idle GPU."""
    files = [jpeg(number) for number in range(64)]
    expected = [decode_gray(data) for data in files]

    def differing(seed: int) -> int:
        rng, num = np.random.default_rng(seed), 0
        with opened() as made:
            for _ in range(500):
                chosen = rng.integers(0, len(files), BATCH).tolist()
                decoded, found_NHW = made.decode({k: files[i] for k, i in enumerate(chosen)})
                for k in decoded:
                    difference = cv2.absdiff(found_NHW[k], expected[chosen[k]])
                    num += int(difference.max() > 1)
        return num

    with busy_gpu(), ThreadPoolExecutor(4) as decoders:
        assert sum(decoders.map(differing, range(4))) == 0
