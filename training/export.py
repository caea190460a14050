"""Export a trained network as the ONNX graphs of the contract, and verify them.

Every TensorRT from 8.5 on parses opset 17 as the TorchScript exporter writes it. Resizes get
constant scales, which every parser accepts, and which ONNX Runtime runs in its blocked layout.
Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import shape_inference
from torch.onnx.errors import OnnxExporterError

from steel_batch.errors import EngineError
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK
from steel_batch.silence import STDOUT, silenced
from training.model import UNFIT, ContractGraph
from training.quicken import quicken
from training.resampling import ConstantResampling
from training.rewrite import halve, simplify
from training.session import open_session

OPSET: Final = 17
CHOOSE: Final = "Choose another --architecture or --encoder."
WIDEST_BAND: Final = {"fp32": 0.01, "fp16": 1.0}
"""Pixels whose logit is closer to the threshold than this may differ from PyTorch in float32."""
MOST_DIFFERING: Final = {"fp32": 1e-4, "fp16": 1e-3}
"""Share of all pixels that may differ."""
PEAK_TOLERANCE: Final = {"fp32": 0.001, "fp16": 0.02}

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How much a graph's outputs differ from the network's in PyTorch, float32."""

    num_pixels: int
    num_differing: int
    """Pixels with a different mask."""
    band: float
    """Largest distance of such a pixel's logit from the threshold's; beyond it, all are equal."""
    share_in_band: float
    """Share of all pixels and classes that are inside the band."""
    peak_difference: float
    """Largest difference of a peak."""


def export_graph(graph: ContractGraph, height: int, width: int, *, precision: str) -> bytes:
    """Export the contract graph as self-contained ONNX with a free batch dimension.

    Args:
        graph: The network with its thresholds.
        height: Height of the engine's input.
        width: Width of the engine's input.
        precision: ``fp32`` or ``fp16``, for weights and activations.

    Raises:
        EngineError: The network cannot be exported, or the result is not valid ONNX.
    """
    graph = copy.deepcopy(graph).eval().to(memory_format=torch.contiguous_format)
    quicken(graph)
    sink = io.BytesIO()
    names = (IMAGE, MASK, PEAK, COUNT)
    with (
        torch.no_grad(),
        ConstantResampling(),
        warnings.catch_warnings(),
        silenced(STDOUT),  # the exporter prints graphs that it fails on
    ):
        # The exporter is deprecated in favour of one whose Resize TensorRT 8.5 refuses. It warns
        # that sizes become constants, which is intended.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph,
                (torch.zeros(1, 1, height, width, dtype=torch.uint8),),
                sink,  # type: ignore[arg-type] # the exporter writes to streams as well
                opset_version=OPSET,
                dynamo=False,
                input_names=[IMAGE],
                output_names=[MASK, PEAK, COUNT],
                dynamic_axes={name: {0: "N"} for name in names},
            )
        except (*UNFIT, OnnxExporterError) as error:
            raise EngineError(
                f"{graph.name} cannot be exported at {height}×{width} and opset {OPSET}: "
                f"{_cause(error)}. {CHOOSE}"
            ) from error
    model = onnx.load_model_from_string(sink.getvalue())
    simplify(model, height, width)
    if precision == "fp16":
        halve(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise EngineError(
            f"the {precision} graph of {graph.name} at {height}×{width} is not valid ONNX: "
            f"{_cause(error)}. {CHOOSE}"
        ) from error
    return bytes(model.SerializeToString())


def _cause(error: Exception) -> str:
    """Return the first line of a message, without advice to the library's own developers."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.partition(" Please")[0].rstrip(".")


def check_graph(
    graph: ContractGraph, onnx_bytes: bytes, images: Sequence[Images], *, precision: str
) -> Agreement:
    """Compare an exported graph in ONNX Runtime with PyTorch on real images.

    Args:
        graph: The network in PyTorch, float32.
        onnx_bytes: The graph exported from it.
        images: uint8 [H, W] of the engine's size.
        precision: ``fp32`` or ``fp16``, of the exported graph.

    Returns:
        How many pixels differ, and the band around the threshold outside of which none differs.

    Raises:
        EngineError: A pixel differs outside the band, too many differ, a peak differs by more than
            its tolerance, or a count does not match its mask.
    """
    session = open_session(onnx_bytes)
    num_differing = num_pixels = 0
    band = peak_difference = 0.0
    distances: list[npt.NDArray[np.float32]] = []
    for image_HW in images:
        batch = np.ascontiguousarray(image_HW)[None, None]
        mask, peak, count = session.run([MASK, PEAK, COUNT], {IMAGE: batch})
        with torch.no_grad():
            logits = graph.logits(torch.from_numpy(batch)).numpy()[0]
        limits = graph.limits.numpy()[0]
        bits = np.uint8(1) << np.arange(len(logits), dtype=np.uint8)
        expected_HW = ((logits > limits) * bits[:, None, None]).sum(axis=0).astype(np.uint8)
        differs_HW = mask[0, 0] ^ expected_HW
        distance = np.abs(logits - limits)
        wrong = (differs_HW & bits[:, None, None]) != 0
        band = max(band, float(distance[wrong].max(initial=0.0)))
        distances.append(distance[distance < WIDEST_BAND[precision]])
        num_differing += int(np.count_nonzero(differs_HW))
        num_pixels += differs_HW.size
        expected_peak = torch.sigmoid(torch.from_numpy(logits.max(axis=(1, 2)))).numpy()
        peak_difference = max(peak_difference, float(np.abs(peak[0] - expected_peak).max()))
        counted = [np.count_nonzero(mask & bit) for bit in bits]
        if not np.array_equal(count[0], np.array(counted, np.float32)):
            raise EngineError(f"the {precision} graph's counts do not match its masks.")
    widest, most = WIDEST_BAND[precision], MOST_DIFFERING[precision] * num_pixels
    if band > widest or num_differing > most:
        raise EngineError(
            f"the {precision} graph in ONNX Runtime and the network in PyTorch disagree on "
            f"{num_differing:,} of {num_pixels:,} pixels, up to {band:.3g} from the threshold's "
            f"logit; expected at most {int(most):,} pixels and {widest}."
        )
    if peak_difference > PEAK_TOLERANCE[precision]:
        raise EngineError(
            f"a peak of the {precision} graph differs by {peak_difference:.4f}, expected at most "
            f"{PEAK_TOLERANCE[precision]}."
        )
    return Agreement(
        num_pixels=num_pixels,
        num_differing=num_differing,
        band=band,
        share_in_band=sum(int(np.count_nonzero(d <= band)) for d in distances)
        / (num_pixels * len(bits)),
        peak_difference=peak_difference,
    )
