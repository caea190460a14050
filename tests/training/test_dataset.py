from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.errors import ChangedObjectError, ConfigError
from steel_batch.lake import Lake
from tests.training.bands import band, open_bands, write_bands
from training.dataset import Dataset, Example, open_dataset, split
from training.inputs import JobConfig, find_inputs
from training.job import _open_parts
from training.labels import LabelError
from training.recipe import TrainConfig

COILS = ((), (1,), (2,), (3,), (4,), (1, 2), (3, 4), (1, 3))
"""Classes on each of eight coils."""


Groups = dict[str, tuple[int, tuple[int, ...]]]
"""How many images each group has, and their classes."""


def made_up(groups: Groups) -> Dataset:
    """Examples that are never loaded."""
    examples = [
        Example(
            key=f"{group}-{i}.png", sha256=f"{group}-{i}", height=8, width=8,
            masks=dict.fromkeys(classes, "1 1"), group=group,
        )
        for group, (num_images, classes) in groups.items()
        for i in range(num_images)
    ]  # fmt: skip
    return Dataset(lake=Lake("nowhere"), examples=tuple(examples), num_classes=4)


def single_images(counts: list[int]) -> Groups:
    """As many images of each combination of classes, without groups."""
    subsets = [tuple(c + 1 for c in range(5) if bits >> c & 1) for bits in range(32)]
    return {
        f"im{classes}{i}": (1, classes)
        for classes, count in zip(subsets, counts, strict=False)
        for i in range(count)
    }


def combinations(dataset: Dataset) -> Counter[tuple[int, ...]]:
    return Counter(tuple(sorted(example.masks)) for example in dataset.examples)


def test_a_dataset_has_every_image_and_its_masks_pixel_by_pixel(lake: Lake) -> None:
    dataset = open_bands(lake, num_images=9)
    assert (len(dataset), dataset.num_classes, dataset.size) == (9, 2, (64, 160))
    for i in range(9):
        image_HW, bitmask_HW = dataset.load(i)
        expected_HW, expected_mask_HW = band(i, 64, 160)
        np.testing.assert_array_equal(image_HW, expected_HW)
        np.testing.assert_array_equal(bitmask_HW, expected_mask_HW)
    assert not all(example.masks for example in dataset.examples), "clean images are examples too"


def test_the_digest_knows_content_and_not_place(tmp_path_factory: pytest.TempPathFactory) -> None:
    places = [Lake(str(tmp_path_factory.mktemp("lake"))) for _ in range(3)]
    write_bands(places[0], num_images=5)
    write_bands(places[1], num_images=5, prefix="line=1/")
    for number, key in enumerate(["im003.png", "im001.png"]):  # listed before the others
        places[1].write(f"line=0/{number}/{key}", places[1].read(f"line=1/{key}"))
        places[1].delete([f"line=1/{key}"])
    write_bands(places[2], num_images=5)
    changed = places[2].read("train.csv").rpartition(b" ")[0] + b" 1"
    sets = [
        open_dataset(lake, lake.read("train.csv"), source="t", num_classes=2) for lake in places
    ]
    other = open_dataset(places[2], changed, source="t", num_classes=2)
    assert sets[0].digest == sets[1].digest == sets[2].digest
    assert other.digest != sets[0].digest
    assert len({tuple(example.name for example in dataset.examples) for dataset in sets}) == 1


def test_a_split_is_deterministic_whole_and_in_proportion(tmp_path: object) -> None:
    dataset = open_bands(Lake(str(tmp_path)), num_images=60)
    parts = split(dataset, shares=[0.2, 0.2], seed=3)
    assert [p.examples for p in split(dataset, shares=[0.2, 0.2], seed=3)] == [
        p.examples for p in parts
    ]
    assert split(dataset, shares=[0.2, 0.2], seed=4)[1].examples != parts[1].examples
    names = [example.name for part in parts for example in part.examples]
    assert sorted(names) == sorted(example.name for example in dataset.examples)
    whole = combinations(dataset)
    for part in parts[1:]:
        for combination, count in combinations(part).items():
            assert abs(count - 0.2 * whole[combination]) <= 1


def test_images_of_a_group_stay_together(tmp_path: object) -> None:
    lake = Lake(str(tmp_path))
    write_bands(lake, num_images=40)
    groups = "ImageId,Group\n" + "\n".join(f"im{i:03d}.png,g{i // 4}" for i in range(40))
    dataset = open_dataset(
        lake, lake.read("train.csv"), source="t", groups=groups.encode(), groups_source="g"
    )
    parts = split(dataset, shares=[0.25, 0.25], seed=0)
    assert all(len(part) for part in parts)
    found = [{example.group for example in part.examples} for part in parts]
    assert len(set().union(*found)) == sum(len(groups) for groups in found)


def test_a_split_of_images_without_groups_is_the_same_in_every_build() -> None:
    """Otherwise no version can be compared with earlier ones, and no run can be resumed."""
    classes = ((), (1,), (2,), (1, 3), (), (4,), ())
    dataset = made_up({f"im{i:03d}": (1, classes[i % 7]) for i in range(200)})
    parts = split(dataset, shares=[0.1, 0.1], seed=5)
    assert [len(part) for part in parts] == [160, 20, 20]
    assert [part.digest[:12] for part in parts] == ["265afc1e096d", "70bb5b13e971", "a09501aa7098"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_groups", "num_images"), [(20, 50), (100, 4), (8, 10)])
def test_parts_of_groups_come_as_near_to_their_shares_as_whole_groups_can(
    num_groups: int, num_images: int, seed: int
) -> None:
    groups: Groups = {f"coil {i}": (num_images, COILS[i % len(COILS)]) for i in range(num_groups)}
    parts = split(made_up(groups), shares=[0.1, 0.1], seed=seed)
    for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        assert abs(len(part) / num_images - share * num_groups) <= 1
        assert len(part) > 0


def test_large_groups_make_up_for_what_single_images_left_lacking() -> None:
    singles: Groups = {f"im{i}": (1, (1,)) for i in range(2)}
    assert [len(part) for part in split(made_up(singles), shares=[0.1, 0.1], seed=0)] == [2, 0, 0]
    coils: Groups = {f"coil {i}": (2, ()) for i in range(9)}
    parts = split(made_up(singles | coils), shares=[0.1, 0.1], seed=0)
    assert [len(part) for part in parts] == [16, 2, 2]


SMALL_COMBINATIONS: dict[str, tuple[list[int], list[int]]] = {
    "15 of 4 images": ([4] * 15, [48, 6, 6]),
    "4 of 5 images": ([5] * 4, [16, 2, 2]),
    "4 of 6 images": ([6] * 4, [19, 3, 2]),
    "8 clean images and 4 of 3": ([8, 3, 3, 3, 3], [16, 2, 2]),
    "20 of 1 image": ([1] * 20, [16, 2, 2]),
}


@pytest.mark.parametrize("name", SMALL_COMBINATIONS)
def test_small_combinations_of_classes_do_not_all_round_the_same_way(name: str) -> None:
    counts, expected = SMALL_COMBINATIONS[name]
    dataset = made_up(single_images(counts))
    assert [len(part) for part in split(dataset, shares=[0.1, 0.1], seed=0)] == expected


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=32),
    shares=st.lists(st.floats(0, 0.45), min_size=1, max_size=2),
)
def test_each_part_is_near_its_share_of_all_images_and_of_each_combination(
    counts: list[int], shares: list[float]
) -> None:
    dataset = made_up(single_images(counts))
    parts = split(dataset, shares=shares, seed=0)
    whole = combinations(dataset)
    for part, share in zip(parts, (1 - sum(shares), *shares), strict=True):
        assert abs(len(part) - share * len(dataset)) < 1 + 1e-9
        found = combinations(part)
        assert all(abs(found[c] - share * num) < 1 + 1e-9 for c, num in whole.items())


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1), (float("nan"), 0.1)])
def test_shares_that_leave_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="expected a sum below 1"):
        split(made_up({"im": (4, ())}), shares=shares, seed=0)


def test_an_image_that_was_replaced_is_refused_when_it_is_loaded(lake: Lake) -> None:
    dataset = open_bands(lake, num_images=3)
    lake.write("im001.png", lake.read("im002.png"))
    dataset.load(2)
    with pytest.raises(ChangedObjectError, match=r"im001\.png has changed since"):
        dataset.load(1)


def test_what_cannot_be_a_dataset_is_refused(tmp_path: object) -> None:
    lake = Lake(str(tmp_path))
    with pytest.raises(ConfigError, match="there are no images under"):
        open_dataset(lake, b"", source="t")
    write_bands(lake, num_images=3)
    with pytest.raises(ConfigError, match="found 9 classes, expected 1 to 8"):
        open_dataset(lake, b"", source="t", num_classes=9)
    with pytest.raises(ConfigError, match="contains no defect"):
        open_dataset(lake, b"ImageId,ClassId,EncodedPixels\n", source="t")
    with pytest.raises(LabelError, match="contains 'nobody"):
        open_dataset(lake, b"ImageId,ClassId,EncodedPixels\nnobody.png,1,1 2\n", source="t")
    lake.write("copy/im000.png", lake.read("im000.png"))
    with pytest.raises(ConfigError, match=r"im000\.png have the same name"):
        open_dataset(lake, b"", source="t")


@pytest.mark.parametrize("damage", [b"not an image", None])
def test_an_image_that_cannot_be_decoded_is_named_before_anything_is_trained(
    lake: Lake, damage: bytes | None
) -> None:
    write_bands(lake, num_images=3)
    cut = lake.read("im002.png")[:-2000]
    lake.write("im002.png", damage or cut)
    with pytest.raises(ConfigError, match=r"1 of 3 images .* cannot be read: im002\.png: "):
        open_dataset(lake, lake.read("train.csv"), source="t")


def test_images_of_12_bits_are_learned_from_as_they_are_scored(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    eight, twelve = (Lake(str(tmp_path_factory.mktemp("lake"))) for _ in range(2))
    expected = open_bands(eight, num_images=6)
    for i in range(6):
        deep_HW = expected.load(i)[0].astype(np.uint16) << 4
        twelve.write(f"im{i:03d}.png", bytes(cv2.imencode(".png", deep_HW)[1]))
    labels = eight.read("train.csv")
    with pytest.raises(ConfigError, match=r"6 of 6 images .* give --bits 12"):
        open_dataset(twelve, labels, source="t")
    with pytest.raises(ConfigError, match=r"greatest value is \d+, and --bits 10 allows"):
        open_dataset(twelve, labels, source="t", bits=10)
    twelve.write("train.csv", labels)
    config = JobConfig(
        images=twelve.url, labels="train.csv", store="s", model="m", bits=12,
        validation_share=0.3, test_share=0.3,
    )  # fmt: skip
    inputs = find_inputs(config, TrainConfig())
    assert inputs.source["bits"] == 12
    assert inputs.likely_size() is not None
    parts = _open_parts(inputs, config)
    pixels = {
        e.name: part.load(i)
        for part in (parts.training, parts.validation, parts.test)
        for i, e in enumerate(part.examples)
    }
    assert len(pixels) == 6
    for i, example in enumerate(expected.examples):
        for found_HW, expected_HW in zip(pixels[example.name], expected.load(i), strict=True):
            np.testing.assert_array_equal(found_HW, expected_HW)
    assert len({open_dataset(twelve, labels, source="t", bits=b).digest for b in (12, 14, 16)}) == 3


def test_copies_of_a_file_are_of_one_group(tmp_path: object) -> None:
    lake = Lake(str(tmp_path))
    write_bands(lake, num_images=30)
    for i in range(30):
        lake.write(f"copies/x{i:03d}.png", lake.read(f"im{i:03d}.png"))
    dataset = open_dataset(lake, lake.read("train.csv"), source="t", num_classes=2)
    parts = split(dataset, shares=[0.2, 0.2], seed=0)
    contents = [{example.sha256 for example in part.examples} for part in parts]
    assert [len(part) for part in parts] == [2 * len(content) for content in contents]
    assert sum(map(len, contents)) == len(set().union(*contents)) == 30


def test_groups_that_tear_copies_apart_are_refused(tmp_path: object) -> None:
    lake = Lake(str(tmp_path))
    write_bands(lake, num_images=3)
    lake.write("copy.png", lake.read("im001.png"))
    rows = "ImageId,Group\ncopy.png,a\nim000.png,a\nim001.png,b\nim002.png,a\n"
    with pytest.raises(LabelError, match=r"im001\.png \(b\) and copy\.png \(a\)\. Assign copies"):
        open_dataset(lake, lake.read("train.csv"), source="t", groups=rows.encode())


@pytest.mark.parametrize("num_classes", range(1, 9))
def test_one_to_eight_classes_are_bits_of_one_mask(tmp_path: object, num_classes: int) -> None:
    lake = Lake(str(tmp_path))
    write_bands(lake, num_images=1)
    rows = [f"im000.png,{c},{c} 1" for c in range(1, num_classes + 1)]
    labels = "\n".join(["ImageId,ClassId,EncodedPixels", *rows])
    dataset = open_dataset(lake, labels.encode(), source="t")
    assert dataset.num_classes == num_classes
    _, bitmask_HW = dataset.load(0)
    assert [int(value) for value in bitmask_HW[:num_classes, 0]] == [
        1 << c for c in range(num_classes)
    ]
    assert np.count_nonzero(bitmask_HW) == num_classes
