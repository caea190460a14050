"""Images that end the process that decodes them cost themselves and nothing else."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.config import DECODER
from steel_batch.errors import ClusterError, ImageError
from steel_batch.images import isolate
from steel_batch.images.decode import Image, decode_gray
from tests.bad_files import strange_files
from tests.conftest import examples
from tests.image_files import encode, good_image, good_jpeg
from tests.strange_decoders import ABORT, EXIT, FORK, HANG, KILL, LATER


def decode_isolated(contents: list[bytes], decoder: str, **how: Any) -> list[Image | ImageError]:
    return list(isolate.decode_isolated(contents, decoder, **how))


DEADLY = "tests.strange_decoders:deadly"


def code_of(result: Image | ImageError) -> str | None:
    return result.code if isinstance(result, ImageError) else None


def pictures(num: int) -> list[bytes]:
    """Files that differ, so that a result in the wrong place shows."""
    return [encode(".png", np.roll(good_image(), 3 * i, axis=1)) for i in range(num)]


def assert_decoded(
    results: list[Image | ImageError], contents: list[bytes], culprits: set[int]
) -> None:
    assert len(results) == len(contents)
    for i, result in enumerate(results):
        if i not in culprits:
            assert not isinstance(result, ImageError), (i, result)
            np.testing.assert_array_equal(result, decode_gray(contents[i]))


def test_nothing_to_decode_starts_nothing() -> None:
    assert decode_isolated([], "no.such:decoder") == []


def test_a_child_decodes_as_this_process_does() -> None:
    files = [file for file in strange_files() if len(file.data) < 100_000]
    results = decode_isolated([file.data for file in files], DECODER)
    for file, result in zip(files, results, strict=True):
        if isinstance(result, ImageError):
            assert result.code == file.code
            with pytest.raises(ImageError) as here:
                decode_gray(file.data)
            assert here.value.message == result.message
        else:
            np.testing.assert_array_equal(result, decode_gray(file.data))


@pytest.mark.quick("first-killed", "middle-aborted", "last-exited")
@pytest.mark.parametrize("how", [KILL, ABORT, EXIT], ids=["killed", "aborted", "exited"])
@pytest.mark.parametrize("place", [0, 7, 19], ids=["first", "middle", "last"])
def test_the_culprit_alone_has_crashed_the_decoder(how: bytes, place: int) -> None:
    contents = pictures(20)
    contents[place] += how
    results = decode_isolated(contents, DEADLY)
    assert code_of(results[place]) == "crashed_decoder"
    assert_decoded(results, contents, {place})
    expected = {KILL: "SIGKILL", ABORT: "SIGABRT", EXIT: "exit 7"}[how]
    assert expected in str(results[place])


def test_several_culprits_are_found_side_by_side_and_apart() -> None:
    contents = pictures(24)
    culprits = {0, 1, 9, 22, 23}
    for i in culprits:
        contents[i] += (KILL, ABORT)[i % 2]
    results = decode_isolated(contents, DEADLY)
    assert {i for i, r in enumerate(results) if code_of(r) == "crashed_decoder"} == culprits
    assert_decoded(results, contents, culprits)


def test_an_image_that_dies_of_the_one_before_it_is_decoded() -> None:
    contents = pictures(6)
    contents[2] += LATER
    results = decode_isolated(contents, DEADLY)
    assert_decoded(results, contents, set())


def test_an_image_that_holds_the_decoder_up_is_given_up_after_its_time() -> None:
    contents = [*pictures(3), good_jpeg() + HANG, good_jpeg(), good_jpeg() + KILL]
    results = decode_isolated(contents, DEADLY, seconds_per_image=2.0)
    assert [code_of(r) for r in results] == [*[None] * 3, "hung_decoder", None, "crashed_decoder"]
    assert "more than 2 s" in str(results[3])
    assert_decoded(results, contents, {3, 5})


def test_a_process_that_a_decoder_leaves_behind_holds_nothing_up() -> None:
    started = time.monotonic()
    results = decode_isolated([good_jpeg() + FORK, good_jpeg()], DEADLY, seconds_per_image=1.0)
    assert [code_of(r) for r in results] == ["hung_decoder", None], "as its output is still open"
    assert time.monotonic() - started < 15


def test_what_a_decoder_prints_is_no_pixel() -> None:
    contents = pictures(3)
    results = decode_isolated(contents, "tests.strange_decoders:chatty")
    assert_decoded(results, contents, set())


def test_an_unknown_exception_of_a_decoder_is_an_entry_of_its_image() -> None:
    results = decode_isolated(pictures(2), "tests.strange_decoders:raises_value_error")
    assert [code_of(r) for r in results] == ["undecodable"] * 2
    assert "unknown camera" in str(results[0])


def test_no_image_is_blamed_for_a_process_that_never_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIE_AT_IMPORT", "1")
    with pytest.raises(ClusterError, match=r"before its first image.*exit 9"):
        decode_isolated(pictures(2), DEADLY)


@settings(max_examples=examples(9))
@given(fates=st.lists(st.sampled_from([b"", b"", b"", KILL, EXIT]), min_size=1, max_size=8))
def test_any_mixture_of_good_and_deadly_files_keeps_its_order(fates: list[bytes]) -> None:
    contents = [data + fate for data, fate in zip(pictures(len(fates)), fates, strict=True)]
    culprits = {i for i, fate in enumerate(fates) if fate}
    results = decode_isolated(contents, DEADLY)
    assert {i for i, r in enumerate(results) if code_of(r) == "crashed_decoder"} == culprits
    assert_decoded(results, contents, culprits)


@pytest.mark.parametrize("module", ["runpy", "cv2", "numpy", "struct", "steel_batch"])
def test_a_child_imports_nothing_from_the_folder_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as under `python -c`
    (image_HW,) = decode_isolated(pictures(1), DECODER)
    assert isinstance(image_HW, np.ndarray)
    assert not (tmp_path / "imported").exists()
