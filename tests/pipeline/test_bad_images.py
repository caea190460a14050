"""Runs over lakes with bad files: nothing is lost, and each is set aside with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from steel_batch.cli import cli
from steel_batch.errors import ConfigError, TooManyBadImagesError, TransientLakeError
from steel_batch.lake import Lake
from steel_batch.tables.verify import verify
from tests.bad_files import strange_files
from tests.conftest import (
    DATE,
    band_image,
    cluster_address,
    committed_rows,
    run_score,
    score_config,
)
from tests.image_files import encode, good_image, good_jpeg
from tests.interrupting import complete, steel_batch
from tests.score_here import score_here
from tests.strange_decoders import ABORT, EXIT, HANG, KILL

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PATTERN = "line={line}/date={date}/{image_id}.jpg"
DEADLY = "tests.strange_decoders:deadly"


def key_of(name: str) -> str:
    return f"line=1/date={DATE}/{name}.jpg"


def outcomes(store: Lake) -> dict[str, str | None]:
    """Per image its code in the quarantine, or None for a row; each image once."""
    rows = [(row["image_key"], None) for row in committed_rows(store)]
    bad = [(row["image_key"], row["error_code"]) for row in committed_rows(store, "quarantine")]
    found = dict([*rows, *bad])
    assert len(found) == len(rows) + len(bad)
    return found  # type: ignore[return-value]


def test_every_strange_file_is_a_row_or_an_entry_with_its_code(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    expected = {}
    for file in strange_files():
        images.write(key_of(file.name), file.data)
        expected[key_of(file.name)] = file.code
    config = score_config(
        images, store, tiny_engine, key_pattern=PATTERN, max_bad=1.0, shard_images=64
    )
    result = run_score(config)
    assert outcomes(store) == expected
    num_bad = sum(code is not None for code in expected.values())
    assert result.num_images == len(expected)
    assert (result.num_scored, result.num_quarantined) == (len(expected) - num_bad, num_bad)
    assert all(row["message"] for row in committed_rows(store, "quarantine"))
    assert list(verify(store)) == []
    assert run_score(config).run_id is None


def test_killers_among_them_cost_only_themselves(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    expected: dict[str, str | None] = {}
    for file in strange_files()[::4]:
        images.write(key_of(file.name), file.data)
        expected[key_of(file.name)] = file.code
    for name, end in {"a": KILL, "m_1": ABORT, "m_2": EXIT, "z": KILL}.items():
        images.write(key_of(name), good_jpeg() + end)
        expected[key_of(name)] = "crashed_decoder"
    images.write(key_of("jpeg_hangs"), good_jpeg() + HANG)
    expected[key_of("jpeg_hangs")] = "hung_decoder"
    result = run_score(
        score_config(
            images, store, tiny_engine, key_pattern=PATTERN, max_bad=1.0, shard_images=20,
            decoder=DEADLY, decode_seconds=2.0,
        )
    )  # fmt: skip
    assert outcomes(store) == expected
    assert result.num_images == len(expected)
    assert list(verify(store)) == []


@pytest.mark.slow
def test_what_ends_the_scoring_process_whatever_is_done_fails_the_run_and_not_for_ever(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    """As an engine would that crashes: the shard is named, the others keep their receipts."""
    for i in range(12):
        images.write(key_of(f"im{i:02d}"), encode(".jpg", band_image(i)))
    images.write(key_of("zz"), good_jpeg() + KILL)
    config = score_config(
        images, store, tiny_engine, key_pattern=PATTERN, shard_images=4, num_actors=1,
        shard_attempts=1, decoder="tests.strange_decoders:kills_what_scores",
    )  # fmt: skip
    with pytest.raises(TransientLakeError, match=r"of 4 shards failed.*ended its process 10 times"):
        run_score(config)
    assert committed_rows(store) == []
    images.write(key_of("zz"), good_jpeg())
    result = run_score(config.replace(max_bad=0.1))
    assert result.num_resumed_shards >= 1
    assert outcomes(store) == {
        **{key_of(f"im{i:02d}"): None for i in range(12)},
        key_of("zz"): "changed",
    }


def test_of_a_thousand_mutated_jpegs_none_is_lost(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    rng = np.random.default_rng(7)
    written = {}
    for i in range(1000):
        data = bytearray(encode(".jpg", band_image(i)))
        for _ in range(rng.integers(0, 4)):
            at = int(rng.integers(0, len(data)))
            data[at : at + 1] = rng.bytes(int(rng.integers(0, 3)))
        end = len(data) if rng.random() < 0.8 else int(rng.integers(0, len(data)))
        written[key_of(f"im{i:04d}")] = bytes(data[:end])
    folder = Path(images.url) / Path(key_of("")).parent
    folder.mkdir(parents=True)
    for key, content in written.items():
        (folder / Path(key).name).write_bytes(content)
    result = score_here(
        score_config(images, store, tiny_engine, key_pattern=PATTERN, max_bad=1.0, shard_images=128)
    )
    found = outcomes(store)
    assert found.keys() == written.keys()
    assert result.num_images == 1000 == result.num_scored + result.num_quarantined
    codes = set(found.values())
    assert {None, "truncated", "undecodable"} <= codes
    assert 100 < result.num_quarantined < 900


@pytest.fixture
def half_bad(images: Lake) -> Lake:
    for i in range(8):
        images.write(key_of(f"good_{i}"), good_jpeg())
        images.write(key_of(f"bad_{i}"), good_jpeg()[: 100 + i])
    return images


def test_too_many_bad_images_commit_nothing_and_are_not_scored_again_for_a_greater_limit(
    half_bad: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(half_bad, store, tiny_engine, key_pattern=PATTERN, shard_images=4)
    with pytest.raises(TooManyBadImagesError, match=r"8 of 16.*--max-bad") as caught:
        run_score(config.replace(max_bad=0.49))
    assert caught.value.exit_code == 3
    assert committed_rows(store) == committed_rows(store, "quarantine") == []
    names = [item.key for item in store.list_objects("runs/")]
    receipts = {name: store.read(name) for name in names if "/receipts/" in name}
    assert receipts
    result = run_score(config.replace(max_bad=0.5))
    assert result.num_resumed_shards >= len(receipts)  # it stopped as soon as it knew
    assert (result.num_scored, result.num_quarantined) == (8, 8)
    assert set(outcomes(store).values()) == {None, "truncated"}
    assert {name: store.read(name) for name in receipts} == receipts


def test_a_decoder_that_the_workers_do_not_have_is_named(
    half_bad: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(half_bad, store, tiny_engine, key_pattern=PATTERN)
    with pytest.raises(ConfigError, match=r"^--decoder 'no\.such:decoder' cannot be loaded: "):
        run_score(config.replace(decoder="no.such:decoder"))


def invoke(*arguments: str) -> str:
    """What a command prints on stdout; its error is raised."""
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_the_commands_exit_3_list_the_quarantine_and_try_it_again(
    half_bad: Lake, store: Lake, tiny_engine: Path
) -> None:
    flags = [
        "--images", half_bad.url, "--store", store.url, "--engine", str(tiny_engine),
        "--key-pattern", PATTERN, "--date", DATE, "--ray-address", cluster_address(),
        "--output", "json",
    ]  # fmt: skip
    done = complete(steel_batch("score", *flags))
    assert (done.code, done.out) == (3, "")
    assert "8 of 16" in done.err
    assert "(raylet)" not in done.err  # that the tasks of the actors that it ended will be retried
    assert json.loads(invoke("score", *flags, "--max-bad", "0.5"))["num_quarantined"] == 8

    where = ["quarantine", "list", "--store", store.url]
    listed = json.loads(invoke(*where, "--output", "json"))
    assert [entry["image_key"] for entry in listed] == [key_of(f"bad_{i}") for i in range(8)]
    assert {entry["error_code"] for entry in listed} == {"truncated"}
    assert [entry["bytes"] for entry in listed] == [100 + i for i in range(8)]
    for more, number in [
        (["--code", "truncated", "--date", DATE], 8),
        (["--code", "empty"], 0),
        (["--date", "2026-11-22"], 0),
    ]:
        assert len(json.loads(invoke(*where, "--output", "json", *more))) == number
    lines = invoke(*where).splitlines()
    assert len(lines) == 9
    assert all(key_of(f"bad_{i}") in lines[i + 1] for i in range(8))
    with pytest.raises(ConfigError, match="--code"):
        invoke(*where, "--code", "x' OR true --")

    for i in range(0, 8, 2):
        half_bad.write(key_of(f"bad_{i}"), encode(".jpg", good_image()))
    retried = json.loads(invoke("quarantine", "retry", *flags, "--max-bad", "0.5"))
    assert (retried["num_images"], retried["num_scored"], retried["num_quarantined"]) == (8, 4, 4)
    expected = {key_of(f"bad_{i}"): "truncated" if i % 2 else None for i in range(8)}
    expected |= {key_of(f"good_{i}"): None for i in range(8)}
    assert outcomes(store) == expected
