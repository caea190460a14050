"""What a runtime of an engine must provide, and the tensors of its graph.

Shape suffixes: N images of a batch, C classes, H rows, W columns.

The graph of every engine is one self-contained ONNX file::

    image uint8 [N,1,H,W] ─▶ normalise ─▶ network ─▶ threshold ─▶ one bit per class
                                             │                         └▶ mask  uint8   [N,1,H,W]
                                             ├▶ peak  float32 [N,C]  highest probability per class
                                             └▶ count float32 [N,C]  pixels over the threshold

Bit c of a mask's pixel is class c+1. Thresholds are part of the graph; minimum areas are applied
afterwards and are part of the card (`registry.card`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Output of the graph for one batch; views that are valid until the slot is released."""

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
    """Buffers of one batch in flight: optionally `load_jpegs`, fill `image_NHW`, then `infer`."""

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

    def infer(self, num_images: int) -> Output:
        """Run the engine on the first `num_images` images and wait, without holding the GIL."""

    @property
    def sample_NHW(self) -> npt.NDArray[np.uint8]:
        """Every `appearance.row_step`-th row of the images of the last `infer`, as it saw them."""


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

    def close(self) -> None:
        """Free everything; idempotent."""
