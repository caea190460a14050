"""Versions as teachers: another network learns from their predictions (distillation).

A version's graph outputs masks, and the highest probability of each class on an image. The logits
are inside the graph, so every version that keeps the engine's contract can be a teacher. Shape
suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from steel_batch import interrupt
from steel_batch.errors import ConfigError, EngineError
from steel_batch.images.decode import fit_to, mask_to_source
from steel_batch.masks.rle import encode_rle
from steel_batch.registry.card import IMAGE, PEAK, Card
from steel_batch.registry.versions import Engine
from training.dataset import Dataset, Example
from training.lessons import Lessons, pack
from training.session import open_session

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

MAXIMA: Final = frozenset({"ReduceMax", "MaxPool", "GlobalMaxPool"})
SHAPES: Final = frozenset({"Reshape", "Squeeze", "Flatten", "Unsqueeze"})
UNCHANGED: Final = frozenset({"Cast", "Identity"})
PEAK_TOLERANCE: Final = 0.001
"""Tolerance between the highest logit and the graph's peak, which is the same number."""
MOST_CERTAIN: Final = 1e-6
"""If a graph contains probabilities instead of logits: their least distance from 0 and 1."""


class Teacher:
    """One version as a teacher.

    Args:
        engine: The version.

    Raises:
        EngineError: Its graph is damaged, or does not contain the logits.
    """

    def __init__(self, engine: Engine) -> None:
        self.card = engine.card
        model = onnx.load_model_from_string(engine.read_graph("fp32"))
        self._inner, self._are_logits = _find_inner(model, self.card.name)
        if self._inner not in {output.name for output in model.graph.output}:
            model.graph.output.append(onnx.ValueInfoProto(name=self._inner))
        self._session = open_session(model.SerializeToString())

    def logits(self, image_HW: Pixels) -> Logits:
        """Return the logits of one image of the engine's size, [C, H, W].

        Raises:
            EngineError: The values found in the graph are not its logits.
        """
        card = self.card
        inner, peak = self._session.run([self._inner, PEAK], {IMAGE: image_HW[None, None]})
        values = np.asarray(inner[0], np.float32)
        if not self._are_logits:
            values = np.clip(values, MOST_CERTAIN, 1 - MOST_CERTAIN)
            values = np.log(values / (1 - values)).astype(np.float32)
        logits = at_full_size(values, len(card.classes), card.height, card.width)
        if logits is None or not _is_highest(logits, peak[0]):
            raise EngineError(
                f"--teacher {card.name}: its graph contains no logits for each class and pixel, "
                "which distillation needs. Use a version made by `steel-batch train`."
            )
        return logits


def check_teacher(card: Card, classes: Sequence[str] | None, size: tuple[int, int] | None) -> None:
    """Refuse a teacher with other classes or another size.

    Args:
        card: The teacher's card.
        classes: The classes of this training, in order; None if they are not known yet.
        size: Height and width of this training; None if it is not known yet.

    Raises:
        ConfigError: It states both.
    """
    of_teacher, of_job = [], []
    if classes is not None and tuple(classes) != card.classes:
        of_teacher.append(f"the classes {','.join(card.classes)}")
        of_job.append(f"{','.join(classes)}")
    if size is not None and size != (card.height, card.width):
        of_teacher.append(f"images of {card.height}×{card.width}")
        of_job.append(f"{size[0]}×{size[1]}")
    if of_teacher:
        raise ConfigError(
            f"--teacher {card.name} has {' and '.join(of_teacher)}, but this training has "
            f"{' and '.join(of_job)}: use a version with the same classes, in the same order, and "
            "the same size."
        )


def teach(
    teachers: Sequence[Teacher],
    dataset: Dataset,
    unlabelled: Dataset | None,
    *,
    temperature: float,
    on_images: Callable[[int], None] = lambda _: None,
) -> Lessons:
    """Run teachers on every image.

    The probabilities of several teachers are averaged. Their mask is where the mean distance of
    their logits from their thresholds is positive; unlabelled images get these masks.

    Args:
        teachers: One or more, of the same classes and size.
        dataset: Labelled images.
        unlabelled: Images without labels.
        temperature: Divides the logits.
        on_images: Called with the number of finished images.
    """
    card = teachers[0].card
    answers: list[bytes] = []
    for index in range(len(dataset)):
        logits = _ask(teachers, dataset, index)
        answers.append(pack(_mean_probability(logits, temperature)))
        on_images(len(answers))
    shape_CHW = (len(card.classes), card.height, card.width)
    if unlabelled is None:
        return Lessons(answers=answers, shape_CHW=shape_CHW)
    marked: list[Example] = []
    for index, example in enumerate(unlabelled.examples):
        logits = _ask(teachers, unlabelled, index)
        answers.append(pack(_mean_probability(logits, temperature)))
        marked.append(_marked(example, _marks(teachers, logits)))
        on_images(len(answers))
    labelled = unlabelled.with_examples(marked)
    return Lessons(answers=answers, shape_CHW=shape_CHW, unlabelled=labelled)


def _ask(teachers: Sequence[Teacher], dataset: Dataset, index: int) -> list[Logits]:
    interrupt.check()
    card = teachers[0].card
    image_HW = fit_to(dataset.load(index)[0], card.height, card.width, "fit")
    return [teacher.logits(np.ascontiguousarray(image_HW)) for teacher in teachers]


def _mean_probability(logits: Sequence[Logits], temperature: float) -> Logits:
    softened = [_sigmoid(each / np.float32(temperature)) for each in logits]
    return np.asarray(np.mean(softened, axis=0), np.float32)


def _marks(teachers: Sequence[Teacher], logits: Sequence[Logits]) -> npt.NDArray[np.bool_]:
    """Return the teachers' mask of each class, [C, H, W], with minimum areas applied."""
    above = np.zeros_like(logits[0])
    for teacher, each in zip(teachers, logits, strict=True):
        thresholds = np.array(teacher.card.thresholds, np.float64)
        limits = np.log(thresholds / (1 - thresholds)).astype(np.float32)
        above += each - limits[:, None, None]
    marks: npt.NDArray[np.bool_] = above > 0
    fewest = teachers[0].card.post_process.min_area_px
    for class_HW, least in zip(marks, fewest, strict=True):
        if np.count_nonzero(class_HW) < least:
            class_HW[:] = False
    return marks


def _marked(example: Example, marks_CHW: npt.NDArray[np.bool_]) -> Example:
    """Return an example with a teacher's masks, at the image's own size."""
    masks = {}
    for class_id, mask_HW in enumerate(marks_CHW, start=1):
        scaled = mask_to_source(mask_HW.astype(np.uint8), example.height, example.width)
        if scaled.any():
            masks[class_id] = encode_rle(scaled)
    return example.with_masks(masks)


def _find_inner(model: onnx.ModelProto, name: str) -> tuple[str, bool]:
    """Find the tensor that peaks are the maximum of, and whether it contains logits.

    Walks upwards from the output, through operators that keep the order of values, to the first
    maximum that is taken of something else.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    tensor, inner, is_squashed = PEAK, None, False
    found_squashed = False
    while tensor in makers:
        node = makers[tensor]
        if node.op_type not in MAXIMA | SHAPES | UNCHANGED | {"Sigmoid"}:
            break
        is_squashed |= node.op_type == "Sigmoid"
        tensor = node.input[0]
        if node.op_type in MAXIMA or (inner is not None and node.op_type == "Sigmoid"):
            inner, found_squashed = tensor, is_squashed
    if inner is None:
        raise EngineError(
            f"--teacher {name}: its graph computes no maximum over pixels for its peaks, so its "
            "logits cannot be found. Use a version made by `steel-batch train`."
        )
    return inner, found_squashed


def at_full_size(values: Logits, num_classes: int, height: int, width: int) -> Logits | None:
    """Return logits [C, H, W] of a graph's tensor, in which squares may be channels of a pixel."""
    if values.ndim != 3 or values.shape[0] % num_classes:
        return None
    num_places = values.shape[0] // num_classes
    side = round(num_places**0.5)
    if side**2 != num_places or values.shape[1] * side != height or values.shape[2] * side != width:
        return None
    squares = values.reshape(num_classes, side, side, *values.shape[1:])
    return np.ascontiguousarray(
        squares.transpose(0, 3, 1, 4, 2).reshape(num_classes, height, width)
    )


def _sigmoid(logits: Any) -> Any:
    """Written so that no logit overflows."""
    return (1 + np.tanh(logits / 2)) / 2


def _is_highest(logits: Logits, peak_C: npt.NDArray[np.float32]) -> bool:
    highest = _sigmoid(logits.max(axis=(1, 2)).astype(np.float64))
    return bool(np.abs(highest - peak_C).max() < PEAK_TOLERANCE)
