"""Batches of crops, made ahead by threads, the same whoever makes them and how many.

What a batch holds depends on the recipe's seed and the step alone, and each crop on its place in
the batch: a run that was interrupted, or spread over several processes, sees the same crops.
Shape suffixes: N images, H rows, W columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steel_batch.images.decode import fit_to, mask_to_source
from training.augment import crop, paste
from training.dataset import Dataset
from training.recipe import TrainConfig

Pixels = npt.NDArray[np.uint8]
Batch = tuple[Tensor, Tensor]
"""uint8 images [N, 1, H, W] and bitmasks [N, H, W]."""


class Examples:
    """A dataset at one size, decoded once where all of it fits into memory.

    Args:
        dataset: Images of other sizes are scaled, as `score` does under ``resize: fit``.
        size: Height and width of the engine.
        cache_bytes: What the decoded images and bitmasks may take together.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int], cache_bytes: int) -> None:
        self.dataset = dataset
        self.size = size
        num_kept = len(dataset) + sum(bool(example.masks) for example in dataset.examples)
        self.is_cached = num_kept * size[0] * size[1] <= cache_bytes
        self._kept: dict[int, tuple[Pixels, Pixels]] = {}
        self._clean_HW = np.zeros(size, np.uint8)  # the bitmask of each clean image

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int) -> tuple[Pixels, Pixels]:
        """One image and its bitmask, [H, W] each; not to be written to."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image_HW, bitmask_HW = self.dataset.load(index)
        if image_HW.shape != self.size:
            image_HW = fit_to(image_HW, *self.size, "fit")
            bitmask_HW = mask_to_source(bitmask_HW, *self.size)
        if not self.dataset.examples[index].masks:
            bitmask_HW = self._clean_HW
        if self.is_cached:
            self._kept[index] = (image_HW, bitmask_HW)
        return image_HW, bitmask_HW


class Sampler:
    """Chooses and varies the crops of each step.

    Each class that occurs is drawn as often as any other, however rare it is.

    Args:
        examples: Where crops come from.
        config: The recipe.
        rank: Which of the processes this is.
        num_ranks: How many share each batch.
    """

    def __init__(self, examples: Examples, config: TrainConfig, rank: int, num_ranks: int) -> None:
        self._examples = examples
        self._config = config
        self._places = range(rank, config.batch_size, num_ranks)
        by_class: dict[int, list[int]] = {}
        self._clean: list[int] = []
        for index, example in enumerate(examples.dataset.examples):
            for class_id in example.masks:
                by_class.setdefault(class_id, []).append(index)
            if not example.masks:
                self._clean.append(index)
        self._by_class = [by_class[class_id] for class_id in sorted(by_class)]

    def make(self, step: int) -> Batch:
        """This process's share of the batch of a step."""
        images, bitmasks = zip(*(self._crop(step, place) for place in self._places), strict=True)
        return (
            torch.from_numpy(np.stack(images)).unsqueeze(1),
            torch.from_numpy(np.stack(bitmasks)),
        )

    def _crop(self, step: int, place: int) -> tuple[Pixels, Pixels]:
        rng = np.random.default_rng((self._config.seed, step, place))
        crop_HW = self._draw(rng)
        share = self._config.augment.mix_share
        if share and rng.random() < share:
            return paste(crop_HW, self._draw(rng), rng)
        return crop_HW

    def _draw(self, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        if self._clean and (not self._by_class or rng.random() < self._config.clean_share):
            pool = self._clean
        else:
            pool = self._by_class[int(rng.integers(len(self._by_class)))]
        index = pool[int(rng.integers(len(pool)))]
        return crop(*self._examples.load(index), self._config.augment, rng)


def make_ahead(
    sampler: Sampler, steps: range, num_threads: int, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches of some steps in order; threads make up to twice their number ahead.

    Args:
        sampler: Makes them.
        steps: The steps to make batches of.
        num_threads: Threads that make batches.
        pin_memory: Let the threads put batches where a GPU copies them from by itself.
    """

    def make(step: int) -> Batch:
        image, bitmask = sampler.make(step)
        return (image.pin_memory(), bitmask.pin_memory()) if pin_memory else (image, bitmask)

    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(num_threads, "batches")
    try:
        for step in steps:
            waiting.append(pool.submit(make, step))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
