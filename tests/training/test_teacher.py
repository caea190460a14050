from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from steel_batch.cli import cli
from steel_batch.errors import EngineError, SteelBatchError
from steel_batch.lake import Lake
from steel_batch.masks.rle import decode_rle
from steel_batch.registry.card import MASK
from steel_batch.registry.versions import Engine
from tests.training.bands import write_bands
from tests.training.small_job import RECIPE, job, run_of
from training.batches import Examples, Sampler
from training.dataset import Dataset, open_dataset
from training.export import export_graph
from training.job import JobResult, run_job
from training.lessons import Lessons, pack
from training.losses import distillation
from training.model import ContractGraph, Segmenter
from training.recipe import ModelConfig
from training.session import open_session
from training.teacher import Teacher, teach

SIZE = (64, 96)


def version(thresholds: tuple[float, ...] = (0.5, 0.5), seed: int = 0, **model: Any) -> Any:
    """What `Teacher` asks of an engine, and the network that it was made of."""
    torch.manual_seed(seed)
    config = ModelConfig(encoder="narrow16", decoder_channels=(16, 16, 16, 16, 16), **model)
    graph = ContractGraph(Segmenter(config, 2), thresholds).eval()
    content = export_graph(graph, *SIZE, precision="fp32")
    card = SimpleNamespace(
        name="teacher-0123456789ab", classes=("dim", "bright"), height=SIZE[0], width=SIZE[1],
        thresholds=thresholds, post_process=SimpleNamespace(min_area_px=(0, 0)),
    )  # fmt: skip
    return SimpleNamespace(card=card, read_graph=lambda _: content, graph=graph)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)


@pytest.mark.parametrize(
    "model",
    [{}, {"output_stride": 2}, {"output_stride": 4, "head": "subpixel"}, {"input_upscale": 2}],
)
def test_a_teacher_says_the_logits_that_its_masks_are_made_of(model: dict[str, Any]) -> None:
    engine = version(**model)
    with torch.no_grad():
        expected = engine.graph.logits(torch.from_numpy(noise())[None, None])[0].numpy()
    np.testing.assert_allclose(Teacher(engine).logits(noise()), expected, atol=1e-4)


def test_a_graph_whose_peaks_come_from_elsewhere_cannot_teach() -> None:
    engine = version()
    model = onnx.load_model_from_string(engine.read_graph("fp32"))
    highest = next(node for node in model.graph.node if node.op_type == "ReduceMax")
    highest.op_type = "ReduceMean"
    mean = model.SerializeToString()
    with pytest.raises(EngineError, match="computes no maximum over pixels for its peaks"):
        Teacher(cast(Engine, SimpleNamespace(card=engine.card, read_graph=lambda _: mean)))
    engine.card.height = 128
    with pytest.raises(EngineError, match="contains no logits for each class and pixel"):
        Teacher(engine).logits(noise())


def test_answers_are_means_of_softened_probabilities_and_marks_are_the_teachers_masks(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path))
    write_bands(lake, num_images=5, height=SIZE[0], width=SIZE[1])
    dataset = open_dataset(lake, lake.read("train.csv"), source="train.csv", num_classes=2)
    clean = dataset.with_examples([e.with_masks({}) for e in dataset.examples])
    engines = [version((0.5, 0.45), seed) for seed in (1, 2)]
    lessons = teach([Teacher(e) for e in engines], dataset, clean, temperature=3.0)
    for index in range(5):
        image = torch.from_numpy(dataset.load(index)[0])[None, None]
        with torch.no_grad():
            logits = [engine.graph.logits(image)[0].numpy() for engine in engines]
        expected = np.mean([1 / (1 + np.exp(-each / 3)) for each in logits], axis=0)
        for place in (index, 5 + index):
            np.testing.assert_allclose(lessons.answer(place) / 255, expected, atol=0.0021)
    alone = teach([Teacher(engines[0])], dataset, clean, temperature=3.0)
    session = open_session(engines[0].read_graph("fp32"))
    assert alone.unlabelled is not None
    for example, (image_HW, _) in zip(
        alone.unlabelled.examples, map(dataset.load, range(5)), strict=True
    ):
        (mask,) = session.run([MASK], {"image": image_HW[None, None]})
        marked = sum(
            decode_rle(rle, *SIZE) << np.uint8(class_id - 1)
            for class_id, rle in example.masks.items()
        )
        assert np.mean(mask[0, 0] != marked) < 1e-4


def test_answers_are_kept_to_a_level_in_less_memory() -> None:
    probability = np.zeros((4, 64, 160), np.float32)
    probability[2, 10:30, 5:60] = np.linspace(0, 1, 55)
    lessons = Lessons(answers=[pack(probability)], shape_CHW=probability.shape)
    np.testing.assert_allclose(lessons.answer(0) / 255, probability, atol=0.002)
    assert len(lessons.answers[0]) < probability.size / 20


def test_nothing_is_left_to_learn_where_both_say_the_same() -> None:
    logits = torch.linspace(-4, 4, 24).view(1, 2, 3, 4).requires_grad_()
    for temperature in (1.0, 3.0):
        answer = torch.sigmoid(logits.detach() / temperature)
        (same,) = torch.autograd.grad(distillation(logits, answer, temperature), logits)
        assert same.abs().max() < 1e-6
        (apart,) = torch.autograd.grad(distillation(logits, 1 - answer, temperature), logits)
        assert apart.abs().max() > 0.01


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 images, of which the first 40 are those of `images`."""
    folder = tmp_path_factory.mktemp("more")
    write_bands(Lake(str(folder)), num_images=45)
    return folder


def test_a_student_learns_from_a_version_and_from_images_that_it_labels(
    made: tuple[JobResult, Lake], images: Path, more: Path
) -> None:
    teacher, store = made
    config = dataclasses.replace(
        RECIPE, teachers=(teacher.card.name,), num_steps=3, fp16=False, int8=False
    )
    stages: list[str] = []
    settings = job(images, Path(store.url), model="student", unlabelled=str(more))
    student = run_job(settings, config, on_stage=stages.append)
    assert tuple(student.card.recipe["teachers"]) == (teacher.card.name,)
    assert student.card.recipe["data"]["num_unlabelled_images"] == 5
    assert "40 unlabelled images are skipped: they are also in --images." in stages
    num = student.num_images[0] + 5
    assert f"running {teacher.card.name} on {num} images" in stages
    assert run_of(settings, config) == student.run
    untaught = run_job(
        job(images, Path(store.url), model="student"), dataclasses.replace(config, teachers=())
    )
    assert untaught.run != student.run
    assert untaught.card.name != student.card.name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--teacher", "nobody-0123456789ab"), "there is no engine 'nobody-0123456789ab'"),
        (("--teacher", "TEACHER", "--classes", "bright,dim"), "has the classes dim,bright, but"),
        (
            ("--teacher", "demo"),
            "and images of 256×1600, but this training has dim,bright and 64×160",
        ),
        (("--unlabelled", "MORE"), "needs a teacher to label the images: add --teacher."),
        (("--teacher", "TEACHER", "--teacher-weight", "2"), "teacher_weight is 2.0, expected 0 to"),
        (("--teacher", "TEACHER", "--temperature", "0"), "temperature is 0.0, expected more than"),
        (("--teacher", "TEACHER", "--unlabelled", "IMAGES"), "images under --unlabelled"),
    ],
)
def test_what_cannot_teach_is_refused_with_both_sides(
    made: tuple[JobResult, Lake], images: Path, more: Path, flags: tuple[str, ...], message: str
) -> None:
    teacher, store = made
    named = {"TEACHER": teacher.card.name, "MORE": str(more), "IMAGES": str(images)}
    given = [named.get(flag, flag) for flag in flags]
    classes = [] if "--classes" in given else ["--classes", "dim,bright"]
    done = CliRunner().invoke(
        cli,
        ["train", "--images", str(images), "--store", store.url, "--model", "student",
         "--encoder", "narrow16", "--device", "cpu", *classes, *given],
    )  # fmt: skip
    assert isinstance(done.exception, SteelBatchError)
    assert message in str(done.exception)
    assert "step" not in done.output, "nothing was trained"


def test_crops_of_unlabelled_images_hold_what_the_teacher_marked(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    write_bands(lake, num_images=6, height=SIZE[0], width=SIZE[1])
    dataset: Dataset = open_dataset(lake, lake.read("train.csv"), source="x", num_classes=2)
    few, rest = dataset.subset(range(2)), dataset.subset(range(2, 6))
    answers = [pack(np.full((2, *SIZE), k / 6, np.float32)) for k in range(6)]
    lessons = Lessons(answers=answers, shape_CHW=(2, *SIZE), unlabelled=rest)
    examples = Examples(few, SIZE, 1 << 30, lessons)
    assert len(examples) == 6
    for place in range(6):
        expected = dataset.load(place)
        np.testing.assert_array_equal(examples.load(place)[0], expected[0])
        np.testing.assert_array_equal(examples.load(place)[1], expected[1])
    config = dataclasses.replace(RECIPE, batch_size=32)
    seen = set()
    for step in range(4):
        image, bitmask, answer = Sampler(examples, config, 0, 1).make(step)
        assert answer.shape == (32, 2, 64, 64)
        assert image.shape[2:] == bitmask.shape[1:] == answer.shape[2:]
        seen |= {int(level) for level in answer[:, 0, 0, 0]}
    assert seen == {round(255 * k / 6) for k in range(6)}
