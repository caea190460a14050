"""INT8 graphs: quantised after training with real images, and accepted only if they are as good.

Quantise and dequantise nodes are explicit and symmetric, weights per channel, biases in float, so
ONNX Runtime and TensorRT read the same file. Everything up to the first convolution and from the
last one on stays in float: it costs little and decides where edges are.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from steel_batch.errors import EngineError
from steel_batch.registry.card import IMAGE
from training.metrics import Metrics

CALIBRATIONS: Final = ("percentile", "minmax")
"""Calibration methods for the ranges of activations, in the order in which they are tried."""
PERCENTILE: Final = 99.999
MOST_PERCENTILE_IMAGES: Final = 8
PERCENTILE_BYTES: Final = 2 << 30
"""Memory limit for a percentile: ONNX Runtime keeps every activation of every image for it."""
ACTIVATION_BYTES: Final = 1024
"""Memory for one pixel's activations in a U-Net, a rough upper bound."""
QUANTISED_OPS: Final = ("Conv", "ConvTranspose", "Add", "MaxPool", "Resize")
"""No concatenations: TensorRT 8.5 cannot build a plan of a quantised one, with two scales."""
CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
MOST_DICE_LOST: Final = 0.002
"""Kaggle Dice that an INT8 graph may lose against the FP32 graph."""
MOST_CLASS_DICE_LOST: Final = 0.01
"""Dice on images with the class that it may lose, per class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an INT8 graph is accepted, compared with the FP32 graph on the same images."""

    accepted: bool
    calibration: str | None
    """One of `CALIBRATIONS`; None if there is no INT8 graph."""
    kaggle_dice_lost: float | None
    """Negative if INT8 is better; None if there is no INT8 graph."""
    present_dice_lost: tuple[float | None, ...]
    """Per class; None for a class that does not occur."""
    why: str
    """The reason, as one sentence."""

    @classmethod
    def without(cls, reason: str) -> Verdict:
        """Return the verdict if there is no INT8 graph."""
        return cls(
            accepted=False,
            calibration=None,
            kaggle_dice_lost=None,
            present_dice_lost=(),
            why=f"INT8 is not part of this version: {reason}",
        )


def quantize_graph(
    fp32: bytes, images: Sequence[npt.NDArray[np.uint8]], calibration: str = CALIBRATIONS[0]
) -> bytes:
    """Quantise a graph to INT8, with the same contract.

    Args:
        fp32: The FP32 graph.
        images: Training images to calibrate with: uint8 [H, W] of the engine's size. For a
            percentile, a few of them are taken, evenly spread.
        calibration: One of `CALIBRATIONS`.

    Raises:
        EngineError: The graph has too few convolutions, or cannot be quantised.
    """
    model = onnx.load_model_from_string(fp32)
    nodes = model.graph.node
    ops = [node.op_type for node in nodes]
    end = ops.index("Greater") if "Greater" in ops else len(ops)  # masks are computed from here on
    places = [place for place, op in enumerate(ops[:end]) if op in CONVOLUTIONS]
    if len(places) < 3:
        raise EngineError(
            f"the graph has {len(places)} convolutions, expected 3 or more: there is nothing to "
            "quantise between the first and the last."
        )
    for place, node in enumerate(nodes):  # names are needed below, and exporters may omit them
        node.name = node.name or f"node_{place}"
    kept = [node.name for node in (*nodes[: places[0] + 1], *nodes[places[-1] :])]
    # The bias of a linear layer: TensorRT refuses a quantised constant next to a float product.
    constants = {tensor.name for tensor in model.graph.initializer}
    kept += [node.name for node in nodes if node.op_type == "Add" and constants & {*node.input}]
    if calibration == "percentile":
        most = PERCENTILE_BYTES // (images[0].size * ACTIVATION_BYTES)
        images = images[:: -(-len(images) // max(1, min(most, MOST_PERCENTILE_IMAGES)))]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(model, source)
        try:
            quantize_static(
                str(source),
                str(target),
                _Images(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED_OPS),
                nodes_to_exclude=kept,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=(
                    CalibrationMethod.Percentile
                    if calibration == "percentile"
                    else CalibrationMethod.MinMax
                ),
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "CalibPercentile": PERCENTILE,
                    # TensorRT refuses INT32 biases; ONNX Runtime quantises them when it loads.
                    "QuantizeBias": False,
                },
            )
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"ONNX Runtime cannot quantise this graph: {error}") from error
        return target.read_bytes()


def compare(master: Metrics, quantised: Metrics, calibration: str = CALIBRATIONS[0]) -> Verdict:
    """Compare an INT8 graph with the FP32 graph; both figures are of the same images."""
    lost = master.kaggle_dice - quantised.kaggle_dice
    by_class = tuple(
        None
        if before.present_dice is None or after.present_dice is None
        else before.present_dice - after.present_dice
        for before, after in zip(master.classes, quantised.classes, strict=True)
    )
    too_much = [
        f"class {number} loses {value:.4f} present-only Dice, more than {MOST_CLASS_DICE_LOST}"
        for number, value in enumerate(by_class, start=1)
        if value is not None and value > MOST_CLASS_DICE_LOST
    ]
    if lost > MOST_DICE_LOST:
        too_much.insert(0, f"Kaggle Dice falls by {lost:.4f}, more than {MOST_DICE_LOST}")
    why = (
        f"INT8 is not part of this version: {'; '.join(too_much)}."
        if too_much
        else f"INT8 is part of this version: Kaggle Dice changes by {0.0 - lost:+.4f}, no class's "
        f"present-only Dice falls by more than {MOST_CLASS_DICE_LOST}."
    )
    return Verdict(
        accepted=not too_much,
        calibration=calibration,
        kaggle_dice_lost=lost,
        present_dice_lost=by_class,
        why=why,
    )


class _Images(CalibrationDataReader):  # type: ignore[misc] # the library has no types
    def __init__(self, images: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """Return one image as a batch, and None after the last."""
        image_HW = next(self._images, None)
        return None if image_HW is None else {IMAGE: np.ascontiguousarray(image_HW)[None, None]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's progress off stdout, and its advice off the log."""
    nothing = logging.NullHandler()  # without a handler, its first record would install one

    def is_ours(record: logging.LogRecord) -> bool:
        return record.module != "quantize"

    logging.root.addHandler(nothing)
    logging.root.addFilter(is_ours)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.removeFilter(is_ours)
        logging.root.removeHandler(nothing)
