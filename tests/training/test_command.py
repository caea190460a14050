"""What `steel-batch train` says, and how soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from steel_batch import layout
from steel_batch.cli import cli
from steel_batch.errors import ConfigError
from training.command import describe_step

WRONG = {
    "key": ("[recipe]\nnum_stepps = 5\n", [], "has unknown keys: num_stepps"),
    "kind": ("[recipe]\nnum_steps = 'many'\n", [], "num_steps is 'many', expected int"),
    "value": ("[recipe]\nwatch = 'luck'\n", [], "watch is 'luck', expected one of"),
    "table": ("[recipes]\nnum_steps = 5\n", [], "has recipes at the top level"),
    "architecture": ("[model]\narchitecture = 'Unett'\n", [], "Did you mean Unet "),
    "encoder": ("[model]\nencoder = 'resnet81'\n", [], "Did you mean resnet18 "),
    "timm": ("[model]\nencoder = 'tu-convnext_tinny'\n", [], "Did you mean convnext_tiny "),
    "flag": ("", ["--encoder", "narow16"], "Did you mean narrow16 "),
    "pair": ("[model]\narchitecture = 'DPT'\n", [], "DPT needs a vision transformer of timm"),
    "classes": ("", ["--classes", "a,,b"], "expected a different name for each class"),
    "nine": ("", ["--classes", "a,b,c,d,e,f,g,h,i"], "--classes has 9 names, expected no more"),
    "weights": (
        "[recipe]\npositive_weight = [1, 2, 3]\n",
        ["--classes", "a,b"],
        "positive_weight has 3 values, expected 2, one per class.",
    ),
    "processes": (
        "",
        ["--num-workers", "2", "--batch-size", "3"],
        "a batch of 3 cannot be divided among 2 process(es)",
    ),
    "teacher": ("", ["--teacher", "nope@production"], "there is no engine 'nope@production'"),
    "unlabelled": ("", ["--unlabelled", "more"], "--unlabelled more needs a teacher"),
    "share": ("", ["--test-share", "2"], "expected a sum below 1"),
    "labels": (
        "",
        ["--labels", "nowhere.csv"],
        "'nowhere.csv' is neither a file nor found under",
    ),
    "groups": (
        "",
        ["--groups", "nowhere.csv"],
        "'nowhere.csv' is neither a file nor found under",
    ),
    "images": ("", ["--images", "nowhere"], "there are no images under"),
}
ASK = """
import json, sys
from click.testing import CliRunner
from steel_batch.cli import cli
from steel_batch.errors import ConfigError
for name, arguments in json.load(sys.stdin).items():
    answer = CliRunner().invoke(cli, ["train", *arguments])
    text = answer.stderr + (str(answer.exception) if answer.exception else "")
    known = isinstance(answer.exception, (ConfigError, SystemExit))
    print(json.dumps([name, text, known, "torch" in sys.modules]))
"""


def test_what_is_mistyped_is_answered_before_pytorch_is_loaded(
    images: Path, tmp_path: Path
) -> None:
    asked = {}
    for name, (text, flags, _) in WRONG.items():
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(text)
        asked[name] = [
            "--images", str(images), "--store", str(tmp_path / "store"), "--model", "own",
            "--labels", str(images / "train.csv"), "--config", str(recipe), *flags,
        ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(asked), capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in answers] == list(WRONG)
    for name, text, is_known, has_torch in answers:
        assert WRONG[name][2] in text, (name, text)
        assert is_known, name
        assert not has_torch, name
    assert not (tmp_path / "store").exists()


def test_nothing_is_printed_below_the_message_that_ends_a_training(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("ImageId,ClassId,EncodedPixels\nnone.jpg,5,1 5\n")
    done = subprocess.run(
        [sys.executable, "-m", "steel_batch.cli", "train", "--images", images, "--store",
         tmp_path / "store", "--model", "own", "--labels", tmp_path / "labels.csv", "--classes",
         "a,b"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has class '5', expected 1 to 2: --classes names 2" in done.stderr
    assert done.stderr.endswith("the flags; nothing was trained.\n")


@given(model=st.from_regex(r"[a-z0-9][a-z0-9_.]{0,9}(-run)?", fullmatch=True))
def test_a_training_run_has_no_engines_name(model: str) -> None:
    run = layout.training_run(model, "0123456789abcdef" * 4)
    assert run == f"{model}-run-0123456789"
    with pytest.raises(ConfigError, match="is not <model>-<12 hex digits>"):
        layout.split_engine_name(run)


def test_a_step_is_shown_with_how_many_there_are_and_the_time_left() -> None:
    record = {
        "step": 1250, "num_steps": 2000, "loss": 0.34119, "learning_rate": 0.0012,
        "images_per_second": 81.4, "seconds_left": 147.6,
    }  # fmt: skip
    assert describe_step(record) == (
        "step 1,250 of 2,000  loss 0.3412  learning rate 0.0012  81 images/s  about 2 min 28 s of "
        "training left"
    )
    judged = {
        "step": 2000, "num_steps": 2000, "validation_kaggle_dice": 0.9, "validation_mean_iou": 0.5,
        "validation_present_dice": 0.25, "best_step": 1800, "seconds_left": 0.0,
    }  # fmt: skip
    assert describe_step(judged) == (
        "step 2,000 of 2,000  validation: Kaggle Dice 0.9000, mIoU 0.5000, Dice where present "
        "0.2500  best: step 1,800"
    )


def flags_of(images: Path, folder: Path) -> list[str]:
    recipe = folder / "recipe.toml"
    recipe.write_text(
        "[recipe]\nnum_threads = 1\nbatch_size = 4\nnum_steps = 4\nreport_steps = 2\n"
        "[augment]\ncrop_width = 64\n"
        "[model]\nencoder = 'narrow16'\ndecoder_channels = [16, 16, 16, 16, 16]\n"
    )
    return [
        "train", "--images", str(images), "--store", str(folder / "store"), "--model", "bands",
        "--classes", "dim,bright,rust", "--config", str(recipe), "--validation-share", "0.2",
        "--test-share", "0.2",
    ]  # fmt: skip


def test_a_person_is_told_each_thing_once_and_no_figure_that_misleads(
    images: Path, tmp_path: Path
) -> None:
    flags = flags_of(images, tmp_path)
    answer = CliRunner().invoke(cli, flags, catch_exceptions=False)
    assert answer.exit_code == 0
    lines = answer.stderr.splitlines()
    (begun,) = [line for line in lines if line.startswith("training ")]
    run = begun.split()[1].rstrip(":")
    assert run.startswith("bands-run-")
    assert begun == (
        f"training {run}: 4 steps; checkpoint and metrics.jsonl in {tmp_path}/store/training/{run}"
    )
    assert [line.partition("  ")[0] for line in lines if line.startswith("step ")] == [
        "step 2 of 4", "step 4 of 4", "step 4 of 4",
    ]  # fmt: skip
    assert "of training left" in next(line for line in lines if line.startswith("step 2 of 4"))
    (judged,) = [line for line in lines if line.startswith("engine bands-")]
    assert ": too few to compare (dim on " in judged
    assert "Kaggle Dice" not in judged
    warnings = [line for line in lines if "(rust)" in line]
    assert len(warnings) == 3, "one of each part"
    assert len(set(lines)) == len(lines), "nothing is said twice"
    (report,) = [line.removeprefix("report: ") for line in lines if line.startswith("report: ")]
    assert "too few to compare" in Path(report).read_text()
    (card,) = (tmp_path / "store" / "registry" / "bands").glob("*/card.json")
    notes: list[Any] = json.loads(card.read_text())["notes"]
    assert sum("(rust)" in note for note in notes) == 3, "the card keeps them"

    again = CliRunner().invoke(cli, [*flags, "--output", "json"], catch_exceptions=False)
    assert f"resuming {run}: 4 steps" in again.stderr
    found = json.loads(again.stdout.splitlines()[-1])
    assert (found["run"], found["report"]) == (run, report)
    assert found["too_few"].startswith("dim on ")
    assert found["precisions"] == ["fp32", "fp16"], "INT8 is not taken on so few"
