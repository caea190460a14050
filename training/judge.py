"""Run a network over a dataset, to choose thresholds and to compute the card's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from steel_batch import interrupt
from steel_batch.images.decode import fit_to, mask_to_source
from steel_batch.masks.defects import describe_defects
from steel_batch.masks.rle import decode_rle
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK, PostProcess
from training.batches import Examples
from training.dataset import Dataset
from training.metrics import Judged, Metrics, evaluate
from training.model import ContractGraph


def probabilities(
    graph: ContractGraph, dataset: Dataset, height: int, width: int
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]:
    """Yield probabilities [C, H, W] at the engine's size and the true bitmask, per example."""
    for index in range(len(dataset.examples)):
        interrupt.check()
        image_HW, truth_HW = dataset.load(index)
        batch = torch.from_numpy(np.ascontiguousarray(fit_to(image_HW, height, width, "fit")))
        with torch.no_grad():
            logits = graph.logits(batch[None, None].to(graph.limits.device))
        yield torch.sigmoid(logits[0]).cpu().numpy(), truth_HW


def judge_network(graph: ContractGraph, examples: Examples, *, batch_size: int = 16) -> Metrics:
    """Evaluate a network at its thresholds, without post-processing, on its own device."""
    return evaluate(_foreseen(graph.eval(), examples, batch_size), examples.dataset.num_classes)


def _foreseen(graph: ContractGraph, examples: Examples, batch_size: int) -> Iterator[Judged]:
    for start in range(0, len(examples), batch_size):
        interrupt.check()
        pairs = [examples.load(i) for i in range(start, min(start + batch_size, len(examples)))]
        images = torch.from_numpy(np.stack([image_HW for image_HW, _ in pairs])).unsqueeze(1)
        with torch.no_grad():
            mask, peak, _ = graph(images.to(graph.limits.device))
        masks, peaks = mask[:, 0].cpu().numpy(), peak.cpu().numpy()
        for (_, truth_HW), mask_HW, peak_C in zip(pairs, masks, peaks, strict=True):
            yield Judged(predicted_HW=mask_HW, truth_HW=truth_HW, peak_C=peak_C)


def judge(
    session: Any,
    dataset: Dataset,
    post: PostProcess,
    height: int,
    width: int,
    on_image: Callable[[Judged], None] = lambda _: None,
) -> Metrics:
    """Evaluate an exported graph with its post-processing, as `score` would use it.

    Args:
        session: An ONNX Runtime session of the graph.
        dataset: Held-out examples.
        post: The version's post-processing settings.
        height: Height of the engine's input.
        width: Width of the engine's input.
        on_image: Called with each image's result, in the order of the examples.
    """

    def seen() -> Iterator[Judged]:
        for judged in judge_images(session, dataset, post, height, width):
            on_image(judged)
            yield judged

    return evaluate(seen(), dataset.num_classes)


def judge_images(
    session: Any, dataset: Dataset, post: PostProcess, height: int, width: int
) -> Iterator[Judged]:
    """Yield truth and prediction of each example, at the example's own size; see `judge`."""
    for index in range(len(dataset)):
        interrupt.check()
        image_HW, truth_HW = dataset.load(index)
        batch = fit_to(image_HW, height, width, "fit")[None, None]
        mask, peak, count = session.run([MASK, PEAK, COUNT], {IMAGE: batch})
        mask_HW = mask[0, 0]
        if truth_HW.shape != mask_HW.shape:
            mask_HW = mask_to_source(mask_HW, *truth_HW.shape)
        kept_HW = np.zeros_like(truth_HW)
        defects = describe_defects([mask_HW], peak, count, post, engine_px=height * width)
        for defect in defects[0].as_py():
            class_HW = decode_rle(defect["rle"], *truth_HW.shape)
            kept_HW |= class_HW << np.uint8(defect["class_id"] - 1)
        yield Judged(predicted_HW=kept_HW, truth_HW=truth_HW, peak_C=peak[0])
