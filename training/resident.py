"""Crops made on a GPU, from images in its memory.

The random parameters are those of `training.batches`; for each crop, one row of numbers is copied
to the GPU. All tensors have the same shape in every step, so that the step can be recorded. Levels
may differ by one from OpenCV's. Shape suffixes: N crops, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor

from training.augment import noise_bank
from training.batches import Batch, Choice, Examples
from training.recipe import TrainConfig

MOST_OF_FREE_MEMORY: Final = 0.4
"""Share of free memory for images; the rest is for the network."""
_INDEX, _MASK, _LEFT, _UP, _BACK, _TURN, _CONTRAST, _GAIN, _SHIFT, _NOISE, _START = range(11)
_MATRIX: Final = slice(11, 17)
_RECTANGLE: Final = slice(17, 21)
NUM_NUMBERS: Final = 21
"""Numbers per crop."""


def fits(examples: Examples, free_bytes: int) -> bool:
    """Return whether all images, masks and teachers' answers fit in a GPU's memory."""
    needed = examples.num_kept_bytes
    if examples.lessons is not None:
        needed += len(examples) * int(np.prod(examples.lessons.shape_CHW))
    return needed <= MOST_OF_FREE_MEMORY * free_bytes


class ResidentCrops:
    """Makes the crops of a step on the GPU.

    Args:
        examples: The images; each is read once, here, and kept on the GPU.
        config: The recipe.
        device: The GPU.
        num_threads: Threads that read images.
    """

    def __init__(
        self, examples: Examples, config: TrainConfig, device: torch.device, num_threads: int
    ) -> None:
        height, width = examples.size
        self._height, self._full_width = height, width
        self._width = min(config.augment.crop_width, width)
        self._augment = config.augment
        self._device = device
        has_mask = [bool(example.masks) for example in examples.examples]
        self._mask_of = np.where(has_mask, np.cumsum(has_mask), 0)  # 0 is an empty mask
        shape = (height * width,)
        self._images = torch.empty((len(examples), *shape), dtype=torch.uint8, device=device)
        self._masks = torch.zeros((sum(has_mask) + 1, *shape), dtype=torch.uint8, device=device)
        lessons = examples.lessons
        self._answers = None
        if lessons is not None:
            answers = (len(examples), lessons.shape_CHW[0], *shape)
            self._answers = torch.empty(answers, dtype=torch.uint8, device=device)

        def read(index: int) -> None:
            image_HW, bitmask_HW = examples.read(index)
            self._images[index] = torch.from_numpy(np.ascontiguousarray(image_HW)).view(-1)
            examples.know_columns(index, bitmask_HW)
            if has_mask[index]:
                mask = torch.from_numpy(np.ascontiguousarray(bitmask_HW)).view(-1)
                self._masks[int(self._mask_of[index])] = mask
            if lessons is not None and self._answers is not None:
                answer = torch.from_numpy(lessons.answer(index).copy())
                self._answers[index] = answer.flatten(1)

        with ThreadPoolExecutor(num_threads, "resident") as threads:
            list(threads.map(read, range(len(examples))))
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(self._width, device=device),
            indexing="ij",
        )  # fmt: skip
        self._rows_HW, self._columns_HW = rows, columns
        bank = noise_bank(height * self._width) if config.augment.noise else np.zeros(1, np.float32)
        self._noise = torch.from_numpy(bank).to(device)

    def numbers(self, choices: Sequence[Choice]) -> Batch:
        """Encode the parameters of a step's crops in one tensor, on the CPU."""
        rows = [self._row(choice) for choice in choices]
        if self._augment.mix_share:
            rows += [self._row(choice.other or choice) for choice in choices]
        return (torch.from_numpy(np.array(rows, np.float64)),)

    def make(self, numbers: Tensor) -> Batch:
        """Make the crops that `numbers` describes; it is on the GPU already."""
        layers = self._place(numbers)
        if self._augment.mix_share:
            half = len(numbers) // 2
            inside = self._inside(numbers[:half])
            layers = [
                torch.where(inside.unsqueeze(1) if layer.ndim > 3 else inside, layer[half:],
                            layer[:half])
                for layer in layers
            ]  # fmt: skip
        image, *others = layers
        return (image.unsqueeze(1), *others)

    def _row(self, choice: Choice) -> list[float]:
        drawn, height = choice.draw, self._height
        matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        if drawn.is_warped:
            matrix = cv2.invertAffineTransform(drawn.matrix(height)).ravel().tolist()
        rectangle = [0, 0, 0, 0]
        if choice.rectangle is not None:
            rectangle = [edge for side in choice.rectangle for edge in (side.start, side.stop)]
        return [
            choice.index, int(self._mask_of[choice.index]), drawn.left, drawn.upside_down,
            drawn.reversed, drawn.transposed, drawn.contrast, drawn.gain, drawn.shift,
            drawn.deviation or 0.0, drawn.noise_start, *matrix, *rectangle,
        ]  # fmt: skip

    def _inside(self, numbers: Tensor) -> Tensor:
        top, bottom, left, right = numbers[:, _RECTANGLE, None, None].long().unbind(1)
        rows, columns = self._rows_HW, self._columns_HW
        return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)

    def _place(self, numbers: Tensor) -> list[Tensor]:
        """Return image, bitmask and answer of each crop."""

        def of(number: int) -> Tensor:
            return numbers[:, number, None, None]

        turned = of(_TURN) > 0
        y = torch.where(turned, self._columns_HW, self._rows_HW)
        x = torch.where(turned, self._rows_HW, self._columns_HW)
        y = torch.where(of(_UP) > 0, self._height - 1 - y, y)
        x = torch.where(of(_BACK) > 0, self._width - 1 - x, x)
        left = of(_LEFT).long()
        image, mask = of(_INDEX).long(), of(_MASK).long()
        answers = self._answers
        if not (self._augment.zoom or self._augment.rotate_degrees):
            place = y * self._full_width + x + left
            level = self._images[image, place].float()
            bitmask = self._masks[mask, place]
            answer = None if answers is None else self._answer(answers, image, place)
        else:
            a, b, c, d, e, f = (of(number).float() for number in range(*_MATRIX.indices(99)))
            x, y = x.float(), y.float()
            source_x, source_y = a * x + b * y + c, d * x + e * y + f
            nearest = self._flat(source_x.round(), source_y.round()) + left
            bitmask = self._masks[mask, nearest]
            answer = None if answers is None else self._answer(answers, image, nearest)
            level = self._between(image, left, source_x, source_y).round()
        level = self._expose(level, numbers)
        return [level, bitmask] if answer is None else [level, bitmask, answer]

    @staticmethod
    def _answer(answers: Tensor, image: Tensor, place: Tensor) -> Tensor:
        classes = torch.arange(answers.shape[1], device=answers.device)[:, None, None]
        return answers[image[:, None], classes, place[:, None]]

    def _flat(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the offset in an image of coordinates in a crop, mirrored outside the image."""
        x, y = (_mirrored(x, self._width), _mirrored(y, self._height))
        return y.long() * self._full_width + x.long()

    def _between(self, image: Tensor, left: Tensor, x: Tensor, y: Tensor) -> Tensor:
        before_x, before_y = x.floor(), y.floor()
        share_x, share_y = x - before_x, y - before_y
        corners = [
            self._images[image, self._flat(before_x + right, before_y + below) + left].float()
            for below in (0, 1)
            for right in (0, 1)
        ]
        above = corners[0] + (corners[1] - corners[0]) * share_x
        below = corners[2] + (corners[3] - corners[2]) * share_x
        return above + (below - above) * share_y

    def _expose(self, level: Tensor, numbers: Tensor) -> Tensor:
        """See `augment.Draw.expose`."""
        number = numbers.unsqueeze(-1)
        contrast, gain, shift = number[:, _CONTRAST], number[:, _GAIN], number[:, _SHIFT]
        flat = level.flatten(1)
        offset = shift
        if self._augment.contrast:
            mean = flat.mean(1, keepdim=True)
            offset = mean * (1 - contrast) * gain + shift
        varied = flat * (contrast * gain).float() + offset.float()
        if self._augment.noise:
            start = number[:, _START].long()
            places = torch.arange(flat.shape[1], device=flat.device)
            noise = self._noise[start + places] * number[:, _NOISE].float()
            varied = (varied + noise - 0.5).round()
        return varied.clamp(0, 255).to(torch.uint8).view(level.shape)


def _mirrored(places: Tensor, size: int) -> Tensor:
    """Mirror positions below 0 or from `size` on at the first and last pixel."""
    if size == 1:
        return torch.zeros_like(places)
    around = 2 * (size - 1)
    places = places.remainder(around)
    return torch.minimum(places, around - places)
