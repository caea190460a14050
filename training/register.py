"""From a trained network to a registered version, with evidence of its quality.

Thresholds, minimum areas and INT8 are decided on the validation part. The card's figures are of the
test part, which is used for nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import segmentation_models_pytorch as smp
import torch

from steel_batch import __version__, layout
from steel_batch.errors import ConfigError, EngineError
from steel_batch.images.decode import fit_to
from steel_batch.lake import Lake
from steel_batch.registry.card import Card, PostProcess
from steel_batch.registry.evidence import too_few
from steel_batch.registry.registration import register
from training.dataset import Dataset
from training.export import check_graph, export_graph
from training.judge import judge, probabilities
from training.metrics import Judged, Metrics, image_dice
from training.model import ContractGraph, Segmenter
from training.quantize import CALIBRATIONS, Verdict, compare, quantize_graph
from training.recipe import TrainConfig
from training.session import open_session
from training.thresholds import search

NUM_CHECKED: Final = 16
"""Images on which the exported graphs are compared with PyTorch."""
NUM_CALIBRATION: Final = 48
"""Training images to calibrate INT8 with."""
FILES: Final = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The three parts of a dataset."""

    training: Dataset
    validation: Dataset
    """For early stopping, the best weights, thresholds, minimum areas and INT8."""
    test: Dataset
    """For the figures in the card."""

    @property
    def joined(self) -> Dataset:
        """All parts as one dataset."""
        parts = (self.training, self.validation, self.test)
        return self.training.with_examples([e for part in parts for e in part.examples])

    def gaps(self, classes: Sequence[str]) -> list[str]:
        """Return warnings about classes of which a part has no mask."""
        outcomes = {
            "training": "it will never be found",
            "validation": "its threshold is chosen on images without it",
            "test": "its quality is unknown",
        }
        return [
            f"class {class_id} ({name}) is on no {part} image: {outcome}."
            for part, outcome in outcomes.items()
            for class_id, (name, num) in enumerate(
                zip(classes, getattr(self, part).num_masks, strict=True), start=1
            )
            if not num
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A version before it is registered."""

    card: Card
    graphs: Mapping[str, bytes]
    verdict: Verdict
    test_dice: tuple[float | None, ...]
    """Dice of each image of the test part; see `training.metrics.image_dice`."""


def make_version(
    network: Segmenter,
    parts: Parts,
    config: TrainConfig,
    *,
    model: str,
    classes: Sequence[str],
    source: Mapping[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Product:
    """Choose thresholds, export, verify, quantise, evaluate, and write the card.

    The same network and data give the same version; the card's date and environment do not count.

    Args:
        network: The network on the CPU, in evaluation mode.
        parts: Training data and held-out data.
        config: The recipe of the training.
        model: The model's name.
        classes: The classes' names.
        source: Where the parts came from and how they were split, for the card.
        on_stage: Called with the name of the step of the job.

    Raises:
        ConfigError: A part is empty, or the names do not fit the data.
        EngineError: The exported graph disagrees with the network.
    """
    num_classes = parts.training.num_classes
    layout.check_name(model, what="model")
    if len(classes) != num_classes:
        raise ConfigError(
            f"found {len(classes)} class names ({', '.join(classes)}), expected {num_classes}."
        )
    for name in ("validation", "test"):
        if not len(getattr(parts, name)):
            raise ConfigError(
                f"the {name} part is empty: there are too few images or groups for its share. "
                "Increase the share, or add images."
            )
    height, width = parts.training.size
    on_stage("searching thresholds")
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    plain = ContractGraph(copy.deepcopy(network), (0.5,) * num_classes).eval()
    plain.to("cuda" if on_gpu else "cpu")
    choices = search(probabilities(plain, parts.validation, height, width), num_classes)
    thresholds = tuple(choice.threshold for choice in choices)
    all_parts = (parts.training, parts.validation, parts.test)
    has_one_size = {part.size for part in all_parts} == {(height, width)} and all(
        part.has_one_size for part in all_parts
    )
    post = PostProcess(
        min_area_px=tuple(choice.min_area_px for choice in choices),
        min_component_px=(0,) * num_classes,
        resize="never" if has_one_size else "fit",
    )
    graph = ContractGraph(network, thresholds).eval()
    checked = _some_images(parts.validation, NUM_CHECKED, height, width)
    graphs, agreement, notes = {}, {}, []
    if not config.fp16:
        notes.append("FP16 is not part of this version: the recipe excludes it.")
    for precision in ("fp32", "fp16") if config.fp16 else ("fp32",):
        on_stage(f"exporting {precision}")
        exported = export_graph(graph, height, width, precision=precision)
        try:
            agreed = check_graph(graph, exported, checked, precision=precision)
        except EngineError as error:
            if precision == "fp32":
                raise
            notes.append(f"FP16 is not part of this version: {error}")
            continue
        graphs[precision] = exported
        agreement[precision] = dataclasses.asdict(agreed)

    def figures(
        precision: str, part: Dataset, on_image: Callable[[Judged], None] = lambda _: None
    ) -> Metrics:
        return judge(open_session(graphs[precision]), part, post, height, width, on_image)

    validation = figures("fp32", parts.validation)
    verdicts = [Verdict.without("the recipe excludes it.")]
    lack = too_few(dataclasses.asdict(validation), classes)
    if config.int8 and lack is not None:
        num_images = f"{len(parts.validation):,} validation images"
        verdicts = [Verdict.without(f"{num_images} are too few to judge it ({lack}).")]
    elif config.int8:
        on_stage("quantising to int8")
        verdicts = _try_int8(graphs, parts, height, width, validation, figures)
    on_stage("judging")
    test_dice: list[float | None] = []
    test = figures(
        "fp32", parts.test, lambda judged: test_dice.append(image_dice(judged, num_classes))
    )
    card = Card.of(
        graphs,
        FILES,
        model=model,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        classes=tuple(classes),
        height=height,
        width=width,
        thresholds=thresholds,
        post_process=post,
        metrics={
            **dataclasses.asdict(test),
            "data_digest": parts.test.digest,
            "validation": {
                **dataclasses.asdict(validation),
                "data_digest": parts.validation.digest,
            },
            "agreement": agreement,
            "int8": {
                **dataclasses.asdict(verdicts[-1]),
                "refused": [dataclasses.asdict(verdict) for verdict in verdicts[:-1]],
            },
        },
        recipe={
            **dataclasses.asdict(config),
            "data": dict(source or {}),
            "training_digest": parts.training.digest,
            "num_training_images": len(parts.training),
            "num_training_masks": parts.training.num_masks,
        },
        environment=describe_environment(),
        notes=(*parts.gaps(classes), *notes, verdicts[-1].why),
    )
    return Product(card=card, graphs=graphs, verdict=verdicts[-1], test_dice=tuple(test_dice))


def register_product(store: Lake, product: Product, report: str) -> Card:
    """Register a version and store its report with the card.

    Returns:
        The card in the registry: the earlier one, if the version was registered before.

    Raises:
        EngineError: The version is registered with figures of another test part, or see
            `steel_batch.registry.register`; the existing version is unchanged.
    """
    card = product.card
    register(store, card, product.graphs)
    key = layout.card_file(card.model, card.version)
    standing = Card.from_json(store.read(key), source=store.uri(key))
    judged_on, judged_before_on = (c.metrics.get("data_digest") for c in (card, standing))
    if judged_on != judged_before_on:
        raise EngineError(
            f"{card.name} is registered in {store.url} with figures of a test part of digest "
            f"{judged_before_on}, but was now evaluated on one of digest {judged_on}: labels or "
            "images have changed, the network has not, and a version's card never changes. Train "
            "with another --seed, which makes another version."
        )
    store.put_if_absent(layout.report_file(card.model, card.version), report.encode())
    return standing


def describe_environment() -> dict[str, Any]:
    """Return what made a version: libraries, machine, and the code's commit if known."""
    return {
        "steel_batch": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "segmentation_models_pytorch": smp.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _try_int8(
    graphs: dict[str, bytes],
    parts: Parts,
    height: int,
    width: int,
    master: Metrics,
    figures: Callable[[str, Dataset], Metrics],
) -> list[Verdict]:
    """Add the first INT8 graph that is as good as the FP32 graph to `graphs`.

    Returns:
        The verdict on each graph that was tried; the last one decides.
    """
    images = _some_images(parts.training, NUM_CALIBRATION, height, width)
    verdicts = []
    for calibration in CALIBRATIONS:
        try:
            graphs["int8"] = quantize_graph(graphs["fp32"], images, calibration)
            verdict = compare(master, figures("int8", parts.validation), calibration)
        except EngineError as error:
            verdict = Verdict.without(str(error))
        verdicts.append(verdict)
        if verdict.accepted:
            break
        graphs.pop("int8", None)
    return verdicts


def _some_images(
    dataset: Dataset, most: int, height: int, width: int
) -> list[npt.NDArray[np.uint8]]:
    """Take images from all over a dataset at the engine's size, half of them with defects."""
    defective = [i for i, example in enumerate(dataset.examples) if example.masks]
    clean = [i for i, example in enumerate(dataset.examples) if not example.masks]
    num_clean = min(len(clean), most // 2)
    chosen = _spread(defective, most - num_clean) + _spread(clean, num_clean)
    return [fit_to(dataset.load(i)[0], height, width, "fit") for i in chosen]


def _spread(indices: Sequence[int], most: int) -> list[int]:
    places = np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int)
    return [indices[place] for place in places]


def _commit() -> str | None:
    """Return the commit of a checkout; None for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(  # noqa: S603 # fixed words and a path of our own
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 # from PATH, like every tool
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
