from __future__ import annotations

import dataclasses
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steel_batch.errors import ConfigError, FormatError
from steel_batch.lake import Lake
from tests.training.bands import open_bands
from training.augment import AugmentConfig
from training.batches import Examples, Sampler, make_ahead
from training.checkpoint import read_checkpoint, write_checkpoint
from training.dataset import Dataset, open_dataset
from training.journal import read_journal
from training.loop import naming_what_does_not_fit, train
from training.model import Segmenter
from training.recipe import ModelConfig, TrainConfig
from training.state import TrainingState, find_place

SMALL = ModelConfig(encoder="narrow16", decoder_channels=(16, 16, 16, 16, 16), output_stride=2)
RECIPE = TrainConfig(
    model=SMALL,
    augment=AugmentConfig(crop_width=64, noise=3),
    num_steps=6,
    batch_size=4,
    report_steps=3,
    checkpoint_steps=2,
    validate_steps=2,
    device="cpu",
    num_threads=1,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_bands(Lake(str(tmp_path_factory.mktemp("bands"))), num_images=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `undisturbed`."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, whole: Path) -> Segmenter:
    return train(dataset, RECIPE, whole, validation=dataset)


class StopError(Exception):
    """Stands for whatever ends a process."""


def train_until(step: int, dataset: Dataset, config: TrainConfig, folder: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["step"] >= step:
            raise StopError

    with pytest.raises(StopError):
        train(dataset, config, folder, stop, validation=dataset)


@pytest.fixture(scope="module")
def ended(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a process that ended at step 6."""
    folder = tmp_path_factory.mktemp("ended")
    train_until(6, dataset, RECIPE, folder)
    return folder


@pytest.fixture
def cut(ended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "cut"))


def same_weights(first: Segmenter, second: Segmenter) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def lines(folder: Path) -> list[dict[str, Any]]:
    timed = "images_per_second"
    journal = read_journal(folder / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k != timed} for record in journal]


def test_checkpoint_and_figures_of_a_newer_build_are_refused_and_kept(
    dataset: Dataset, cut: Path
) -> None:
    checkpoint, figures = cut / "checkpoint.pt", cut / "metrics.jsonl"
    state = torch.load(checkpoint, weights_only=True)
    assert state["format"] == 1
    header, *rest = figures.read_text().splitlines()
    assert json.loads(header) == {"format": 1}
    figures.write_text("\n".join(['{"format": 99}', *rest, ""]))
    newer = figures.read_bytes()
    with pytest.raises(FormatError, match=f"{figures} is the journal of a training of format 99"):
        train(dataset, RECIPE, cut, validation=dataset)
    assert figures.read_bytes() == newer
    torch.save({**state, "format": 99}, checkpoint)
    newer = checkpoint.read_bytes()
    with pytest.raises(FormatError, match=f"{checkpoint} is a checkpoint of format 99"):
        train(dataset, RECIPE, cut, validation=dataset)
    assert checkpoint.read_bytes() == newer


def test_a_training_that_an_earlier_build_began_is_continued(
    dataset: Dataset, undisturbed: Segmenter, cut: Path
) -> None:
    checkpoint, figures = cut / "checkpoint.pt", cut / "metrics.jsonl"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "format"}, checkpoint)
    figures.write_text("".join(figures.read_text().splitlines(keepends=True)[1:]))
    again = train(dataset, RECIPE, cut, validation=dataset)
    assert same_weights(again, undisturbed)
    assert [line["step"] for line in lines(cut)] == [2, 3, 4, 6, 6]


def test_a_run_that_was_cut_off_ends_with_the_same_weights_and_figures(
    dataset: Dataset, undisturbed: Segmenter, whole: Path, cut: Path
) -> None:
    saved = torch.load(cut / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4
    again = train(dataset, RECIPE, cut, validation=dataset)
    assert same_weights(again, undisturbed)
    assert lines(cut) == lines(whole)
    assert [line["step"] for line in lines(cut)] == [2, 3, 4, 6, 6]


def test_a_network_that_drops_activations_is_continued_exactly(
    dataset: Dataset, tmp_path: Path
) -> None:
    model = ModelConfig(architecture="FPN", encoder="narrow16")
    config = dataclasses.replace(RECIPE, model=model, num_steps=3, checkpoint_steps=1)
    whole = train(dataset, config, tmp_path / "whole")
    assert any(isinstance(m, torch.nn.Dropout2d) and m.p > 0 for m in whole.modules())
    train_until(2, dataset, config, tmp_path / "cut")
    assert same_weights(train(dataset, config, tmp_path / "cut"), whole)


def test_a_finished_run_gives_its_result_without_a_step(dataset: Dataset, tmp_path: Path) -> None:
    first = train(dataset, RECIPE, tmp_path, validation=dataset)
    reported: list[dict[str, Any]] = []
    assert same_weights(train(dataset, RECIPE, tmp_path, reported.append), first)
    assert reported == []


def test_the_average_follows_weights_and_running_statistics(dataset: Dataset) -> None:
    config = dataclasses.replace(RECIPE, ema_decay=0.3, precision="bf16")
    state = TrainingState(config, 2, find_place(config))
    sampler = Sampler(Examples(dataset, dataset.size, 1 << 30), config, 0, 1)
    expected = {name: value.clone() for name, value in state.network.state_dict().items()}
    for step in range(5):
        state.update(step, sampler.make(step))
        decay = min(0.3, (step + 1) / (step + 10))
        for name, now in state.network.state_dict().items():
            if now.is_floating_point():
                assert now.dtype == torch.float32, "only activations are bfloat16"
                expected[name] = decay * expected[name] + (1 - decay) * now
            else:
                expected[name] = now.clone()
    found = state.average.state_dict()
    assert any("running_var" in name for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert not state.average.training


def test_the_learning_rate_rises_and_then_falls_along_a_cosine(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        RECIPE, num_steps=10, warmup_share=0.3, learning_rate=1e-3, report_steps=1
    )
    train(dataset, config, tmp_path)
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * i / 7)) / 2 for i in range(7)]
    expected = [1e-3 * factor for factor in (1 / 3, 2 / 3, 1, *cosine)]
    assert rates == pytest.approx(expected, rel=1e-3)


def test_parts_of_a_batch_make_one_update(dataset: Dataset, tmp_path: Path) -> None:
    config = dataclasses.replace(RECIPE, accumulate=2, num_steps=2)
    train(dataset, config, tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert {int(entry["step"]) for entry in state["optimizer"]["state"].values()} == {2}


def test_the_first_of_equal_averages_is_best_and_patience_ends_the_run(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        RECIPE, learning_rate=1e-12, num_steps=50, validate_steps=1, patience=3
    )
    train(dataset, config, tmp_path, validation=dataset)
    judged = [line for line in lines(tmp_path) if "best_step" in line]
    assert judged[-1]["step"] - judged[-1]["best_step"] == 3
    assert judged[-1]["step"] < 50
    reported: list[dict[str, Any]] = []
    train(dataset, config, tmp_path, reported.append, validation=dataset)
    assert reported == [], "a run that stopped early stays stopped"
    train_until(judged[-1]["step"] + 2, dataset, dataclasses.replace(config, patience=9), tmp_path)


def test_a_checkpoint_of_another_recipe_is_refused(dataset: Dataset, cut: Path) -> None:
    changed = dataclasses.replace(RECIPE, seed=1, augment=AugmentConfig(crop_width=64))
    with pytest.raises(ConfigError, match=r"another recipe: augment, seed differ"):
        train(dataset, changed, cut)


def test_a_damaged_checkpoint_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is damaged and cannot be"):
        train(dataset, RECIPE, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "batch_size", "cause"),
    [("DeepLabV3Plus", 1, "more than 1 value per channel"), ("PAN", 2, "Output size is too small")],
)
def test_crops_that_a_network_cannot_take_are_named_with_it(
    dataset: Dataset, tmp_path: Path, architecture: str, batch_size: int, cause: str
) -> None:
    model = ModelConfig(architecture=architecture)
    config = dataclasses.replace(RECIPE, model=model, batch_size=batch_size)
    with pytest.raises(ConfigError) as refused:
        train(dataset, config, tmp_path)
    start = (
        f"{architecture} with encoder 'resnet18' cannot be trained on {batch_size} crop(s) of 64×64"
    )
    assert str(refused.value).startswith(start)
    assert cause in str(refused.value)


def test_memory_that_is_too_small_is_said_with_what_saves_some() -> None:
    config = dataclasses.replace(RECIPE, batch_size=8, accumulate=2)
    with (
        pytest.raises(
            ConfigError, match=r"4 crop\(s\) of 64×96\. .* --batch-size, or a higher acc"
        ),
        naming_what_does_not_fit(config, (4, 64, 96), is_first=False),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_writers_of_one_checkpoint_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"

    def write(number: int) -> None:
        for _ in range(20):
            write_checkpoint(path, RECIPE, {"step": number})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    state = read_checkpoint(path, RECIPE, torch.device("cpu"), "here")
    assert state is not None
    assert state["step"] in range(4)
    assert list(tmp_path.iterdir()) == [path]


def test_what_does_not_fit_is_refused_before_training(dataset: Dataset, tmp_path: Path) -> None:
    for change, message in (
        ({"accumulate": 3}, "a batch of 4 cannot be divided among 1 process"),
        ({"positive_weight": (1.0, 2.0, 3.0)}, "3 values, expected 2"),
        (
            {"learning_rate": 1e30},
            "training diverged. Use a lower learning_rate, or precision fp32.$",
        ),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU to train. On a CPU, use"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(dataset, dataclasses.replace(RECIPE, **change), tmp_path / message[:9])


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_processes_share_the_crops_of_one_batch(dataset: Dataset, num_ranks: int) -> None:
    examples = Examples(dataset, dataset.size, 1 << 30)
    whole = Sampler(examples, RECIPE, 0, 1)
    shares = [Sampler(examples, RECIPE, rank, num_ranks) for rank in range(num_ranks)]
    for step in (0, 3):
        image, bitmask = whole.make(step)
        for rank, share in enumerate(shares):
            part, part_bitmask = share.make(step)
            assert torch.equal(part, image[rank::num_ranks])
            assert torch.equal(part_bitmask, bitmask[rank::num_ranks])


def test_batches_come_in_order_from_any_number_of_threads(dataset: Dataset) -> None:
    sampler = Sampler(Examples(dataset, dataset.size, 0), RECIPE, 0, 1)
    expected = [sampler.make(step)[0] for step in range(2, 9)]
    for num_threads in (1, 3, 20):
        found = [image for image, _ in make_ahead(sampler.make, range(2, 9), num_threads)]
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_images_are_kept_in_memory_only_if_all_of_them_fit(dataset: Dataset) -> None:
    num_defective = sum(bool(example.masks) for example in dataset.examples)
    num_bytes = (len(dataset) + num_defective) * 64 * 160
    kept = Examples(dataset, dataset.size, num_bytes)
    assert kept.is_cached
    assert kept.load(3)[0] is kept.load(3)[0]
    read = Examples(dataset, dataset.size, num_bytes - 1)
    assert not read.is_cached
    assert read.load(3)[0] is not read.load(3)[0]
    np.testing.assert_array_equal(read.load(3)[1], kept.load(3)[1])


@pytest.mark.parametrize("size", [(50, 50), (33, 67)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_images_of_any_size_train_at_any_stride(
    tmp_path: Path, size: tuple[int, int], stride: int
) -> None:
    dataset = open_bands(Lake(str(tmp_path / "lake")), num_images=4, height=size[0], width=size[1])
    model = dataclasses.replace(SMALL, output_stride=stride)
    config = dataclasses.replace(RECIPE, model=model, num_steps=1, lovasz_weight=1.0)
    train(dataset, config, tmp_path / "run", validation=dataset)


def test_a_side_that_is_no_multiple_of_the_stride_trains_beside_one_that_is(tmp_path: Path) -> None:
    dataset = open_bands(Lake(str(tmp_path / "lake")), num_images=2, height=256, width=100)
    model = dataclasses.replace(SMALL, input_stride=4, output_stride=4)
    config = dataclasses.replace(
        RECIPE, model=model, num_steps=1, augment=AugmentConfig(crop_width=100)
    )
    train(dataset, config, tmp_path / "run")


def test_images_of_several_sizes_train_together(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    small = open_bands(lake, num_images=4, height=48, width=120)
    rows = lake.read("train.csv")
    lake.write("odd/large.png", Lake(small.lake.url).read("im000.png"))
    mixed = open_bands(Lake(str(tmp_path / "other")), num_images=3)
    for example in mixed.examples:
        lake.write(f"more/x{example.name}", mixed.lake.read(example.key))
    dataset = open_dataset(lake, rows, source="t", num_classes=2)
    assert not dataset.has_one_size
    config = dataclasses.replace(RECIPE, num_steps=1)
    train(dataset, config, tmp_path / "run", validation=dataset)
