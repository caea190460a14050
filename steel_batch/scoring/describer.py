"""Describes the masks and the looks of a batch, in this process or in child processes.

A child (`scoring.child`) gets the masks and the sample rows in memory that it shares with the
actor. What is said of a batch stays an Arrow stream until its shard's rows are made.

Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch.images.appearance import measure, row_step
from steel_batch.images.decode import mask_to_source
from steel_batch.masks.defects import describe_defects
from steel_batch.registry.card import PostProcess
from steel_batch.scoring.child import Child, serve
from steel_batch.scoring.description import to_stream

Masks = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

_EMPTY_HW: Final = np.zeros((1, 1), np.uint8)
"""Placeholder for the mask of an image without pixels; never read."""
_REQUEST: Final = struct.Struct("<6q")
"""Shape of the batch and number of classes; number of images and of masks."""


class Describer(Protocol):
    """Memory for one batch, and its description. Used by one thread at a time."""

    @property
    def mask_NHW(self) -> Masks:
        """Where to write the masks that have pixels, one after the other."""

    @property
    def sample_NHW(self) -> Masks:
        """Where to write some rows of each image (`appearance.row_step`)."""

    def describe(
        self, marked: Sequence[int], sizes: npt.NDArray[np.int32], peak_NC: Scores, count_NC: Scores
    ) -> bytes:
        """Describe the images of a batch: their defects, and how they look.

        Args:
            marked: Indices of the images whose masks are in `mask_NHW`.
            sizes: Height and width of the source images.
            peak_NC: Highest probability per image and class.
            count_NC: Number of pixels per image and class.

        Returns:
            An Arrow stream; see `description`.
        """

    def close(self) -> None:
        """Free the memory and processes."""


class LocalDescriber:
    """Describes masks in the calling thread."""

    def __init__(self, shape_NHW: tuple[int, int, int], post_process: PostProcess) -> None:
        self._mask_NHW = np.empty(shape_NHW, np.uint8)
        self._sample_NHW = np.empty(_sample_shape(shape_NHW), np.uint8)
        self._post_process = post_process

    @property
    def mask_NHW(self) -> Masks:
        """See `Describer`."""
        return self._mask_NHW

    @property
    def sample_NHW(self) -> Masks:
        """See `Describer`."""
        return self._sample_NHW

    def describe(
        self, marked: Sequence[int], sizes: npt.NDArray[np.int32], peak_NC: Scores, count_NC: Scores
    ) -> bytes:
        """See `Describer`."""
        post_process = self._post_process
        defects = _describe(self._mask_NHW, marked, sizes, peak_NC, count_NC, post_process)
        return bytes(to_stream(defects, measure(self._sample_NHW[: len(peak_NC)])))

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class ChildDescriber:
    """Describes masks in a child process.

    Args:
        post_process: Post-processing settings of the card.

    Raises:
        ClusterError: The process cannot be started.
    """

    def __init__(self, post_process: PostProcess) -> None:
        self._file = os.memfd_create("masks")
        try:
            self._child = Child(
                __name__,
                [str(self._file), json.dumps(asdict(post_process))],
                work="describes masks",
                pass_fds=[self._file],
            )
        except BaseException:
            os.close(self._file)
            raise

    def allocate(
        self, shape_NHW: tuple[int, int, int], num_classes: int, register: Callable[[Masks], None]
    ) -> None:
        """Make the memory for a batch, before the first one.

        Args:
            shape_NHW: Shape of a batch of masks.
            num_classes: Number of classes in its scores.
            register: Called once with all of that memory, as bytes, when it is first used.
        """
        self._memory = _Shared(self._file, shape_NHW, num_classes)
        self._memory.memory[:] = 0  # or the system gives it page by page later
        self._register: Callable[[Masks], None] | None = register

    @property
    def _shared(self) -> _Shared:
        if self._register is not None:
            register, self._register = self._register, None
            register(self._memory.memory)
        return self._memory

    @property
    def mask_NHW(self) -> Masks:
        """See `Describer`."""
        return self._shared.mask_NHW

    @property
    def sample_NHW(self) -> Masks:
        """See `Describer`."""
        return self._shared.sample_NHW

    def describe(
        self, marked: Sequence[int], sizes: npt.NDArray[np.int32], peak_NC: Scores, count_NC: Scores
    ) -> bytes:
        """See `Describer`.

        Raises:
            ClusterError: The process ended, and so did its replacement.
        """
        num, num_marked, shared = len(peak_NC), len(marked), self._shared
        shared.marked[:num_marked] = marked
        shared.sizes[:num_marked] = sizes
        shared.peak_NC[:num], shared.count_NC[:num] = peak_NC, count_NC
        shape = (*shared.mask_NHW.shape, shared.peak_NC.shape[1])
        return self._child.ask(_REQUEST.pack(*shape, num, num_marked))

    @property
    def pid(self) -> int | None:
        """The child's process; None once it is closed."""
        return self._child.pid

    def close(self) -> None:
        """End the process; idempotent."""
        self._child.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _sample_shape(shape_NHW: tuple[int, int, int]) -> tuple[int, int, int]:
    num, height, width = shape_NHW
    return num, height // row_step(height), width


class _Shared:
    """The memory that both processes see: masks, their figures, and some rows of the images.

    Args:
        file: File descriptor of the memory.
        shape_NHW: Shape of the masks.
        num_classes: Number of classes in the scores.
    """

    def __init__(self, file: int, shape_NHW: tuple[int, int, int], num_classes: int) -> None:
        num_rows = shape_NHW[1] + _sample_shape(shape_NHW)[1]
        num_bytes = shape_NHW[0] * (8 * num_classes + 12 + num_rows * shape_NHW[2])
        os.ftruncate(file, num_bytes)
        self.memory: Masks = np.frombuffer(mmap.mmap(file, num_bytes), np.uint8)
        num, position = shape_NHW[0], 0

        def take(dtype: Any, *shape: int) -> npt.NDArray[Any]:
            nonlocal position
            array = np.frombuffer(self.memory, dtype, int(np.prod(shape)), position).reshape(shape)
            position += array.nbytes
            return array

        self.peak_NC: Scores = take(np.float32, num, num_classes)
        self.count_NC: Scores = take(np.float32, num, num_classes)
        self.marked: npt.NDArray[np.int32] = take(np.int32, num)
        self.sizes: npt.NDArray[np.int32] = take(np.int32, num, 2)
        self.mask_NHW: Masks = take(np.uint8, *shape_NHW)
        self.sample_NHW: Masks = take(np.uint8, *_sample_shape(shape_NHW))


def _describe(
    mask_NHW: Masks,
    marked: Sequence[int],
    sizes: npt.NDArray[np.int32],
    peak_NC: Scores,
    count_NC: Scores,
    post_process: PostProcess,
) -> pa.ListArray:
    masks_HW = [_EMPTY_HW] * len(peak_NC)
    for image, mask_HW, size in zip(marked, mask_NHW, sizes.tolist(), strict=False):
        masks_HW[image] = mask_to_source(mask_HW, *size)
    engine_px = mask_NHW.shape[1] * mask_NHW.shape[2]
    return describe_defects(masks_HW, peak_NC, count_NC, post_process, engine_px=engine_px)


def _answers(file: int, settings: str) -> Callable[[bytes], pa.Buffer]:
    """What the child makes of its arguments: a function from a request to what is said of it."""
    post_process = PostProcess(**json.loads(settings))
    share = functools.cache(lambda *shape: _Shared(file, shape[:3], shape[3]))

    def answer(request: bytes) -> pa.Buffer:
        *shape, num, num_marked = _REQUEST.unpack(request)
        shared = share(*shape)
        defects = _describe(
            shared.mask_NHW,
            shared.marked[:num_marked].tolist(),
            shared.sizes[:num_marked],
            shared.peak_NC[:num],
            shared.count_NC[:num],
            post_process,
        )
        return to_stream(defects, measure(shared.sample_NHW[:num]))

    return answer


if __name__ == "__main__":
    serve(_answers(int(sys.argv[1]), sys.argv[2]))
