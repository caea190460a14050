"""The configuration of a run: what it refuses, what a file may say, what enters the plan."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from steel_batch.cli.settings import read_toml
from steel_batch.config import DECODES_ON, PRECISIONS, RUNTIMES, ScoreConfig
from steel_batch.errors import ConfigError, PlanMismatchError
from steel_batch.runs.plan import check_settings

PLAN = {"images", "key_pattern", "engine", "date", "shard_images", "shard_bytes",
        "bits", "max_images", "rescore_changed", "retry_quarantined"}  # fmt: skip
NAMES = {
    "shard-images": "shard_images",
    "lock-wait": "lock_wait_seconds",
    "key_pattern": "key_pattern",
}


def config(**changes: object) -> ScoreConfig:
    return ScoreConfig(**{"images": "lake", "store": "store", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shard_images", 0), ("shard_bytes", -1), ("merge_bytes", 0), ("shard_attempts", 0),
        ("batch_size", 0), ("num_actors", -2), ("actors_per_gpu", 0),
        ("cpus_per_actor", 0.0), ("cpus_per_actor", -1.0),
        ("max_bad", -0.1), ("max_bad", 1.1), ("max_bad", float("nan")),
        ("lease_seconds", 0.0), ("lease_seconds", -5.0), ("decode_seconds", 0.0),
        ("lock_wait_seconds", -1.0), ("bits", 7), ("max_images", 0), ("bits", 17), ("bits", 0),
    ],
)  # fmt: skip
def test_a_value_that_no_run_can_use_is_refused_by_its_flag(name: str, value: float) -> None:
    flag = {"lock_wait_seconds": "--lock-wait", "max_images": "--limit"}.get(
        name, f"--{name.replace('_', '-')}"
    )
    with pytest.raises(ConfigError, match=rf"{flag} is {value}"):
        config(**{name: value})


@pytest.mark.parametrize(
    ("name", "flag", "known"),
    [("runtime", "--runtime", RUNTIMES), ("precision", "--precision", PRECISIONS),
     ("decode_on", "--decode", DECODES_ON)],
)  # fmt: skip
def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are(
    name: str, flag: str, known: tuple[str, ...]
) -> None:
    with pytest.raises(
        ConfigError, match=rf"{flag} is 'tpu', expected one of: {', '.join(known)}\."
    ):
        config(**{name: "tpu"})
    assert [getattr(config(**{name: value}), name) for value in known] == [*known]


@pytest.mark.parametrize(
    ("date", "message"),
    [("21.11.2026", "'21.11.2026' is not YYYY-MM-DD"), ("", "is not YYYY-MM-DD"),
     ("2026-13-45", "there is no date 2026-13-45; expected YYYY-MM-DD, for example 2026-11-21"),
     ("2026-02-29", "there is no date 2026-02-29")],
)  # fmt: skip
def test_what_is_no_day_of_the_calendar_is_refused(date: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(date=date)


@pytest.mark.parametrize(
    ("name", "value"),
    [("shard_images", 1), ("max_bad", 0.0), ("max_bad", 1.0), ("lock_wait_seconds", 0.0),
     ("cpus_per_actor", 0.5), ("num_actors", 1), ("bits", 8), ("bits", 16)],
)  # fmt: skip
def test_the_least_and_greatest_values_are_accepted(name: str, value: float) -> None:
    assert getattr(config(**{name: value}), name) == value


def test_what_the_plan_depends_on_is_a_list_that_only_grows_deliberately() -> None:
    settings = config(images="s3://b/lake/").settings(engine="e", date="2026-11-21")
    assert set(settings) == PLAN
    assert (settings["engine"], settings["date"]) == ("e", "2026-11-21")
    assert settings["images"] == "s3://b/lake"


def test_following_links_is_a_setting_of_the_plan_where_it_is_on() -> None:
    """Plans of earlier builds do not say it, and keep their digests."""
    settings = config(follow_links=True).settings(engine="e", date="2026-11-21")
    assert set(settings) == {*PLAN, "follow_links"}


def test_bits_are_not_told_to_a_decoder_of_somebody_else() -> None:
    with pytest.raises(ConfigError, match="--bits 12 cannot be combined with --decoder my:decoder"):
        config(bits=12, decoder="my:decoder")


def another(value: object) -> object:
    """A value that a field may have instead of its default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 if value else 5.0
    return value + 1 if isinstance(value, int) else "other:function"


OTHERS = {
    "batch_size": 3, "num_actors": 3, "cpus_per_actor": 3.0, "actors_per_gpu": 3,
    "runtime": "onnxruntime", "precision": "fp32", "decode_on": "cpu",
}  # fmt: skip
"""Values of fields whose default does not say what they may be."""


@pytest.mark.parametrize(
    "name",
    sorted({field.name for field in dataclasses.fields(ScoreConfig)} - PLAN - {"follow_links"}),
)
def test_how_the_work_is_done_may_change_from_one_attempt_to_the_next(name: str) -> None:
    changed = config(**{name: OTHERS.get(name) or another(getattr(config(), name))})
    assert changed != config()
    assert changed.settings(engine="e", date="d") == config().settings(engine="e", date="d")


def test_a_configuration_is_never_changed_only_copied() -> None:
    first = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.date = "2026-11-22"  # type: ignore[misc]
    assert first.replace(date="2026-11-22").date == "2026-11-22"
    assert first.date == "all"
    with pytest.raises(ConfigError):
        first.replace(shard_images=0)


def test_a_file_names_settings_by_their_flags_or_fields_beside_other_sections(
    tmp_path: Path,
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        '[score]\nshard-images = 9\nkey_pattern = "straße={line}/{image_id}.jpg"\nlock_wait = 5\n'
        "[other]\nx = 1\n",
        encoding="utf-8",
    )
    assert read_toml(path, section="score", names=NAMES) == {
        "shard_images": 9,
        "key_pattern": "straße={line}/{image_id}.jpg",
        "lock_wait_seconds": 5,
    }
    for name in ("lock-wait", "lock_wait_seconds", "lock-wait-seconds"):
        path.write_text(f"[score]\n{name} = 7\n")
        assert read_toml(path, section="score", names=NAMES) == {"lock_wait_seconds": 7}


def test_a_file_without_the_section_says_nothing_unless_it_is_to(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("shard-images = 9\n")
    assert read_toml(path, section="score", names=NAMES) == {}
    with pytest.raises(ConfigError, match=r"job\.toml has no \[score\] table\."):
        read_toml(path, section="score", names=NAMES, is_required=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[score\n", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"score = 3\n", r"\[score\] is not a table"),
        (b"[score]\nshard-imags = 3\nzz = 1\n",
         r"unknown keys: shard-imags, zz\. Expected: key_pattern, lock-wait, shard-images"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        read_toml(path, section="score", names=NAMES)
    assert str(path) in raised.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: No such file"):
        read_toml(tmp_path / "none.toml", section="score", names=NAMES)


def test_each_spelling_of_a_folder_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "link").symlink_to("lake")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = [
        "lake", "./lake", "lake/", "lake//", "../" + tmp_path.name + "/lake", f"{tmp_path}/lake",
        f"file://{tmp_path}/lake", "~/lake", "link", "lake/../lake",
    ]  # fmt: skip
    settings = [
        ScoreConfig(images=images, store="s").settings(engine="e", date="2026-11-21")
        for images in spellings
    ]
    assert all(one == settings[0] for one in settings)
    assert settings[0]["images"] == str(tmp_path / "lake")
    before = {**settings[0], "images": "lake/"}  # as earlier builds noted it
    check_settings("r", before, settings[0])
    with pytest.raises(PlanMismatchError, match="images was"):
        check_settings("r", {**before, "images": "other"}, settings[0])
    s3 = ScoreConfig(images="s3://b/x/", store="s").settings(engine="e", date="2026-11-21")
    assert s3["images"] == "s3://b/x"


def test_a_configuration_file_that_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "score.toml")
    with pytest.raises(ConfigError, match=r"score\.toml: it is a FIFO, expected a regular file"):
        read_toml(tmp_path / "score.toml", section="score", names={})
    with pytest.raises(ConfigError, match="it is a device"):
        read_toml(Path("/dev/zero"), section="score", names={})
