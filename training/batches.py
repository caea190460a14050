"""Batches of crops, made ahead of time by threads; the same for any number of threads.

A batch depends only on the recipe's seed and the step, and a crop only on its position in the
batch. A run that was resumed, or is spread over several processes, sees the same crops.
Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steel_batch.images.decode import fit_to, mask_to_source
from training.augment import Draw, defect_columns, draw, draw_rectangle, paste
from training.dataset import Dataset, Example
from training.lessons import Lessons
from training.recipe import TrainConfig

Pixels = npt.NDArray[np.uint8]
Batch = tuple[Tensor, ...]
"""uint8 images [N, 1, H, W], bitmasks [N, H, W] and, with teachers, their answers [N, C, H, W]."""


class Examples:
    """A dataset at one size, decoded once if all of it fits in memory.

    Args:
        dataset: Images of other sizes are scaled, as `score` does with ``resize: fit``.
        size: Height and width of the engine's input.
        cache_bytes: Memory limit of all decoded images and bitmasks.
        lessons: The teachers' answers for the dataset's images, and additional images.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        cache_bytes: int,
        lessons: Lessons | None = None,
    ) -> None:
        self.dataset = dataset
        self.lessons = lessons
        self.examples: tuple[Example, ...] = dataset.examples
        self._more = None if lessons is None else lessons.unlabelled
        if self._more is not None:
            self.examples += self._more.examples
        self.size = size
        self.num_kept_bytes = (
            size[0] * size[1] * sum(1 + bool(example.masks) for example in self.examples)
        )
        """Bytes of the decoded images, and of the bitmasks of images with defects."""
        self.is_cached = self.num_kept_bytes <= cache_bytes
        self._kept: dict[int, tuple[Pixels, Pixels]] = {}
        self._columns: dict[int, npt.NDArray[np.intp]] = {}
        self._clean_HW = np.zeros(size, np.uint8)  # the bitmask of each clean image

    def __len__(self) -> int:
        return len(self.examples)

    def load(self, index: int) -> tuple[Pixels, Pixels]:
        """Return one image and its bitmask, [H, W] each; read-only."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        found = self.read(index)
        if self.is_cached:
            self._kept[index] = found
        return found

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Like `load`, but without caching."""
        here = len(self.dataset)
        if index < here or self._more is None:
            image_HW, bitmask_HW = self.dataset.load(index)
        else:
            image_HW, bitmask_HW = self._more.load(index - here)
        if image_HW.shape != self.size:
            image_HW = fit_to(image_HW, *self.size, "fit")
            bitmask_HW = mask_to_source(bitmask_HW, *self.size)
        if not self.examples[index].masks:
            bitmask_HW = self._clean_HW
        return image_HW, bitmask_HW

    def columns(self, index: int) -> npt.NDArray[np.intp]:
        """Return the columns of an image that contain a defect; cached."""
        columns = self._columns.get(index)
        if columns is None:
            columns = self._columns[index] = defect_columns(self.load(index)[1])
        return columns

    def know_columns(self, index: int, bitmask_HW: Pixels) -> None:
        """Store an image's `columns`, so that the image need not be loaded for them."""
        self._columns[index] = defect_columns(bitmask_HW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One crop: its image, its parameters, and what is pasted from another crop."""

    index: int
    draw: Draw
    other: Choice | None = None
    rectangle: tuple[slice, slice] | None = None


class Sampler:
    """Chooses and augments the crops of each step.

    Each class in the dataset is drawn equally often, however rare it is.

    Args:
        examples: The images to crop.
        config: The recipe.
        rank: Index of this process.
        num_ranks: Number of processes that share each batch.
    """

    def __init__(self, examples: Examples, config: TrainConfig, rank: int, num_ranks: int) -> None:
        self._examples = examples
        self._config = config
        self._places = range(rank, config.batch_size, num_ranks)
        by_class: dict[int, list[int]] = {}
        self._clean: list[int] = []
        for index, example in enumerate(examples.examples):
            for class_id in example.masks:
                by_class.setdefault(class_id, []).append(index)
            if not example.masks:
                self._clean.append(index)
        self._by_class = [by_class[class_id] for class_id in sorted(by_class)]

    def choose(self, step: int) -> list[Choice]:
        """Choose this process's crops of a step, without making them."""
        return [self._choice(step, place) for place in self._places]

    def make(self, step: int) -> Batch:
        """Make this process's share of the batch of a step."""
        layers = zip(*(self._layers(choice) for choice in self.choose(step)), strict=True)
        image, *others = (torch.from_numpy(np.stack(layer)) for layer in layers)
        return (image.unsqueeze(1), *others)

    def _choice(self, step: int, place: int) -> Choice:
        rng = np.random.default_rng((self._config.seed, step, place))
        index, drawn = self._draw(rng)
        share = self._config.augment.mix_share
        if not share or rng.random() >= share:
            return Choice(index=index, draw=drawn)
        other, other_drawn = self._draw(rng)
        return Choice(
            index=index,
            draw=drawn,
            other=Choice(index=other, draw=other_drawn),
            rectangle=draw_rectangle((self._examples.size[0], drawn.width), rng),
        )

    def _draw(self, rng: np.random.Generator) -> tuple[int, Draw]:
        if self._clean and (not self._by_class or rng.random() < self._config.clean_share):
            pool = self._clean
        else:
            pool = self._by_class[int(rng.integers(len(self._by_class)))]
        index = pool[int(rng.integers(len(pool)))]
        columns = self._examples.columns(index)
        return index, draw(self._examples.size, columns, self._config.augment, rng)

    def _layers(self, choice: Choice) -> tuple[Pixels, ...]:
        image_HW, bitmask_HW = self._examples.load(choice.index)
        drawn = choice.draw
        image_HW = drawn.expose(drawn.place(image_HW, between=True))
        layers: tuple[Pixels, ...] = (image_HW, drawn.place(bitmask_HW, between=False))
        lessons = self._examples.lessons
        if lessons is not None:
            answer_CHW = lessons.answer(choice.index)
            placed = [drawn.place(answer_HW, between=False) for answer_HW in answer_CHW]
            layers = (*layers, np.stack(placed))
        if choice.other is None or choice.rectangle is None:
            return layers
        return paste(layers, self._layers(choice.other), choice.rectangle)


def make_ahead(
    make: Callable[[int], Batch], steps: range, num_threads: int, *, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield the batches of some steps in order; threads make up to twice their number ahead.

    Args:
        make: Makes the batch of a step.
        steps: The steps.
        num_threads: Number of threads.
        pin_memory: Whether batches are put into pinned memory, for asynchronous copies to a GPU.
    """

    def make_pinned(step: int) -> Batch:
        return tuple(tensor.pin_memory() for tensor in make(step))

    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(num_threads, "batches")
    try:
        for step in steps:
            waiting.append(pool.submit(make_pinned if pin_memory else make, step))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
