"""What `plan` prints, and how it and `score` say no before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.registry.versions import load_engine
from tests.cli.command_line import Command, keys, refused, with_flag
from tests.conftest import DATE, PATTERN, fill_lake
from tests.made_up_run import commit_run, keys_of
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
        "num_changed", "num_beyond_limit", "num_left_out", "example_left_out",
    }  # fmt: skip
    assert (done.json["num_images"], done.json["num_left_out"]) == (4, 1)
    assert done.json["example_left_out"] == f"line=1/date={DATE}/thumbs.db"
    assert not (tmp_path / "store").exists()
    few = steel_batch("plan", *flags, "--limit", "3", "--output", "json").json
    assert (few["num_images"], few["num_beyond_limit"]) == (3, 1)
    few_text = steel_batch("plan", *flags, "--limit", "3").err
    assert "\n  beyond --limit: 1 image, left to a later run\n" in few_text
    text = steel_batch("plan", *flags)
    assert text.out == ""
    assert text.err.startswith(f"{DATE}: 4 images in 1 shard, ")
    assert "\n  does not match the key pattern: 1 other object, for example line=1/" in text.err


def test_images_that_seem_to_have_rows_under_other_keys_are_refused_unless_allowed(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    store, engine = Lake(str(tmp_path / "store")), load_engine("demo", store=None).card.name
    commit_run(store, ["packed.tar#a.png", "packed.tar#b.png"], engine=engine, date=DATE)
    for command in ("plan", "score"):
        done = steel_batch(command, *flags)
        assert done.code == 2
        assert refused(done) == (
            f"Error: 2 images of {DATE} already have a row or a quarantine entry, but none of "
            "them is among the 4 that are listed now. Images are identified by their key, so the "
            "same images under another --images, or packed, would be counted twice. Use the "
            "--images and --key-pattern of the earlier runs, or another --store. If these are "
            "other images, add --allow-other-keys."
        )
    allowed = steel_batch("plan", *flags, "--allow-other-keys", "--output", "json")
    assert (allowed.code, allowed.json["num_images"]) == (0, 4)


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
    text = refused(steel_batch("plan", *flags, "--config", file))
    assert "unknown keys: shard-imags. Expected: actors-per-gpu, alert-if, allow-o" in text
    assert ", lock-wait, " in text
    assert "config," not in text
    file.write_text("images = 'lake'\n")
    text = refused(steel_batch("plan", *flags, "--config", file))
    assert text == f"Error: --config {file} has no [score] table."
    file.write_text("[limits]\nobject-bytes = '1 MiB'\n")
    assert steel_batch("plan", *flags, "--config", file).code == 0


def make_store(folder: Path) -> None:
    """A store that has an engine and no run."""
    card, graphs = tiny_version()
    register(Lake(str(folder / "store")), card, graphs)


def test_a_store_that_was_mistyped_has_nothing_to_retry(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    assert f"there is no store at {tmp_path}/store" in refused(
        steel_batch("quarantine", "retry", *flags)
    )
    assert not (tmp_path / "store").exists()


def test_one_file_serves_every_command_that_plans(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    """What `score` knows and another command does not, that one leaves alone."""
    make_store(tmp_path)
    file = tmp_path / "job.toml"
    file.write_text(f'[score]\nlock-wait = 5\nnum_actors = 1\nfresh = true\ndate = "{DATE}"\n')
    assert steel_batch("plan", *flags, "--config", file).code == 0
    for_others = "report = true\nalert-if = ['drift']\nmax-dates-at-once = 2\nrecheck = true\n"
    file.write_text(f"[score]\n{for_others}")
    for command in (["plan"], ["quarantine", "retry"], ["score", "--limit", "0"]):
        assert "unknown keys" not in steel_batch(*command, *flags, "--config", file).err
    file.write_text(f'[score]\nlock_wait = -5\ndate = "{DATE}"\nshard_images = 3\n')
    without = flags[:-2]
    for command in (["score"], ["quarantine", "retry"], ["backfill", "--dates-from-lake"]):
        text = refused(steel_batch(*command, *without, "--config", file))
        assert text == "Error: --lock-wait is -5.0, expected 0 to 10,000,000 seconds."
    plan = steel_batch("plan", *without, "--config", file, "--output", "json")
    assert (plan.json["date"], plan.json["num_shards"]) == (DATE, 2)


@pytest.mark.parametrize("command", [["score"], ["plan"], ["quarantine", "retry"]])
@pytest.mark.parametrize("pattern", [[], ["--key-pattern", "line={line}/*/{image_id}.png"]])
def test_a_date_that_the_pattern_does_not_read_takes_no_image_of_another(
    steel_batch: Command, flags: list[str], tmp_path: Path, command: list[str], pattern: list[str]
) -> None:
    make_store(tmp_path)
    without = [flag for flag in flags if flag != "--key-pattern" and flag[:5] != "line="]
    text = refused(steel_batch(*command, *with_flag(without, "--date", "2026-11-20"), *pattern))
    assert f".png' in {tmp_path}/images contains date={DATE} in its name but would" in text
    lack = f"the key pattern {pattern[1]!r} has no {{date}}" if pattern else "there is no key patt"
    assert f"would count as 2026-11-20: {lack}" in text
    assert "Give --key-pattern with {date}, such as 'line={line}/date={date}/" in text


def test_images_that_say_no_date_are_counted_before_they_become_one(
    steel_batch: Command, flags: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("images/rest", f"of-{DATE}"):
        fill_lake(Lake(str(tmp_path / folder)), num_images=3, date="none")

    def warnings(images: Path, pattern: str | None) -> list[str]:
        caplog.clear()
        given = [] if pattern is None else ["--key-pattern", pattern]
        assert steel_batch("plan", "--images", images, *given, *flags[-4:]).code == 0
        return caplog.messages

    images, flat = tmp_path / "images", "*/*/{image_id}.png"
    assert warnings(images / "rest", flat) == [
        f"the key pattern {flat!r} has no {{date}}: all 3 images of {images}/rest count as {DATE}."
    ]
    assert warnings(images, None) == [
        f"there is no key pattern: 3 of 7 images of {images} count as {DATE}."
    ]
    assert warnings(tmp_path / f"of-{DATE}", flat) == []
    assert warnings(images, PATTERN) == []


@pytest.mark.parametrize("command", ["score", "plan"])
@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--images", "/no/such/place", "there is no folder /no/such/place: check --images"),
        ("--images", "EMPTY", "/empty: check --images"),
        ("--images", "s3://", "names no bucket"),
        ("--images", "", "'' names no place"),
        ("--images", "s3:/b/x", "'s3:/b/x' lacks '//'"),
        ("--store", "", "'' names no place"),
        ("--store", "  ", "names no place: expected a folder or s3://bucket/prefix"),
        ("--images", "gs://b/x", "gs://b/x"),
        ("--key-pattern", "day={date}/{image_id}.tif",
         f"found for example 'line=1/date={DATE}/im00000.png'. Change --key-pattern"),
        ("--key-pattern", "{line}/{line}/{image_id}", "is not valid"),
        ("--key-pattern", "{line/{image_id}", "has unbalanced '{' and '}'"),
        ("--date", "2020-01-01", f"matches other dates, for example 'line=1/date={DATE}/im0"),
        ("--date", "21.11.2026",
         "'21.11.2026' is not YYYY-MM-DD, for example 2026-11-21. Did you mean 2026-11-21?"),
        ("--date", "", "date '' is not YYYY-MM-DD"),
        ("--date", "2026-13-45",
         "there is no date 2026-13-45; expected YYYY-MM-DD, for example 2026-11-21."),
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


def test_a_folder_that_is_no_date_stops_no_date_and_is_named(
    steel_batch: Command, flags: list[str], images: Lake
) -> None:
    images.write("line=1/date=2026-02-30/x.png", b"x")
    images.write("line=1/date=30.11.2026/\x1b[31mx.png", b"x")
    for given in (flags, flags[:-2]):
        done = steel_batch("plan", *given)
        assert (done.code, done.err.count("4 images")) == (0, 1)
        assert (
            "does not match the key pattern: 2 other objects, for example line=1/date=2026-02-30/"
            in done.err
        )


def test_control_characters_of_a_key_do_not_reach_the_terminal(
    steel_batch: Command, flags: list[str], images: Lake
) -> None:
    images.write(f"line=1/date={DATE}/\x1b[2J\n.txt", b"x")
    assert f"line=1/date={DATE}/\\x1b[2J" in steel_batch("plan", *flags).err


def test_a_missing_date_is_asked_for(steel_batch: Command, flags: list[str]) -> None:
    without = with_flag(flags, "--key-pattern", "line={line}/*/{image_id}.png")[:-2]
    for command in (["score"], ["quarantine", "retry"]):
        done = steel_batch(*command, *without)
        assert "Error: Missing option '--date'. Give YYYY-MM-DD for one date" in refused(done)
        assert done.code == 2
    every = [*without, "--date", "all"]
    assert "give `score` one --date YYYY-MM-DD" in refused(steel_batch("score", *every))
    at = without.index("--key-pattern")
    del without[at : at + 2]
    assert "--date YYYY-MM-DD" in refused(steel_batch("score", *without, "--date", "all"))


def test_an_unknown_engine_shows_those_that_exist(
    steel_batch: Command, flags: list[str], tmp_path: Path
) -> None:
    card, _ = tiny_version()
    make_store(tmp_path)
    for engine in ("tiny@production", "severstal-0123456789ab", "nonsense"):
        text = refused(steel_batch("score", *flags, "--engine", engine))
        assert f"no engine '{engine}'" in text
        assert f"There are: demo, {card.name}." in text
    text = refused(steel_batch("score", *flags, "--engine", str(tmp_path / "nowhere")))
    assert "nowhere/card.json does not exist" in text


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


def test_images_that_changed_are_left_out_or_scored_again(
    steel_batch: Command, flags: list[str], tmp_path: Path, images: Lake
) -> None:
    store, engine = Lake(str(tmp_path / "store")), load_engine("demo", store=None).card.name
    commit_run(store, sorted(keys_of(images)), engine=engine, date=DATE)  # with other ETags
    text = steel_batch("plan", *flags).err
    assert "\n  changed since they were scored: 4 images, left out without --rescore" in text
    again = steel_batch("plan", *flags, "--rescore-changed").err
    assert again.startswith(f"{DATE}: 4 images in 1 shard, ")
    assert "\n  changed since they were scored: 4 images, to be scored again\n" in again
    assert "left out" not in again


def test_images_of_a_manifest_that_are_not_there_are_counted(
    steel_batch: Command,
    flags: list[str],
    tmp_path: Path,
    images: Lake,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listed = [f"line=1/date={DATE}/gone-{i}.png" for i in range(3)]
    there = next(item.key for item in images.list_objects())
    images.write("some.csv", "\n".join(["key", *listed, there]).encode())
    images.write("none.csv", "\n".join(["key", *listed]).encode())
    images.write("stated.csv", "\n".join(["key,size,etag", f"{listed[0]},5,e"]).encode())
    place = f"{images.url}/some.csv"
    some = steel_batch("plan", *with_flag(flags, "--images", place))
    assert some.code == 0
    assert (
        f"3 of 4 images of {DATE} that {place} lists are not there, for example {listed[0]!r}: "
        f"keys are relative to {images.url}."
    ) in caplog.text
    place = f"{images.url}/none.csv"
    for command in ("plan", "score"):
        none = steel_batch(command, *with_flag(flags, "--images", place))
        assert none.code == 2
        assert f"3 of 3 images of {DATE} that {place} lists are not there" in refused(none)
    assert not (tmp_path / "store" / "predictions").exists()
    caplog.clear()
    stated = steel_batch("plan", *with_flag(flags, "--images", f"{images.url}/stated.csv"))
    assert (stated.code, caplog.text) == (0, "")
