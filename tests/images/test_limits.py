"""What one image may take: limits hold before anything is allocated, and cost that image alone."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from steel_batch.config import Limits
from steel_batch.errors import ConfigError, DecodeError, ImageError, ShapeError
from steel_batch.images import isolate
from steel_batch.images.decode import check_jpeg, decode_gray, load_decoder
from tests import hostile
from tests.image_files import HEIGHT, WIDTH, good_jpeg

GREEDY = "tests.strange_decoders:greedy"


@pytest.mark.parametrize("name", hostile.IMAGES)
def test_a_hostile_image_is_refused_in_no_time_and_little_memory(name: str) -> None:
    make, code = hostile.IMAGES[name]
    data = make()
    started = time.process_time()
    tracemalloc.start()
    try:
        decode_gray(data, only_size=(HEIGHT, WIDTH))
        found = None
    except ImageError as error:
        found = error.code
    finally:
        _, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert found == code
    assert most_bytes < 100 << 20
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"image_pixels": HEIGHT * WIDTH - 1}, "image-pixels"),
        ({"decoded_bytes": HEIGHT * WIDTH - 1}, "decoded-bytes"),
    ],
)
def test_a_limit_is_named_where_it_refuses(limits: dict[str, int], name: str) -> None:
    for look in (check_jpeg, decode_gray):
        look(good_jpeg(), limits=Limits(**{key: value + 1 for key, value in limits.items()}))
        with pytest.raises(DecodeError, match=rf"limit {name}") as refused:
            look(good_jpeg(), limits=Limits(**limits))
        assert refused.value.code == "too_large"


def test_a_greater_limit_lets_more_channels_pass_to_the_decoder() -> None:
    with pytest.raises(DecodeError) as refused:
        decode_gray(hostile.jpeg_of_channels(), limits=Limits(image_channels=40))
    assert refused.value.code != "too_large"


def test_a_large_image_of_another_size_is_refused_before_it_is_decoded() -> None:
    data = hostile.png_bomb(3_000)
    assert decode_gray(data).shape == (3_000, 3_000)
    assert decode_gray(data, only_size=(3_000, 3_000)).shape == (3_000, 3_000)
    with pytest.raises(ShapeError, match=r"3000×3000 .* the engine takes 1600×256"):
        decode_gray(data, only_size=(256, 1600))
    assert decode_gray(good_jpeg(), only_size=(256, 1600)).shape == (HEIGHT, WIDTH)


def test_an_image_that_takes_too_much_memory_costs_itself_in_a_process_of_its_own() -> None:
    contents = [good_jpeg(), good_jpeg() + b"greedy", good_jpeg()]
    results = list(
        isolate.decode_isolated(contents, GREEDY, limits=Limits(decoder_bytes=512 << 20))
    )
    codes = [result.code if isinstance(result, ImageError) else None for result in results]
    assert codes == [None, "too_large", None]
    assert "limit decoder-bytes" in str(results[1])


def test_limits_of_nothing_are_refused() -> None:
    for value in (0, -1, True, 1.5, "7"):
        with pytest.raises(ConfigError, match="limit tags is"):
            Limits(tags=value)  # type: ignore[arg-type]


def test_a_decoder_of_somebody_else_may_run_out_of_memory() -> None:
    with pytest.raises(MemoryError):
        load_decoder(GREEDY)(good_jpeg() + b"very greedy")
    assert Path("/proc/self/statm").exists()
