from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from training.metrics import Judged, evaluate, image_dice

Masks = list[tuple[np.ndarray, np.ndarray]]


def random_masks(seed: int, num_classes: int, num_images: int = 12) -> Masks:
    """Predictions and truths, some of them empty, of several sizes."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(num_images):
        shape = (int(rng.integers(3, 20)), int(rng.integers(3, 20)))
        pair = []
        for _ in range(2):
            density = rng.choice([0, 0.1, 0.6])
            planes = rng.random((num_classes, *shape)) < density
            planes &= rng.random((num_classes, 1, 1)) < 0.6
            bits = 1 << np.arange(num_classes).reshape(-1, 1, 1)
            pair.append((planes * bits).sum(0).astype(np.uint8))
        pairs.append((pair[0], pair[1]))
    return pairs


def judged(pairs: Masks) -> list[Judged]:
    return [Judged(predicted_HW=predicted, truth_HW=truth) for predicted, truth in pairs]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_classes", [1, 3, 8])
def test_every_figure_agrees_with_plain_loops(seed: int, num_classes: int) -> None:
    pairs = random_masks(seed, num_classes)
    found = evaluate(judged(pairs), num_classes)
    all_dice, ious = [], []
    for c in range(num_classes):
        dice, hits, alarms = [], [], []
        both = union = 0
        for predicted, truth in pairs:
            p = {tuple(at) for at in np.argwhere(predicted >> c & 1)}
            t = {tuple(at) for at in np.argwhere(truth >> c & 1)}
            value = 1.0 if not p and not t else 2 * len(p & t) / (len(p) + len(t))
            all_dice.append(value)
            if t:
                dice.append(value)
                hits.append(bool(p & t))
            else:
                alarms.append(bool(p))
            both += len(p & t)
            union += len(p | t)
        entry = found.classes[c]
        assert entry.num_present == len(dice)
        assert entry.present_dice == (pytest.approx(np.mean(dice)) if dice else None)
        assert entry.recall == (pytest.approx(np.mean(hits)) if hits else None)
        assert entry.false_alarm_rate == (pytest.approx(np.mean(alarms)) if alarms else None)
        assert entry.iou == (pytest.approx(both / union) if union else None)
        ious += [both / union] if union else []
    clean = [(p == 0, t == 0) for p, t in pairs]
    both = sum(int((p & t).sum()) for p, t in clean)
    union = sum(int((p | t).sum()) for p, t in clean)
    ious += [both / union] if union else []
    assert found.kaggle_dice == pytest.approx(np.mean(all_dice))
    assert found.mean_iou == pytest.approx(np.mean(ious))


def test_exclusive_classes_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, (10, 16, 16))
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 4, truth.shape))
    bit = np.array([0, 1, 2, 4], np.uint8)
    found = evaluate(
        [
            Judged(predicted_HW=bit[p], truth_HW=bit[t])
            for p, t in zip(predicted, truth, strict=True)
        ],
        3,
    )
    expected = confusion_matrix(truth.ravel(), predicted.ravel())
    np.testing.assert_array_equal(found.confusion, expected)
    ious = jaccard_score(truth.ravel(), predicted.ravel(), average=None)
    assert found.mean_iou == pytest.approx(ious.mean())
    assert [c.iou for c in found.classes] == pytest.approx(list(ious[1:]))


def test_answering_nothing_scores_one_minus_the_share_of_masks() -> None:
    """Of 25 images and 4 classes 11 masks: 89 of 100 are empty on empty, which is 1 each."""
    rng = np.random.default_rng(0)
    truths = [np.zeros((8, 12), np.uint8) for _ in range(25)]
    for place in rng.choice(100, 11, replace=False):
        truths[place // 4][2:4, 3:9] |= np.uint8(1 << (place % 4))
    nothing = np.zeros((8, 12), np.uint8)
    found = evaluate([Judged(predicted_HW=nothing, truth_HW=t) for t in truths], 4)
    assert found.kaggle_dice == pytest.approx(0.89, abs=1e-12)
    assert sum(c.num_present for c in found.classes) == 11
    assert all(c.present_dice == 0 and c.recall == 0 for c in found.classes if c.num_present)


def test_peaks_are_calibrated_by_bins() -> None:
    full, empty = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    cases = [(full, 0.95), (full, 0.91), (empty, 0.93), (empty, 0.02), (full, 1.0)]
    found = evaluate(
        [
            Judged(predicted_HW=t, truth_HW=t, peak_C=np.array([p], np.float32)) for t, p in cases
        ],
        1,
    ).calibration  # fmt: skip
    assert [(b.num_cases, b.share_present) for b in found] == [(1, 0.0), (4, 0.75)]
    assert found[1].mean_peak == pytest.approx((0.95 + 0.91 + 0.93 + 1) / 4)


def test_the_dice_of_one_image_is_over_the_classes_that_concern_it() -> None:
    truth, predicted = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert image_dice(Judged(predicted_HW=predicted, truth_HW=truth), 3) is None
    truth[0] |= 1
    predicted[0, :2] |= 1
    predicted[1] |= 4
    found = image_dice(Judged(predicted_HW=predicted, truth_HW=truth), 3)
    assert found == pytest.approx((2 * 2 / 6 + 0) / 2)


def test_nothing_to_judge_and_sizes_that_differ_are_errors() -> None:
    with pytest.raises(ValueError, match="no image"):
        evaluate([], 2)
    pair = Judged(predicted_HW=np.zeros((2, 3), np.uint8), truth_HW=np.zeros((3, 2), np.uint8))
    with pytest.raises(ValueError, match="against"):
        evaluate([pair], 2)
