from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from steel_batch.errors import ConfigError
from training.choices import ARCHITECTURES
from training.export import check_graph, export_graph
from training.model import ContractGraph, Segmenter
from training.names import library_encoders, timm_encoders
from training.recipe import ModelConfig

SMALL: dict[str, Any] = {"encoder": "resnet18", "decoder_channels": (16, 16, 16, 8, 8)}


@pytest.mark.parametrize(
    ("changes", "stride"),
    [
        ({}, 1),
        ({"input_stride": 2}, 2),
        ({"encoder": "narrow16", "input_stride": 2, "output_stride": 2}, 4),
        ({"input_stride": 2, "fold": "channels", "head": "subpixel"}, 1),
        ({"encoder": "narrow16", "input_upscale": 2}, 1),
    ],
)
def test_each_shape_gives_logits_at_its_stride_and_exports(
    changes: dict[str, Any], stride: int
) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(ModelConfig(**(SMALL | changes)), 3).eval()
    image_HW = np.random.default_rng(0).integers(0, 256, (40, 72)).astype(np.uint8)
    image = torch.from_numpy(image_HW)[None, None]
    with torch.no_grad():
        logits = segmenter(image / 255)
    assert logits.shape == (1, 3, 40 // stride, 72 // stride)
    graph = ContractGraph(segmenter, (0.5,) * 3).eval()
    onnx_bytes = export_graph(graph, 40, 72, precision="fp32")
    assert check_graph(graph, onnx_bytes, [image_HW], precision="fp32").band < 0.001


def test_a_folded_input_keeps_what_an_average_loses() -> None:
    one = torch.zeros(1, 1, 64, 64)
    other = one.clone()
    one[..., ::2, ::2], other[..., 1::2, 1::2] = 1, 1  # the same mean in every square
    for fold, is_same in (("average", True), ("channels", False)):
        torch.manual_seed(0)
        network = Segmenter(ModelConfig(**SMALL, input_stride=2, fold=fold), 1).eval()
        with torch.no_grad():
            assert torch.allclose(network(one), network(other)) is is_same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": "max"}, "model.fold is 'max', expected average or channels."),
        ({"input_upscale": 3}, "model.input_upscale is 3, expected 1 or 2."),
        ({"encoder_channels": (16,) * 5}, "cannot be set for encoder 'resnet18', only for"),
        (
            {"encoder": "residual10", "encoder_channels": (16, 32)},
            r"model.encoder_channels is \[16, 32\], expected 5 numbers of 1 or more.",
        ),
        (
            {"encoder": "narrow16", "encoder_channels": (16, 0, 16, 16, 16)},
            "expected 5 numbers of 1 or more.",
        ),
        ({"input_upscale": 2, "input_stride": 2}, "Use one of them"),
        (
            {"architecture": "DPT"},
            "DPT needs a vision transformer of timm, but encoder is 'resnet1",
        ),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "resnet81"},
            "there is no encoder 'resnet81'; tu-… is one of timm's. Did you mean resnet18 or ",
        ),
        (
            {"encoder": "tu-convnext_tinny"},
            "there is no encoder 'convnext_tinny' in timm. Did you mean convnext_tiny or ",
        ),
        ({"architecture": "Unett"}, "there is no architecture 'Unett'. Did you mean Unet or "),
    ],
)
def test_names_that_no_library_has_are_answered_with_near_ones(
    changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Segmenter(ModelConfig(**changes), 2)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)


def test_names_of_the_libraries_are_known_without_importing_them() -> None:
    """They are read from source files: where a library writes them another way, this fails."""
    assert sorted(ARCHITECTURES, key=str.lower) == sorted(
        (kind.__name__ for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()), key=str.lower
    )
    assert library_encoders() == set(smp.encoders.encoders)
    assert timm_encoders() == set(timm.list_models())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_weights": "luck"}, "Available options are: ['imagenet', 'ssl', 'swsl']"),
        ({"encoder": "narrow16", "encoder_weights": "imagenet"}, "Available options are: []"),
        ({"decoder_channels": (32, 16)}, "`decoder_channels` for 2 blocks"),
        ({"encoder": "tu-vit_tiny_patch16_224"}, "Unsupported model downsampling pattern"),
        ({"architecture": "DeepLabV3", "encoder": "vgg11"}, "do not support dilated mode"),
    ],
)
def test_what_the_library_cannot_build_is_refused_in_its_words(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Segmenter(ModelConfig(**changes), 2)
    assert str(refused.value).startswith("segmentation-models-pytorch ")
    assert message in str(refused.value)


def test_weights_that_cannot_be_fetched_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HF_HUB_OFFLINE", True), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    with pytest.raises(ConfigError) as refused:
        Segmenter(ModelConfig(encoder_weights="imagenet"), 2)
    assert "weights 'imagenet' of encoder 'resnet18' cannot be downloaded" in str(refused.value)
    assert "\n" not in str(refused.value)
