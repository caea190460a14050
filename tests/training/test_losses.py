from __future__ import annotations

import numpy as np
import torch

from training.losses import bce_dice, lovasz, pool_masks


def plain_lovasz_hinge(logits: np.ndarray, truth: np.ndarray) -> float:
    """By its definition: hinge errors in falling order, each weighed by what it adds to 1 - IoU."""
    errors = np.maximum(0, 1 - logits * (2 * truth - 1))
    order = np.argsort(-(1 - logits * (2 * truth - 1)))
    loss, wrong, before = 0.0, np.zeros(len(truth), bool), 0.0
    for place in order:
        wrong[place] = True
        predicted = np.where(wrong, 1 - truth, truth)
        union = np.count_nonzero((predicted == 1) | (truth == 1))
        jaccard = 1 - np.count_nonzero((predicted == 1) & (truth == 1)) / union
        loss += errors[place] * (jaccard - before)
        before = jaccard
    return loss


def test_lovasz_is_the_mean_over_classes_that_occur_of_the_loss_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    truth = (rng.random((2, 3, 4, 5)) < 0.3).astype(np.float32)
    truth[:, 1] = 0  # a class that does not occur
    expected = np.mean(
        [plain_lovasz_hinge(logits[:, c].ravel(), truth[:, c].ravel()) for c in (0, 2)]
    )
    found = lovasz(torch.from_numpy(logits), torch.from_numpy(truth))
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)


def test_losses_of_coarse_logits_take_masks_of_their_stride() -> None:
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4, :] = 1
    truth = pool_masks(truth, 4)
    right = torch.full((1, 1, 2, 2), -9.0)
    right[..., 0, :] = 9.0
    assert float(lovasz(right, truth)) == 0
    assert float(bce_dice(right, truth, torch.ones(1))) < 0.05
    assert float(lovasz(-right, truth)) > 5


def test_lovasz_without_a_defect_is_zero_and_has_a_gradient() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    loss = lovasz(logits, torch.zeros(1, 2, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
