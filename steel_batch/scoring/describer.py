"""Describes the masks and the looks of a batch, in this process or in child processes.

An actor on a GPU makes many small calls to its device, and each waits for the interpreter's lock if
other threads describe masks. So there, child processes describe them. A child gets the masks and
the sample rows in memory that it shares with the actor and the request on its standard input; its
answer on standard output is an Arrow stream. Nothing is unpickled. A child ends when its standard
input is closed, which also happens if the actor is killed.

Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, BinaryIO, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from steel_batch.errors import ClusterError
from steel_batch.images.appearance import MEASURES, measure, row_step
from steel_batch.images.decode import mask_to_source
from steel_batch.images.isolate import start_child
from steel_batch.masks.defects import describe_defects
from steel_batch.registry.card import PostProcess

Masks = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

_EMPTY_HW: Final = np.zeros((1, 1), np.uint8)
"""Placeholder for the mask of an image without pixels; never read."""
_REQUEST: Final = struct.Struct("<qq")
_LENGTH: Final = struct.Struct("<q")
_STARTS: Final = 2


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
    ) -> tuple[pa.ListArray, Scores]:
        """Compute the column ``defects`` of a batch, and `appearance.MEASURES` of its images.

        Args:
            marked: Indices of the images whose masks are in `mask_NHW`.
            sizes: Height and width of the source images.
            peak_NC: Highest probability per image and class.
            count_NC: Number of pixels per image and class.
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
    ) -> tuple[pa.ListArray, Scores]:
        """See `Describer`."""
        post_process = self._post_process
        defects = _describe(self._mask_NHW, marked, sizes, peak_NC, count_NC, post_process)
        return defects, measure(self._sample_NHW[: len(peak_NC)])

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class ChildDescriber:
    """Describes masks in a child process.

    Args:
        shape_NHW: Shape of a batch of masks.
        num_classes: Number of classes in its scores.
        post_process: Post-processing settings of the card.

    Raises:
        ClusterError: A process cannot be started.
    """

    def __init__(
        self, shape_NHW: tuple[int, int, int], num_classes: int, post_process: PostProcess
    ) -> None:
        self._child: Any = None
        self._post_process = post_process
        self._file = os.memfd_create("masks")
        os.ftruncate(self._file, _Shared.num_bytes(shape_NHW, num_classes))
        self._shared = _Shared(self._file, shape_NHW, num_classes)
        try:
            self._start()
        except ClusterError:
            self.close()
            raise

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
    ) -> tuple[pa.ListArray, Scores]:
        """See `Describer`.

        Raises:
            ClusterError: The process ended, and so did its replacement.
        """
        num, shared = len(peak_NC), self._shared
        shared.marked[: len(marked)] = marked
        shared.sizes[: len(marked)] = sizes
        shared.peak_NC[:num], shared.count_NC[:num] = peak_NC, count_NC
        for _ in range(_STARTS):
            answer = self._ask(_REQUEST.pack(num, len(marked)))
            if answer is not None:
                table = pa.ipc.open_stream(answer).read_all()
                looks = np.column_stack([table[name].to_numpy() for name in MEASURES])
                return table["defects"].combine_chunks(), looks
            end = self._stop()
            self._start()
        raise ClusterError(
            f"the process that describes masks ended {_STARTS} times (exit {end}). Check the "
            "node's memory and its limit of processes."
        )

    def close(self) -> None:
        """End the process; idempotent."""
        self._stop()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _start(self) -> None:
        shape = [*self._shared.mask_NHW.shape, self._shared.peak_NC.shape[1]]
        arguments = [str(self._file), json.dumps(shape), json.dumps(asdict(self._post_process))]
        self._child = start_child(
            "steel_batch.scoring.describer", *arguments, pass_fds=[self._file]
        )

    def _ask(self, request: bytes) -> bytes | None:
        """Send a request and return the child's answer; None if the child is gone."""
        child = self._child
        try:
            child.stdin.write(request)
            child.stdin.flush()
        except BrokenPipeError:
            return None
        head = child.stdout.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        answer = child.stdout.read(length)
        return answer if len(answer) == length else None

    def _stop(self) -> int | None:
        """End the child and return its exit code."""
        child, self._child = self._child, None
        if child is None:
            return None
        child.kill()  # it has no state to lose
        child.communicate()
        return int(child.returncode)


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
        memory = mmap.mmap(file, self.num_bytes(shape_NHW, num_classes))
        num, position = shape_NHW[0], 0

        def take(dtype: Any, *shape: int) -> npt.NDArray[Any]:
            nonlocal position
            array = np.frombuffer(memory, dtype, int(np.prod(shape)), position).reshape(shape)
            position += array.nbytes
            return array

        self.peak_NC: Scores = take(np.float32, num, num_classes)
        self.count_NC: Scores = take(np.float32, num, num_classes)
        self.marked: npt.NDArray[np.int32] = take(np.int32, num)
        self.sizes: npt.NDArray[np.int32] = take(np.int32, num, 2)
        self.mask_NHW: Masks = take(np.uint8, *shape_NHW)
        self.sample_NHW: Masks = take(np.uint8, *_sample_shape(shape_NHW))

    @staticmethod
    def num_bytes(shape_NHW: tuple[int, int, int], num_classes: int) -> int:
        """Size of the memory."""
        num_rows = shape_NHW[1] + _sample_shape(shape_NHW)[1]
        return shape_NHW[0] * (8 * num_classes + 12 + num_rows * shape_NHW[2])


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


def _serve(arguments: Sequence[str], source: BinaryIO, sink: BinaryIO) -> None:
    file, shape, settings = map(json.loads, arguments)
    *shape_NHW, num_classes = shape
    shared, post_process = _Shared(file, tuple(shape_NHW), num_classes), PostProcess(**settings)
    while request := source.read(_REQUEST.size):
        num, num_marked = _REQUEST.unpack(request)
        defects = _describe(
            shared.mask_NHW,
            shared.marked[:num_marked].tolist(),
            shared.sizes[:num_marked],
            shared.peak_NC[:num],
            shared.count_NC[:num],
            post_process,
        )
        looks = measure(shared.sample_NHW[:num]).T
        table = pa.table([defects, *map(pa.array, looks)], names=["defects", *MEASURES])
        answer = pa.BufferOutputStream()
        with pa.ipc.new_stream(answer, table.schema) as writer:
            writer.write_table(table)
        content = answer.getvalue()
        sink.write(_LENGTH.pack(content.size))
        sink.write(content)
        sink.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the actor ends this process
    _serve(sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)
