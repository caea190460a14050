"""`engines`: listed, shown, compared, promoted and rolled back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.registry.signatures import KEY_VARIABLE
from steel_batch.registry.versions import load_engine, shipped_name
from tests.cli.command_line import Command, keys, refused
from tests.tiny_engine import tiny_version


@pytest.fixture
def registry(tmp_path: Path) -> tuple[list[str], str, str, str]:
    """A store's flags, and the names of a version, of a better and of a worse one."""
    store = Lake(str(tmp_path / "store"))
    names = []
    for number, dice in enumerate((0.95, 0.97, 0.9)):
        of_class = {"present_dice": dice, "recall": 1.0, "false_alarm_rate": 0.0, "num_present": 25}
        metrics = {
            "data_digest": "0a" * 32, "num_images": 50, "kaggle_dice": dice, "mean_iou": dice,
            "classes": [of_class] * 4,
        }  # fmt: skip
        card, graphs = tiny_version(min_area_px=number, metrics=metrics)
        register(store, card, graphs)
        names.append(card.name)
    first, better, worse = names
    return ["--store", store.url], first, better, worse


def test_engines_are_listed_and_shown(steel_batch: Command, registry: Any, tmp_path: Path) -> None:
    store, first, *_ = registry
    promoted = steel_batch("engines", "promote", first, *store, "--why", "the first [one]")
    assert promoted.out == (
        f"tiny@production now points to {first}, its first promotion\n"
        "There was no earlier engine to compare it with.\n"
    )
    listed = steel_batch("engines", "list", *store, "--output", "json").json
    assert [keys(row) for row in listed] == [{"engine", "created", "aliases"}] * 4
    assert {row["engine"]: row["aliases"] for row in listed}[first] == ["production"]
    assert listed[-1]["engine"] == load_engine("demo", store=None).card.name
    shown = steel_batch("engines", "show", "tiny@production", *store, "--output", "json").json
    assert shown["card"]["version"] == first.partition("-")[2]
    (move,) = shown["moves"]
    assert keys(move) == {
        "number", "version", "previous", "action", "at", "by", "why", "forced", "checks",
    }  # fmt: skip
    text = steel_batch("engines", "show", "tiny@production", *store).out
    assert f"{first}, created " in text
    assert "evaluated on 50 held-out images: Kaggle Dice 0.9500, mIoU 0.9500" in text
    assert "the first [one]" in text.splitlines()[-1]
    page = tmp_path / "page.html"
    assert "evaluated on" not in steel_batch("engines", "show", first, *store, "--page", page).err
    assert first in page.read_text()
    assert steel_batch("engines", "show", "demo").out.startswith("demo-")


def test_a_damaged_engine_is_listed_among_the_others(
    steel_batch: Command, registry: Any, tmp_path: Path
) -> None:
    store, first, *others = registry
    key = layout.card_file(*layout.split_engine_name(first))
    (tmp_path / "store" / key).write_text("{}")
    for output in ("text", "json"):
        listed = steel_batch("engines", "list", *store, "--output", output)
        assert listed.code == 1
        assert listed.err.startswith(
            f"Error: {tmp_path}/store/{key} is not a valid engine card: it has"
        )
        assert all(name in listed.out for name in (*others, shipped_name()))
    damaged = next(row for row in listed.json if row["engine"] == first)
    assert damaged["created"] == "card cannot be used"


def test_a_mistyped_store_is_not_one_with_the_shipped_engine_alone(
    steel_batch: Command, tmp_path: Path
) -> None:
    text = refused(steel_batch("engines", "list", "--store", tmp_path / "typo"))
    assert text.startswith(f"Error: there is no store at {tmp_path}/typo: ")


def test_an_alias_whose_version_is_gone_is_listed_with_its_error(
    steel_batch: Command, registry: Any
) -> None:
    store, first, *others = registry
    steel_batch("engines", "promote", first, *store)
    lake = Lake(store[1])
    lake.delete([layout.card_file(*layout.split_engine_name(first))])
    listed = steel_batch("engines", "list", *store, "--output", "json")
    assert listed.code == 1
    assert listed.err.startswith(f"Error: tiny@production points to {first}, but its card ")
    assert {row["engine"]: row["created"] for row in listed.json}["tiny@production"] == (
        "alias cannot be used"
    )
    assert all(name in listed.out for name in (*others, shipped_name()))


def test_a_damaged_alias_is_listed_among_the_others_and_can_be_moved_away(
    steel_batch: Command, registry: Any, tmp_path: Path
) -> None:
    store, first, better, _ = registry
    steel_batch("engines", "promote", first, *store)
    steel_batch("engines", "promote", better, *store, "--alias", "canary")
    entry = tmp_path / "store" / layout.alias_series("tiny", "production") / "00000001.json"
    entry.write_bytes(b"")
    for output in ("text", "json"):
        listed = steel_batch("engines", "list", *store, "--output", output)
        assert listed.code == 1
        assert listed.err.startswith(f"Error: {entry} is not a valid entry of an alias: ")
        assert "tiny@production" in listed.out
    assert {row["engine"]: row["aliases"] for row in listed.json}[better] == ["canary"]
    assert "or move it out of its folder" in refused(
        steel_batch("engines", "promote", better, *store)
    )
    entry.rename(tmp_path / "damaged.json")
    assert steel_batch("engines", "list", *store).code == 0
    assert steel_batch("engines", "promote", better, *store).code == 0
    assert steel_batch("engines", "show", "tiny@production", *store).code == 0


@pytest.mark.parametrize(
    "metrics",
    [
        {"kaggle_dice": 0.9},
        {"kaggle_dice": "good", "num_images": 3, "mean_iou": None},
        {"kaggle_dice": 0.9, "num_images": 100, "mean_iou": 0.2, "classes": 5},
        {"kaggle_dice": 10**400, "mean_iou": True, "data_digest": 5, "num_images": "x"},
        {"kaggle_dice": 0.9, "data_digest": "a", "classes": [{"recall": "a"}] * 4},
        {"confusion": [[1]], "calibration": [{}], "agreement": {"fp32": 1}, "validation": [1]},
        {"confusion": 5, "calibration": "x", "agreement": [], "validation": {"kaggle_dice": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_figures_that_another_program_wrote_are_shown_as_far_as_they_are_known(
    steel_batch: Command, registry: Any, tmp_path: Path, metrics: dict[str, Any]
) -> None:
    store, first, *_ = registry
    card, graphs = tiny_version(min_area_px=7, metrics=metrics)
    register(Lake(store[1]), dataclasses.replace(card, recipe={"model": 5}), graphs)
    page = tmp_path / "page.html"
    shown = steel_batch("engines", "show", card.name, *store, "--page", page)
    assert (shown.code, shown.err) == (0, "")
    assert ("Kaggle Dice 0.9000, mIoU" in shown.out) == (metrics.get("kaggle_dice") == 0.9)
    assert "band_1" in page.read_text()
    assert steel_batch("engines", "diff", first, card.name, *store).code == 0
    assert steel_batch("engines", "promote", first, *store).code == 0
    text = refused(steel_batch("engines", "promote", card.name, *store))
    assert f"{card.name} is not promoted" in text


@pytest.mark.parametrize("edited", ["alias", "card"])
def test_what_was_edited_after_it_was_signed_is_refused_by_every_command(
    edited: str,
    steel_batch: Command,
    registry: Any,
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, first, better, _ = registry
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    assert steel_batch("engines", "sign", "tiny", *store).code == 0
    for name in (first, better):
        assert steel_batch("engines", "promote", name, *store).code == 0
    lake, alias = Lake(store[1]), layout.alias_series("tiny", "production")
    key, old, new = {
        "alias": (f"{alias}/00000002.json", better.partition("-")[2], first.partition("-")[2]),
        "card": (layout.card_file(*layout.split_engine_name(better)), "0.97", "0.99"),
    }[edited]
    lake.write(key, lake.read(key).decode().replace(old, new).encode())
    commands: dict[str, list[object]] = {
        "show": ["engines", "show", "tiny@production", *store],
        "promote": ["engines", "promote", better, "--alias", "production", *store],
        "score": ["score", *flags, "--engine", "tiny@production"],
        "rollback": ["engines", "rollback", "tiny@production", *store],
    }
    if edited == "card":
        del commands["rollback"]  # the way back does not read the card that it leaves
    for words in commands.values():
        text = refused(steel_batch(*words))
        assert f"{lake.uri(key)} has no signature, but other documents of model tiny have" in text
        assert "`steel-batch engines sign tiny --store " in text


@pytest.mark.s3
def test_an_engine_in_s3_is_shown_and_compared_without_a_store(
    steel_batch: Command, bucket: str, s3_endpoint: str
) -> None:
    card, graphs = tiny_version()
    lake = Lake(bucket, endpoint_url=s3_endpoint)
    register(lake, card, graphs)
    flags = [lake.uri(layout.version_dir("tiny", card.version)), "--endpoint-url", s3_endpoint]
    assert steel_batch("engines", "show", *flags).out.startswith(f"{card.name}, created ")
    assert card.name in steel_batch("engines", "diff", "demo", *flags).out


def test_an_alias_is_promoted_and_rolled_back(steel_batch: Command, registry: Any) -> None:
    store, first, better, worse = registry
    json_ = ["--output", "json"]
    steel_batch("engines", "promote", first, *store)
    moved = steel_batch("engines", "promote", better, *store, *json_).json
    assert keys(moved) == {"alias", "engine", "previous", "changed", "entry", "comparison"}
    assert (moved["engine"], moved["previous"], moved["changed"]) == (better, first, True)
    assert keys(moved["comparison"]) == {"figures", "refusals", "too_few"}
    again = steel_batch("engines", "promote", better, *store)
    assert (again.code, again.err) == (0, "")
    assert f"tiny@production already points to {better}" in again.out
    text = refused(steel_batch("engines", "promote", worse, *store))
    assert f"{worse} is not promoted; tiny@production still points to {better}" in text
    without = steel_batch("engines", "promote", worse, *store, "--force")
    assert without.code == 2
    assert '--why "…"' in without.err
    forced = steel_batch("engines", "promote", worse, *store, "--force", "--why", "it is faster")
    assert forced.code == 0
    assert "promoted with --force although Kaggle Dice is 0.9000 against 0.9700" in forced.out
    back = steel_batch("engines", "rollback", "tiny@production", *store, "--why", "slow", *json_)
    assert (back.json["engine"], back.json["previous"]) == (better, worse)
    text = steel_batch("engines", "rollback", "tiny@production", *store).out
    assert text == f"tiny@production now points to {first}, before: {better}\n"
    history = steel_batch("engines", "show", "tiny@production", *store).out.splitlines()[-5:]
    assert [line.split()[1] for line in history] == [
        "rollback", "rollback", "forced", "promote", "promote",
    ]  # fmt: skip
    done = steel_batch("engines", "rollback", "tiny@production", *store)
    assert "there is no earlier version to go back to" in refused(done)


def test_what_differs_between_two_engines_is_shown(steel_batch: Command, registry: Any) -> None:
    store, first, better, _ = registry
    found = steel_batch("engines", "diff", first, better, *store, "--output", "json").json
    assert keys(found) == {"a", "b", "judged_on_the_same", "differences"}
    assert {d["name"]: (d["a"], d["b"]) for d in found["differences"]} == {
        **{f"min_area_px.band_{c}": (0, 1) for c in (1, 2, 3, 4)},
        **{f"metrics.band_{c}.present_dice": (0.95, 0.97) for c in (1, 2, 3, 4)},
        "metrics.kaggle_dice": (0.95, 0.97),
        "metrics.mean_iou": (0.95, 0.97),
    }
    text = steel_batch("engines", "diff", first, better, *store).out
    assert text.split("\n")[0].split() == [first, better]
    assert "metrics.kaggle_dice" in text
    assert "do not compare" in steel_batch("engines", "diff", first, "demo", *store).out
    assert (
        "both names mean the same engine"
        in steel_batch("engines", "diff", first, first, *store).out
    )


def test_the_shipped_engine_goes_by_its_full_name_too(
    steel_batch: Command, registry: Any, flags: list[str]
) -> None:
    store, *_ = registry
    name = shipped_name()
    for place in (list[str](), store):
        assert steel_batch("engines", "show", name, *place).out.startswith(f"{name}, created ")
    assert "both names mean the same engine" in steel_batch("engines", "diff", name, "demo").out
    plans = [
        steel_batch("plan", *flags, "--engine", engine, "--output", "json").json
        for engine in (name, "demo")
    ]
    assert plans[0] == plans[1]
    assert plans[0]["engine"] == name
    for engine in (name, "demo"):
        text = refused(steel_batch("engines", "promote", engine, *store))
        assert f"{name} is the shipped engine and cannot be promoted" in text
    text = refused(steel_batch("engines", "show", f"{name[:-1]}g", *store))
    assert "There are: demo, tiny-" in text


def test_a_page_that_cannot_be_written_is_named(steel_batch: Command, tmp_path: Path) -> None:
    folder = tmp_path / "sub" / "dir"
    text = refused(steel_batch("engines", "show", "demo", "--page", folder / "demo.html"))
    assert text == f"Error: --page {folder}/demo.html: there is no folder {folder}."
    (tmp_path / "sub").write_text("a file")
    text = refused(steel_batch("engines", "show", "demo", "--page", folder / "demo.html"))
    assert text == f"Error: --page {folder}/demo.html: Not a directory."


def test_figures_on_too_few_images_are_not_shown_as_figures(
    steel_batch: Command, tmp_path: Path
) -> None:
    """Of three images, one of them with a defect that was missed: Kaggle Dice is 0.83."""
    store = Lake(str(tmp_path / "store"))
    of_class = {"present_dice": 0.0, "recall": 0.0, "false_alarm_rate": 0.0, "num_present": 1}
    names = []
    for number in range(2):
        metrics = {
            "data_digest": "0a" * 32, "num_images": 3, "kaggle_dice": 0.8333, "mean_iou": 0.33,
            "classes": [of_class] * 4,
        }  # fmt: skip
        card, graphs = tiny_version(min_area_px=number, metrics=metrics)
        register(store, card, graphs)
        names.append(card.name)
    flags = ["--store", store.url]
    page = tmp_path / "page.html"
    shown = steel_batch("engines", "show", names[0], *flags, "--page", page).out
    assert "evaluated on 3 held-out images: too few to compare (band_1 on 1, " in shown
    assert shown.count("too few") == 1 + 4 * 3
    for text in (shown, page.read_text().partition("<h2>Recipe")[0]):
        assert "0.8333" not in text
        assert "0.000" not in text
    diff = steel_batch("engines", "diff", *names, *flags).out
    assert diff.count("was evaluated on too few images to compare: band_1 on 1, ") == 2
    steel_batch("engines", "promote", names[0], *flags)
    moved = steel_batch("engines", "promote", names[1], *flags).out
    assert "Both were evaluated on too few images to compare: band_1 on 1, " in moved
