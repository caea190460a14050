"""What a runtime of an engine must provide, and the tensors of its graph.

Shape suffixes: N images of a batch, C classes, H rows, W columns.

The graph of every engine is one self-contained ONNX file::

    image uint8 [N,1,H,W] ─▶ normalise ─▶ network ─▶ threshold ─▶ one bit per class
                                             │                         └▶ mask  uint8   [N,1,H,W]
                                             ├▶ peak  float32 [N,C]  highest probability per class
                                             └▶ count float32 [N,C]  pixels over the threshold

Bit c of a mask's pixel is class c+1. A count is 0 exactly if no pixel has the class's bit: masks
without counts are not read. `registry.graph` checks the answers when a graph is registered, and in
every batch on the CPU. Thresholds are part of the graph; minimum areas are applied
afterwards and are part of the card (`registry.card`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Peaks and counts of one batch; views that are valid until the slot is released."""

    peak_NC: npt.NDArray[np.float32]
    count_NC: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """All that the graph answers for one batch, in arrays of its own; see `infer_all`."""

    mask_NHW: npt.NDArray[np.uint8]
    peak_NC: npt.NDArray[np.float32]
    count_NC: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What produced an engine's rows; stored in each row (`schema.PROVENANCE`)."""

    runtime: str
    """``onnxruntime``, ``tensorrt`` or ``tensorrt_rtx``."""
    runtime_version: str
    precision: str
    """Precision of the loaded graph or compiled plan: ``fp32``, ``fp16`` or ``int8``."""
    device: str
    """The GPU's name, or ``cpu``."""


class Slot(Protocol):
    """Buffers of one batch in flight: `load_jpegs`, fill `image_NHW`, `infer`, then `copy_out`."""

    @property
    def image_NHW(self) -> npt.NDArray[np.uint8]:
        """Where to write the batch's pixels; writable, of the full batch size."""

    @property
    def jpeg_decoder(self) -> str | None:
        """Name and version of what decodes in `load_jpegs`; None if it decodes nothing."""

    def load_jpegs(self, jpegs: Mapping[int, Any]) -> frozenset[int]:
        """Decode JPEGs on the device, as far as possible, before the next `infer` of this slot.

        Pixels are those of `decode.decode_gray`, within one gray level.

        Args:
            jpegs: Plain JPEGs of the engine's size (`jpeg.is_plain_jpeg`) that passed
                `decode.check_jpeg`, by their index in the batch.

        Returns:
            The indices that need no pixels; `infer` takes the others from `image_NHW`.
        """

    def infer(self, num_images: int) -> Figures:
        """Run the engine on the first `num_images` images and wait, without holding the GIL.

        Masks remain where the engine wrote them, as most of them are empty.
        """

    def copy_out(
        self,
        places: Sequence[int],
        mask_NHW: npt.NDArray[np.uint8],
        sample_NHW: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Copy masks and rows of the images of the last `infer`, and wait without the GIL.

        Args:
            places: Indices of the images whose masks are copied, ascending; of the last `infer`.
            mask_NHW: Where to write them, one after the other; as many as `places`.
            sample_NHW: Where to write every `appearance.row_step`-th row of the batch's first
                images, as the engine saw them: of as many images as this has; None: nowhere.

        Raises:
            IndexError: The last `infer` had fewer images.
        """


class Runtime(Protocol):
    """A loaded engine. Thread-safe: each thread acquires its own slot."""

    @property
    def batch_size(self) -> int:
        """Maximum number of images of one `infer`."""

    @property
    def num_slots(self) -> int:
        """Number of batches that can be in flight; further threads wait in `acquire`."""

    @property
    def description(self) -> str:
        """Runtime, version, device and precision in one line."""

    @property
    def provenance(self) -> Provenance:
        """What produces the rows of its batches."""

    def acquire(self) -> AbstractContextManager[Slot]:
        """Wait for a free slot and hold it for a `with` block."""

    def register(self, memory: npt.NDArray[np.uint8]) -> None:
        """Prepare memory as a target of `copy_out`: a device then writes to it directly.

        Args:
            memory: Contiguous; it is kept until the runtime is closed.
        """

    def close(self) -> None:
        """Free everything; idempotent."""


def infer_all(slot: Slot, num_images: int) -> Output:
    """Run the engine on the first `num_images` images of a slot and copy all that it answers."""
    figures = slot.infer(num_images)
    _, height, width = slot.image_NHW.shape
    mask_NHW = np.empty((num_images, height, width), np.uint8)
    slot.copy_out(range(num_images), mask_NHW)
    return Output(
        mask_NHW=mask_NHW, peak_NC=figures.peak_NC.copy(), count_NC=figures.count_NC.copy()
    )
