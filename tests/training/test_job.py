from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from steel_batch import layout
from steel_batch.cli import cli
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake
from steel_batch.masks.rle import decode_rle
from steel_batch.registry import aliases
from steel_batch.registry.promotion import Tolerance, compare, promote
from steel_batch.registry.versions import load_engine
from tests.conftest import DATE, committed_rows, score_config
from tests.score_here import score_here
from tests.training.bands import CLASSES, write_bands
from tests.training.small_job import RECIPE, job, run_of
from training.dataset import open_dataset, split
from training.inputs import find_inputs
from training.job import JobResult, run_job
from training.metrics import Judged, evaluate
from training.recipe import ModelConfig

ONE_STEP = dataclasses.replace(RECIPE, num_steps=1, fp16=False, int8=False)
ODD = ("<script>alert(1)</script>", "a&b", "rust")
"""Names of classes, of which no image has the last one."""


@pytest.fixture(scope="module")
def odd(
    images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[JobResult, Lake, list[str]]:
    """A job with `ODD` classes, its store, and what it said."""
    store = tmp_path_factory.mktemp("odd")
    said: list[str] = []
    result = run_job(job(images, store, classes=ODD), ONE_STEP, on_stage=said.append)
    return result, Lake(str(store)), said


def test_a_job_ends_with_a_version_whose_card_is_the_evidence(
    made: tuple[JobResult, Lake],
) -> None:
    result, store = made
    card = load_engine(result.card.name, store=store).card
    assert card == result.card
    assert (card.model, card.classes, card.height, card.width) == ("bands", CLASSES, 64, 160)
    assert card.post_process.resize == "never"
    assert [graph.precision for graph in card.graphs[:2]] == ["fp32", "fp16"]
    assert sum(result.num_images) == 40
    assert card.metrics["num_images"] == result.num_images[2]
    assert card.metrics["validation"]["num_images"] == result.num_images[1]
    assert card.metrics["data_digest"] != card.metrics["validation"]["data_digest"]
    assert set(card.metrics["agreement"]) == {"fp32", "fp16"}
    accepted = card.metrics["int8"]["accepted"]
    assert ("int8" in [graph.precision for graph in card.graphs]) is accepted
    assert card.notes == (card.metrics["int8"]["why"],)
    assert card.recipe["num_steps"] == 12
    assert card.environment["torch"]


def test_score_finds_with_a_version_what_its_card_says(
    made: tuple[JobResult, Lake], images: Path
) -> None:
    """The figures in the card are of the very rows that analysts get."""
    result, store = made
    lake = Lake(str(images))
    scored = score_here(score_config(lake, store, Path()).replace(engine=result.card.name))
    assert (scored.engine, scored.num_scored) == (result.card.name, 40)
    dataset = open_dataset(lake, lake.read("train.csv"), source="train.csv", num_classes=2)
    test = split(dataset, shares=[0.2, 0.2], seed=0)[2]
    rows = {row["image_id"]: row for row in committed_rows(store)}

    def judged() -> Iterator[Judged]:
        for index, example in enumerate(test.examples):
            row: Any = rows[example.name.removesuffix(".png")]
            predicted_HW = np.zeros((64, 160), np.uint8)
            for defect in row["defects"]:
                class_HW = decode_rle(defect["rle"], 64, 160)
                predicted_HW |= class_HW << np.uint8(defect["class_id"] - 1)
            yield Judged(
                predicted_HW=predicted_HW,
                truth_HW=test.load(index)[1],
                peak_C=np.array(row["peak"], np.float32),
            )

    found = json.loads(json.dumps(dataclasses.asdict(evaluate(judged(), 2))))
    assert any(c["present_dice"] for c in found["classes"])
    for name in ("num_images", "kaggle_dice", "mean_iou", "classes", "confusion"):
        assert found[name] == result.card.metrics[name]
    peaks = [[b["mean_peak"] for b in x["calibration"]] for x in (found, result.card.metrics)]
    assert peaks[0] == pytest.approx(peaks[1], abs=1e-6)


def test_two_trainings_on_one_split_can_be_compared_wherever_the_images_lie(
    made: tuple[JobResult, Lake], images: Path, tmp_path: Path
) -> None:
    first = made[0].card
    copy, store = tmp_path / "copy", Lake(str(tmp_path / "store"))
    shutil.copytree(images, copy)
    config = dataclasses.replace(ONE_STEP, seed=1)
    second = run_job(job(copy, tmp_path / "store"), config).card
    assert second.version != first.version
    comparison = compare(first, second, Tolerance(dice=1.0, per_class=1.0))
    assert comparison.refusals == ()
    assert [figure.name for figure in comparison.figures][:2] == [
        "Kaggle Dice", "Dice where present of dim",
    ]  # fmt: skip
    assert second.recipe["data"] == {
        "images": str(copy), "labels": str(copy / "train.csv"), "bits": None, "groups": None,
        "validation_share": 0.2, "test_share": 0.2, "split_seed": 0,
    }  # fmt: skip
    other = run_job(job(copy, tmp_path / "store", split_seed=1), config).card
    aliases.move(store, "bands", "production", None, version=second.version, action="promote")
    with pytest.raises(ConfigError, match=r"evaluated on other images .* the same --split-seed"):
        promote(store, other.name, "production", tolerance=Tolerance())


class Page(HTMLParser):
    """What a page holds and refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_lies_beside_the_card_and_needs_nothing_else(
    made: tuple[JobResult, Lake],
) -> None:
    result, store = made
    text = store.read(layout.report_file("bands", result.card.version)).decode()
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert page.tags.count("polyline") == 4
    assert "dim" in text
    assert result.card.name in text


def test_what_users_named_is_escaped_in_the_report(odd: tuple[JobResult, Lake, list[str]]) -> None:
    result, store, _ = odd
    text = store.read(layout.report_file("bands", result.card.version)).decode()
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;" in text


@pytest.mark.s3
def test_images_labels_groups_and_the_store_may_lie_in_s3(
    bucket: str, s3_endpoint: str, made: tuple[JobResult, Lake]
) -> None:
    lake = Lake(f"{bucket}/lake", endpoint_url=s3_endpoint)
    write_bands(lake, num_images=40, prefix=f"line=1/date={DATE}/")
    rows = ["ImageId,Group", *(f"im{i:03d}.png,strip {i // 2}" for i in range(40))]
    lake.write("groups.csv", "\n".join(rows).encode())
    result = run_job(
        dataclasses.replace(
            job(Path(), Path()),
            images=lake.url,
            labels=f"{bucket}/lake/train.csv",
            groups="groups.csv",
            store=f"{bucket}/store",
            endpoint_url=s3_endpoint,
        ),
        ONE_STEP,
    )
    store = Lake(f"{bucket}/store", endpoint_url=s3_endpoint)
    card = load_engine(result.card.name, store=store).card
    assert all(num % 2 == 0 for num in result.num_images), "pairs stay together"
    assert sum(result.num_images) == 40
    assert card.recipe["training_digest"] != made[0].card.recipe["training_digest"]
    assert store.stat(layout.training_file(result.run, "checkpoint.pt")) is not None


def test_a_users_mistake_ends_before_training(images: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"labels": "nowhere.csv"}, "--labels 'nowhere.csv' is neither a file nor found under"),
        ({"model": "Not A Name"}, "cannot be used as a name"),
        ({"test_share": 0.0}, "leave none for test"),
        ({"classes": ("only one",)}, "has class '2', expected 1 to 1: --classes names 1"),
        ({"classes": ("dim", "")}, "expected a different name for each class"),
        ({"classes": ("dim", "dim")}, "expected a different name for each class"),
        ({"labels": ""}, "--labels '' is neither a file nor found under"),
        ({"labels": "./train.csv"}, "--labels './train.csv' is neither a file nor found under"),
        ({"validation_share": float("nan")}, "expected a sum below 1"),
        ({"num_epochs": float("inf")}, "--epochs is inf, expected a finite number above 0"),
        ({"ray_address": "head:6379"}, "--ray-address head:6379 needs --num-workers"),
        ({"groups": "train.csv"}, "has the columns ImageId,ClassId,EncodedPixels, exp"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_job(job(images, tmp_path, **changes), RECIPE)
    assert list(Lake(str(tmp_path)).list_objects()) == []


def test_images_that_are_not_there_are_not_called_missing_labels(
    lake: Lake, tmp_path: Path
) -> None:
    """`--labels` is looked up under `--images`, so both are missing."""
    settings = dataclasses.replace(
        job(Path(lake.url), tmp_path), images=lake.url, endpoint_url=lake.endpoint_url
    )
    with pytest.raises(ConfigError) as refused:
        find_inputs(settings, RECIPE)
    assert str(refused.value).startswith(f"there are no files under --images {lake.url}: expected")
    assert refused.value.exit_code == 2


def test_a_store_that_cannot_be_written_ends_a_job_before_its_images_are_read(
    images: Path, tmp_path: Path
) -> None:
    """It was found out at the first checkpoint, and the steps before it were lost."""
    store = tmp_path / "store"
    store.write_text("a file")
    said: list[str] = []
    with pytest.raises(LakeError, match=r"^--store .*store cannot be written: ") as refused:
        run_job(job(images, store), RECIPE, on_stage=said.append)
    assert refused.value.exit_code == 1
    assert said == []


def test_a_network_that_cannot_take_the_images_is_refused_before_they_are_read(
    images: Path, tmp_path: Path
) -> None:
    """All but a few, from which their size is known: a label that is wrong is not come to."""
    labels = tmp_path / "wrong.csv"
    labels.write_text("ImageId,ClassId,EncodedPixels\nnowhere.png,1,1 1\n")
    store = tmp_path / "store"
    model = ModelConfig(architecture="DPT", encoder="tu-vit_relpos_small_patch16_224")
    with pytest.raises(ConfigError) as refused:
        run_job(job(images, store, labels=str(labels)), dataclasses.replace(RECIPE, model=model))
    assert str(refused.value).startswith(
        "DPT with encoder 'tu-vit_relpos_small_patch16_224' does not accept images or crops of "
        "64×64: Input height (64) doesn't match model (224)"
    )
    assert list(Lake(str(store)).list_objects()) == []


def test_a_bare_name_is_of_the_file_beside_the_images_and_never_a_guess(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = (images / "train.csv").read_bytes()
    (tmp_path / "train.csv").write_bytes(labels)
    first = find_inputs(job(images, tmp_path / "store"), RECIPE)
    assert first.source["labels"] == str(images / "train.csv")
    (tmp_path / "train.csv").write_bytes(labels.rpartition(b"\n")[0])
    with pytest.raises(ConfigError, match=r"is ambiguous: .* both exist and differ") as refused:
        run_job(job(images, tmp_path / "store"), RECIPE)
    for address in (images / "train.csv", tmp_path / "train.csv", "./train.csv"):
        assert str(address) in str(refused.value)
    second = find_inputs(job(images, tmp_path / "other", labels="./train.csv"), RECIPE)
    assert second.source["labels"] == str(tmp_path / "train.csv")
    assert second.open_dataset(2).digest != first.open_dataset(2).digest


def test_a_damaged_checkpoint_is_named_where_the_user_finds_it(
    made: tuple[JobResult, Lake], images: Path, tmp_path: Path
) -> None:
    kept = tmp_path / layout.training_file(made[0].run, "checkpoint.pt")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 100)
    with pytest.raises(ConfigError) as refused:
        run_job(job(images, tmp_path), RECIPE)
    assert str(refused.value) == (
        f"{kept} is damaged and cannot be resumed. Delete it and run the same command again: "
        "training then starts from the beginning."
    )


def test_a_class_that_is_added_is_another_run(
    made: tuple[JobResult, Lake], images: Path, tmp_path: Path
) -> None:
    assert run_of(job(images, tmp_path), RECIPE) == made[0].run
    assert run_of(job(images, tmp_path, classes=(*CLASSES, "rust")), RECIPE) != made[0].run


def test_a_class_that_a_part_lacks_is_said_before_training_and_in_the_card(
    odd: tuple[JobResult, Lake, list[str]],
) -> None:
    result, _, said = odd
    gaps = (
        "class 3 (rust) is on no training image: it will never be found.",
        "class 3 (rust) is on no validation image: its threshold is chosen on images without it.",
        "class 3 (rust) is on no test image: its quality is unknown.",
    )
    assert tuple(said[1:4]) == gaps
    assert said[4].startswith("training bands-")
    assert result.card.notes[:3] == gaps
    assert [note.partition(":")[2] for note in result.card.notes[3:]] == [
        " the recipe excludes it."
    ] * 2
    assert [graph.precision for graph in result.card.graphs] == ["fp32"]


def test_the_command_trains_and_answers_in_json(images: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[recipe]\nnum_threads = 1\nbatch_size = 4\nnum_steps = 99\nfp16 = false\nint8 = false\n"
        "[augment]\ncrop_width = 64\n"
        "[model]\nencoder = 'narrow16'\ndecoder_channels = [16, 16, 16, 16, 16]\n"
    )
    flags = f"train --images {images} --store {tmp_path / 'store'} --model bands --steps 1 "
    flags += f"--config {recipe} --validation-share 0.2 --test-share 0.2 --output json"
    answer = CliRunner().invoke(cli, flags.split(), catch_exceptions=False)
    assert answer.exit_code == 0
    found = json.loads(answer.stdout.splitlines()[-1])
    card = load_engine(found["engine"], store=Lake(str(tmp_path / "store"))).card
    assert card.classes == ("class_1", "class_2")
    assert (card.recipe["num_steps"], card.recipe["batch_size"]) == (1, 4)
