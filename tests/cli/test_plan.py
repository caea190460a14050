"""What `plan` prints, and how it and `score` say no before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.registry import register
from tests.cli.command_line import Command, keys, refused, with_flag
from tests.conftest import DATE
from tests.made_up_run import keys_of
from tests.tiny_engine import tiny_version


def test_plan_prints_one_object_and_writes_nothing(
    steel_batch: Command, flags: list[str], tmp_path: Path, images: Lake
) -> None:
    images.write("readme.txt", b"x")
    images.write(f"line=1/date={DATE}/thumbs.db", b"x")
    done = steel_batch("plan", *flags, "--output", "json")
    assert done.code == 0
    assert keys(done.json) == {
        "engine", "date", "digest", "num_images", "num_shards", "bytes", "num_committed",
        "num_changed", "num_left_out", "example_left_out",
    }  # fmt: skip
    assert (done.json["num_images"], done.json["num_left_out"]) == (4, 1)
    assert done.json["example_left_out"] == f"line=1/date={DATE}/thumbs.db"
    assert not (tmp_path / "store").exists()
    text = steel_batch("plan", *flags)
    assert text.out == ""
    assert text.err.startswith(f"{DATE}: 4 images in 1 shard, ")
    assert "\n  does not match: 1 other object, for example line=1/" in text.err


def test_a_configuration_file_gives_defaults_and_flags_go_before_it(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "job.toml"
    file.write_text("[score]\nshard-images = 3\n")
    plan = steel_batch("plan", *flags, "--config", file, "--output", "json")
    assert plan.json["num_shards"] == 2
    plan = steel_batch("plan", *flags, "--config", file, "--shard-images", 2, "--output", "json")
    assert plan.json["num_shards"] == 2
    plan = steel_batch("plan", *flags, "--config", file, "--shard-images", 1, "--output", "json")
    assert plan.json["num_shards"] == 4
    file.write_text("[score]\nshard-imags = 3\n")
    assert "unknown keys: shard_imags" in refused(steel_batch("plan", *flags, "--config", file))


@pytest.mark.parametrize("command", ["score", "plan"])
@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--images", "/no/such/place", "there is no folder /no/such/place: check --images"),
        ("--images", "EMPTY", "/empty: check --images"),
        ("--images", "s3://", "names no bucket"),
        ("--images", "gs://b/x", "gs://b/x"),
        ("--key-pattern", "day={date}/{image_id}.tif",
         f"found for example 'line=1/date={DATE}/im00000.png'. Adapt --key-pattern"),
        ("--key-pattern", "{line}/{line}/{image_id}", "is not usable"),
        ("--date", "2020-01-01", "and the date 2020-01-01"),
        ("--date", "21.11.2026", "'21.11.2026' is not YYYY-MM-DD"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_in_one_paragraph(
    steel_batch: Command, flags: list[str], tmp_path: Path, command: str, flag: str, value: str,
    expected: str,
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    value = str(tmp_path / "empty") if value == "EMPTY" else value
    assert expected in refused(steel_batch(command, *with_flag(flags, flag, value)))
    written = keys_of(Lake(str(tmp_path / "store")))
    assert all(key.startswith("locks/") for key in written), "no table, no run"


def test_a_missing_date_is_asked_for(steel_batch: Command, flags: list[str]) -> None:
    without = with_flag(flags, "--key-pattern", "line={line}/*/{image_id}.png")[:-2]
    assert "give --date YYYY-MM-DD" in refused(steel_batch("score", *without))
    at = without.index("--key-pattern")
    del without[at : at + 2]
    assert "--date YYYY-MM-DD" in refused(steel_batch("score", *without))


def test_an_unknown_engine_shows_those_that_exist(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    card, graphs = tiny_version()
    register(Lake(str(tmp_path / "store")), card, graphs)
    for engine in ("tiny@production", "severstal-0123456789ab", "nonsense"):
        text = refused(steel_batch("score", *flags, "--engine", engine))
        assert f"no engine '{engine}'" in text
        assert f"There are: demo, {card.name}." in text
    text = refused(steel_batch("score", *flags, "--engine", str(tmp_path / "nowhere")))
    assert "nowhere/card.json is not there" in text


def test_a_store_that_cannot_be_written_is_refused_before_any_work(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    place = f"{tmp_path}/file/store"
    text = refused(steel_batch("score", *with_flag(flags, "--store", place)))
    assert place in text
    assert "Check --store" in text


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_named(
    steel_batch: Command, flags: list[str], s3_endpoint: str
) -> None:
    s3 = ["--endpoint-url", s3_endpoint]
    lake = with_flag(flags, "--images", "s3://no-such-bucket/x")
    assert "there is no such bucket" in refused(steel_batch("plan", *lake, *s3))
    store = with_flag(flags, "--store", "s3://no-such-bucket/x")
    assert "s3://no-such-bucket/x" in refused(steel_batch("score", *store, *s3))


def test_a_value_that_no_run_can_use_is_refused_by_its_flag(
    steel_batch: Command, flags: list[str]
) -> None:
    assert "--max-bad is 7.0" in refused(steel_batch("score", *flags, "--max-bad", "7"))
    assert "--shard-images is 0" in refused(steel_batch("score", *flags, "--shard-images", "0"))
