"""What a runtime of an engine must do, and the tensors of its graph.

Shape suffixes: N images of a batch, C classes, H rows, W columns.

The graph of every engine is one self-contained ONNX file::

    image uint8 [N,1,H,W] ─▶ normalise ─▶ network ─▶ threshold ─▶ one bit per class
                                             │                         └▶ mask  uint8   [N,1,H,W]
                                             ├▶ peak  float32 [N,C]  highest probability per class
                                             └▶ count float32 [N,C]  pixels over the threshold

Bit c of a mask's pixel is class c+1. Thresholds are part of the graph; minimum areas are applied
afterwards and stand in the card (`registry.card`).
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
    """What the graph says of one batch; views that are valid until the slot is released."""

    mask_NHW: npt.NDArray[np.uint8]
    peak_NC: npt.NDArray[np.float32]
    count_NC: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What makes an engine's rows; each row says it (`schema.PROVENANCE`)."""

    runtime: str
    """``onnxruntime``, ``tensorrt`` or ``tensorrt_rtx``."""
    runtime_version: str
    precision: str
    """Of the graph or compiled plan that is loaded: ``fp32``, ``fp16`` or ``int8``."""
    device: str
    """The GPU's name, or ``cpu``."""


class Slot(Protocol):
    """The buffers of one batch in flight. `load_jpegs` if you like, fill `image_NHW`, `infer`."""

    @property
    def image_NHW(self) -> npt.NDArray[np.uint8]:
        """Where the batch's pixels go; writable, of the full batch size."""

    @property
    def jpeg_decoder(self) -> str | None:
        """What decodes the JPEGs that `load_jpegs` loads, with its version; None: it loads none."""

    def load_jpegs(self, jpegs: Mapping[int, Any]) -> frozenset[int]:
        """Decode JPEGs on the device, as far as it can, before the next `infer` on it.

        Pixels are those of `decode.decode_gray`, give or take one gray level.

        Args:
            jpegs: Plain ones of the engine's size (`jpeg.is_plain_jpeg`) that passed
                `decode.check_jpeg`, by their place in the batch.

        Returns:
            The places that the next `infer` finds decoded; it takes the others from `image_NHW`.
        """

    def infer(self, num_images: int) -> Output:
        """Run the engine on the first `num_images` images and wait, without the GIL."""


class Runtime(Protocol):
    """A loaded engine. Thread-safe: each thread acquires its own slot."""

    @property
    def batch_size(self) -> int:
        """The most images of one `infer`."""

    @property
    def num_slots(self) -> int:
        """How many batches can be in flight; more threads than this wait in `acquire`."""

    @property
    def description(self) -> str:
        """Runtime, version, device and precision in one line."""

    @property
    def provenance(self) -> Provenance:
        """What makes the rows of its batches."""

    def acquire(self) -> AbstractContextManager[Slot]:
        """Wait for a free slot and hold it for a `with` block."""

    def close(self) -> None:
        """Free everything; idempotent."""
