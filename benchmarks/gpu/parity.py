"""Masks of a TensorRT plan against ONNX Runtime's FP32.

    python -m benchmarks.gpu.parity --store DIR --engine ENGINE --images DIR [DIR …] [--limit 2000]
        --reference DIR [--only-reference]

What ONNX Runtime says is kept in ``--reference``, so that it can be computed while plans are built.

The reference graph is made to put out its logits as well, so that of every pixel that differs it is
known how far its logit is from the threshold: the greatest of these distances is the band outside
of which all masks are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from benchmarks.machine import describe_machine
from steel_batch.config import RuntimeSettings
from steel_batch.engine.contract import Runtime, infer_all
from steel_batch.engine.runtime import open_runtime
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake
from steel_batch.registry.card import COUNT, IMAGE, MASK, PEAK
from steel_batch.registry.versions import load_engine
from training.teacher import at_full_size


def run(runtime: Runtime, images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    masks, peaks = [], []
    for first in range(0, len(images), runtime.batch_size):
        batch = images[first : first + runtime.batch_size]
        with runtime.acquire() as slot:
            for i, image in enumerate(batch):
                slot.image_NHW[i] = image
            output = infer_all(slot, len(batch))
            masks.append(output.mask_NHW)
            peaks.append(output.peak_NC)
    return np.concatenate(masks), np.concatenate(peaks)


class Reference:
    """ONNX Runtime's FP32 on the CPU, with the logits' distance from their thresholds.

    Args:
        graph: The master.
        folder: Where answers are kept; the distance in half precision.
    """

    def __init__(self, graph: bytes, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        model = onnx.load_model_from_string(graph)
        (greater,) = [node for node in model.graph.node if node.op_type == "Greater"]
        self._logits, limits = greater.input
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._limits = constants[limits]
        model.graph.output.append(onnx.ValueInfoProto(name=self._logits))
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, number: int, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mask [H, W], peak [C] and distance [C, H, W] of one image."""
        kept = self._folder / f"{number:06d}.npz"
        if kept.exists():
            with np.load(kept) as found:
                return found["mask"], found["peak"], found["distance"]
        mask, peak, _, logits = self._session.run(
            [MASK, PEAK, COUNT, self._logits], {IMAGE: image[None, None]}
        )
        distance = at_full_size(
            np.abs(logits - self._limits)[0].astype(np.float16), len(peak[0]), *image.shape
        )
        if distance is None:
            raise ValueError(f"logits of {logits.shape} for an image of {image.shape}")
        np.savez(kept, mask=mask[0, 0], peak=peak[0], distance=distance)
        return mask[0, 0], peak[0], distance


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=int, default=2000, help="most images of each folder")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--only-reference", action="store_true")
    parser.add_argument("--runtime", default="tensorrt")
    parser.add_argument("--precisions", default="fp16")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    engine = load_engine(args.engine, store=Lake(str(args.store)))
    images = []
    for folder in args.images:
        found = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))
        images += [decode_gray(p.read_bytes()) for p in found[: args.limit]]
    reference = Reference(engine.read_graph("fp32"), args.reference)
    started = time.monotonic()
    if args.only_reference:
        for number, image in enumerate(images):
            reference.run(number, image)
        print("ONNX Runtime:", round(len(images) / (time.monotonic() - started), 1), "images/s")
        return
    compared = {}
    for precision in args.precisions.split(","):
        runtime = open_runtime(
            engine,
            RuntimeSettings(runtime=args.runtime, precision=precision, batch_size=args.batch_size),
        )
        compared[precision] = (runtime.description, *run(runtime, images))
        runtime.close()
    totals = {precision: Totals(len(engine.card.classes)) for precision in compared}
    for i, image in enumerate(images):
        mask, peak, distance = reference.run(i, image)
        for precision, (_, masks, peaks) in compared.items():
            totals[precision].add(masks[i], mask, peaks[i], peak, distance)
    for precision, (description, _, _) in compared.items():
        figures = {
            "benchmark": "gpu_parity",
            "engine": engine.card.name,
            "runtime": description,
            "num_images": len(images),
            **totals[precision].figures(),
            **describe_machine(),
        }
        print(json.dumps(figures), flush=True)


class Totals:
    """What differs, over images."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._pixels = self._differing = self._images = self._with_pixels = 0
        self._band = self._peak = 0.0
        self._beyond = dict.fromkeys((0.05, 0.1, 0.25, 0.5, 1.0), 0)
        self._areas = np.zeros((num_classes, 3), np.int64)

    def add(
        self,
        mask: np.ndarray,
        expected: np.ndarray,
        peak: np.ndarray,
        expected_peak: np.ndarray,
        distance: np.ndarray,
    ) -> None:
        differs = mask ^ expected
        self._pixels += mask.size
        self._differing += int(np.count_nonzero(differs))
        self._images += bool(differs.any())
        self._with_pixels += bool(expected.any())
        self._peak = max(self._peak, float(np.abs(peak - expected_peak).max()))
        for c in range(self._num_classes):
            far = distance[c][(differs >> c & 1).astype(bool)]
            self._band = max(self._band, float(far.max(initial=0.0)))
            for limit in self._beyond:
                self._beyond[limit] += int((far > limit).sum())
            found, true = mask >> c & 1, expected >> c & 1
            self._areas[c] += [int(found.sum()), int(true.sum()), int((found & true).sum())]

    def figures(self) -> dict[str, object]:
        found, true, both = self._areas.T
        return {
            "share_of_pixels_that_differ": self._differing / self._pixels,
            "images_that_differ": self._images,
            "images_with_pixels": self._with_pixels,
            "logit_band": round(self._band, 4),
            "pixels_that_differ_beyond_logit": self._beyond,
            "dice_per_class": [
                round(2 * int(b) / int(t), 6) if t else None
                for b, t in zip(both, found + true, strict=True)
            ],
            "greatest_peak_difference": self._peak,
        }


if __name__ == "__main__":
    main()
