from __future__ import annotations

import itertools

import numpy as np
import pytest

from steel_batch.images.decode import mask_to_source
from steel_batch.masks.defects import describe_defects
from steel_batch.masks.rle import decode_rle
from steel_batch.registry.card import PostProcess
from training.thresholds import MIN_AREAS_PX, PROBABILITIES, SLACK, search

Outputs = list[tuple[np.ndarray, np.ndarray]]


def outputs(seed: int, num_classes: int = 3, num_images: int = 15) -> Outputs:
    """Blocks that are found more or less, and specks where there is nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_images):
        probability = rng.random((num_classes, 40, 60)).astype(np.float32) * 0.35
        truth = np.zeros((40, 60), np.uint8)
        for c in range(num_classes):
            y, x = rng.integers(0, 20, 2)
            speck = probability[c, 30:36, x : x + 8]
            speck += np.float32(rng.random() * 0.6)
            if rng.random() < 0.5:
                truth[y : y + 15, x : x + 25] |= np.uint8(1 << c)
                block = probability[c, y + 2 : y + 17, x : x + 25]
                block += np.float32(0.2 + 0.45 * rng.random())
        found.append((probability, truth))
    return found


def dice_by_loops(pairs: Outputs, c: int, threshold: float, min_area_px: int) -> float:
    scores = []
    for probability, truth in pairs:
        predicted = probability[c] > threshold
        if predicted.sum() < min_area_px:
            predicted = np.zeros_like(predicted)
        true = (truth >> c & 1).astype(bool)
        total = predicted.sum() + true.sum()
        scores.append(1.0 if total == 0 else 2 * (predicted & true).sum() / total)
    return float(np.mean(scores))


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_as_good_as_any_to_within_what_is_stated(seed: int) -> None:
    pairs = outputs(seed)
    choices = search(iter(pairs), 3)
    for c, choice in enumerate(choices):
        found = dice_by_loops(pairs, c, choice.threshold, choice.min_area_px)
        assert choice.kaggle_dice == pytest.approx(found)
        grid = itertools.product(PROBABILITIES, MIN_AREAS_PX)
        by_pair = {pair: dice_by_loops(pairs, c, *pair) for pair in grid}
        assert found >= max(by_pair.values()) - SLACK
        for (threshold, min_area_px), dice in by_pair.items():
            if dice >= max(by_pair.values()) - SLACK / 2:
                nearer = (abs(threshold - 0.5), min_area_px)
                assert (abs(choice.threshold - 0.5), choice.min_area_px) <= nearer


@pytest.mark.parametrize("seed", range(2))
def test_the_choice_is_judged_as_score_applies_it_to_images_of_any_size(seed: int) -> None:
    """Its Dice is that of the defects which are described at the images' own sizes."""
    sizes = [(40, 60), (80, 120), (23, 31), (40, 120), (100, 60)]
    pairs = [
        (probability, mask_to_source(truth, *sizes[i % len(sizes)]))
        for i, (probability, truth) in enumerate(outputs(seed))
    ]
    choices = search(iter(pairs), 3)
    post = PostProcess(
        min_area_px=tuple(choice.min_area_px for choice in choices), min_component_px=(0, 0, 0)
    )
    scores = []
    for probability, truth in pairs:
        mask = np.zeros((40, 60), np.uint8)
        for c, choice in enumerate(choices):
            mask |= (probability[c] > choice.threshold).astype(np.uint8) << np.uint8(c)
        counts = np.array([[np.count_nonzero(mask >> c & 1) for c in range(3)]], np.float32)
        kept = np.zeros_like(truth)
        of_image = mask_to_source(mask, *truth.shape)
        for defect in describe_defects(
            [of_image], np.ones((1, 3), np.float32), counts, post, engine_px=mask.size
        )[0].as_py():
            class_HW = decode_rle(defect["rle"], *truth.shape)
            kept |= class_HW << np.uint8(defect["class_id"] - 1)
        for c in range(3):
            predicted, true = kept >> c & 1, truth >> c & 1
            total = int(predicted.sum()) + int(true.sum())
            scores.append(1.0 if total == 0 else 2 * int((predicted & true).sum()) / total)
    of_classes = np.reshape(scores, (-1, 3)).mean(axis=0)
    assert [choice.kaggle_dice for choice in choices] == pytest.approx(of_classes.tolist())


def test_a_class_that_never_occurs_keeps_the_middle_where_it_raises_no_alarm() -> None:
    nothing = np.zeros((40, 60), np.uint8)
    quiet = np.full((1, 40, 60), 0.1, np.float32)
    (choice,) = search([(quiet, nothing)] * 3, 1)
    assert (choice.threshold, choice.min_area_px) == (0.5, 0)
    loud = quiet.copy()
    loud[0, :10, :8] = 0.65  # 80 pixels
    (choice,) = search([(loud, nothing)] * 3, 1)
    assert (choice.threshold, choice.min_area_px) == (0.5, 100)


def test_nothing_to_search_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image"):
        search([], 2)
