from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steel_batch.errors import ConfigError
from training.model import Segmenter
from training.recipe import TrainConfig
from training.settings import read_recipe

RECIPES = Path(__file__).parents[2] / "training"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_flags_take_precedence_over_the_file_and_that_over_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[recipe]\nbatch-size = 4\nseed = 7\npositive_weight = [1, 2.5]\n"
        "[model]\nencoder = 'narrow16'\ndecoder_channels = [32, 16]\n[augment]\nnoise = 3\n",
    )
    config = read_recipe(path, {"seed": 8, "encoder": None, "crop_width": 64})
    assert (config.batch_size, config.seed, config.num_steps) == (4, 8, TrainConfig().num_steps)
    assert config.positive_weight == (1.0, 2.5)
    assert (config.model.encoder, config.model.decoder_channels) == ("narrow16", (32, 16))
    assert (config.augment.noise, config.augment.crop_width) == (3.0, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recipe]\nsteps = 3\n", r"\[recipe\] has unknown keys: steps"),
        ("[model]\nencoder = 3\n", r"\[model\] encoder is 3, expected str"),
        ("[recipe]\nbatch_size = 1.5\n", r"\[recipe\] batch_size is 1.5, expected int"),
        ("[recipe]\npatience = 'x'\n", r"\[recipe\] patience is 'x', expected int or NoneType"),
        ("[recipe]\ncompile = 1\n", r"\[recipe\] compile is 1, expected bool"),
        ("[recipe]\nbatch_size = 0\n", "batch_size is 0, expected 1 or more"),
        ("[recipe]\nwatch = 'luck'\n", "watch is 'luck', expected one of kaggle_dice"),
        ("[recipe]\nclean_share = 2\n", "clean_share is 2.0, expected 0 to 1"),
        ("[recipe]\nseed = -1\n", "seed is -1, expected 0 or more"),
        ("[recipe]\nlearning_rate = 0\n", "learning_rate is 0.0, expected more than 0"),
        ("[recipe]\npositive_weight = [1, 0]\n", "positive_weight is 0.0, expected more than 0"),
        ("[augment]\ncrop_width = 0\n", "augment.crop_width is 0, expected 1 or more"),
        ("[augment]\nmix_share = 1.5\n", "augment.mix_share is 1.5, expected 0 to 1"),
        ("[augment]\nzoom = -1\n", "augment.zoom is -1.0, expected 0 or more"),
        ("[model]\noutput_stride = 3\n", "output_stride is 3, expected 1, 2 or 4"),
        ("recipe = 3\n", r"\[recipe\] is not a table"),
        (
            "[Recipe]\nseed = 3\n",
            r"has Recipe at the top level, expected only the tables \[recipe\], \[mod",
        ),
        ("seed = 3\n[models]\n", r"has models, seed at the top level, expected"),
        ("[recipe]\nlearning_rate = nan\n", r"learning_rate is nan, expected a finite number"),
        ("[recipe]\npositive_weight = [1, inf]\n", r"positive_weight is inf, expected a finite"),
        ("[augment]\ngain = inf\n", r"gain is inf, expected a finite number"),
        pytest.param(
            f"[recipe]\nlearning_rate = 1{'0' * 400}\n",
            r"learning_rate is 10+\.\.\.0+, expected a finite number",
            id="400 digits",
        ),
        pytest.param(
            f"[recipe]\nlearning_rate = 1{'0' * 5000}\n", "is not TOML: .*digits", id="5000 digits"
        ),
        ("[recipe]\nseed = 99999999999999999999\n", r"seed is 9+, expected no more than 2\^64 - 1"),
        ("[model]\ndecoder_channels = [8, 0]\n", r"decoder_channels is \[8, 0\], expected 1 or m"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(tmp_path, text), {})


def test_a_flag_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="the recipe: learning_rate is nan, expected a finite"):
        read_recipe(None, {"learning_rate": float("nan")})


@pytest.mark.parametrize("name", ["demo", "quick", "gpu"])
def test_the_recipes_that_are_shipped_make_a_network(name: str) -> None:
    config = read_recipe(RECIPES / f"{name}.toml", {})
    network = Segmenter(config.model, 4).eval()
    logits = network(torch.zeros(1, 1, 64, 160))
    assert logits.shape == (1, 4, 64 // network.stride, 160 // network.stride)
