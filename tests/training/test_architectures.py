"""Every architecture of the library: exported, held against PyTorch, compiled by TensorRT."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steel_batch.engine.compiler import compile_graph
from steel_batch.errors import ConfigError, SteelBatchError
from training.choices import ARCHITECTURES
from training.export import check_graph, export_graph
from training.model import ContractGraph, Segmenter, check_sizes
from training.recipe import ModelConfig

SIZES = ((200, 200), (256, 1600))
"""Of NEU-Seg and of Severstal."""
ENCODERS = (
    "resnet18", "narrow16", "residual10", "mit_b0", "efficientnet-b0", "mobilenet_v2", "vgg11",
    "densenet121", "dpn68", "inceptionv4", "xception", "mobileone_s0", "timm-skresnet18",
    "tu-mobilenetv3_small_050", "tu-convnext_atto", "tu-resnet18", "tu-efficientvit_b0",
    "tu-hiera_tiny_224", "tu-vit_tiny_patch16_224", "tu-swin_tiny_patch4_window7_224",
)  # fmt: skip


def encoder_of(architecture: str) -> str:
    return "tu-vit_tiny_patch16_224" if architecture == "DPT" else "resnet18"


def smallest_of(architecture: str) -> str:
    """Most take `narrow16`, of which all is smaller; these three dilate their encoder."""
    dilates = architecture in ("DeepLabV3", "DeepLabV3Plus", "PAN")
    return encoder_of(architecture) if dilates or architecture == "DPT" else "narrow16"


def image(height: int, width: int) -> np.ndarray:
    """Stripes with noise, so that logits differ from place to place."""
    rng = np.random.default_rng(0)
    stripes_W = 100 + 60 * np.sin(np.arange(width) / 17)
    return np.clip(rng.normal(stripes_W, 25, (height, width)), 0, 255).astype(np.uint8)


def untrained(architecture: str, encoder: str, image_HW: np.ndarray) -> ContractGraph:
    """A network with thresholds amid its logits: about half of each mask is set, none is near."""
    torch.manual_seed(0)
    network = Segmenter(ModelConfig(architecture=architecture, encoder=encoder), 2).eval()
    graph = ContractGraph(network, (0.5, 0.5))
    head = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    image_N1HW = torch.from_numpy(image_HW)[None, None]
    with torch.no_grad():
        # Some networks answer nearly the same everywhere as long as they are not trained.
        head.weight /= graph.logits(image_N1HW).std((0, 2, 3)).mean().clamp(max=1)
        logits = graph.logits(image_N1HW)
    thresholds = []
    for values in logits[0].flatten(1).double().sort(1).values:
        middle = values[2 * len(values) // 5 : 3 * len(values) // 5]
        widest = int(middle.diff().argmax())
        thresholds.append(float(torch.sigmoid(middle[widest : widest + 2].mean())))
    return ContractGraph(network, tuple(thresholds)).eval()


SHOWN_BELOW = pytest.param("DPT", marks=pytest.mark.slow)  # by the test of a vision transformer


@pytest.mark.parametrize("architecture", [*sorted({*ARCHITECTURES} - {"DPT"}), SHOWN_BELOW])
def test_every_architecture_is_exported_and_agrees_with_pytorch(architecture: str) -> None:
    """Of a small image, whose sides are padded; those of `SIZES` follow before TensorRT."""
    image_HW = image(136, 168)
    graph = untrained(architecture, smallest_of(architecture), image_HW)
    agreement = check_graph(
        graph, export_graph(graph, 136, 168, precision="fp32"), [image_HW], precision="fp32"
    )
    assert agreement.band < 0.01
    assert agreement.peak_difference < 1e-4


@pytest.mark.quick("fp32-200x200-PSPNet", "fp32-200x200-PAN")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_architecture_is_compiled_by_tensorrt(
    precision: str, size: tuple[int, int], architecture: str
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")
    image_HW = image(*size)
    graph = untrained(architecture, encoder_of(architecture), image_HW)
    data = export_graph(graph, *size, precision=precision)
    if precision == "fp32":
        check_graph(graph, data, [image_HW], precision=precision)
    built = compile_graph(data, trt=trt, precision=precision, batch_size=2)
    assert built.layers[precision] > 10


def agrees_or_is_refused_by_name(architecture: str, encoder: str, size: tuple[int, int]) -> None:
    image_HW = image(*size)
    try:
        check_sizes(Segmenter(ModelConfig(architecture=architecture, encoder=encoder), 2), [size])
        graph = untrained(architecture, encoder, image_HW)
        data = export_graph(graph, *size, precision="fp32")
    except SteelBatchError as refused:
        text = str(refused)
        assert "\n" not in text
        assert architecture in text
        assert repr(encoder) in text
    else:
        check_graph(graph, data, [image_HW], precision="fp32")


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
@pytest.mark.quick("PSPNet-narrow16", "Segformer-mit_b0", "FPN-tu-convnext_atto", "PAN-narrow16")
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_encoder_agrees_or_is_refused_by_name(architecture: str, encoder: str) -> None:
    agrees_or_is_refused_by_name(architecture, encoder, (65, 97))


@pytest.mark.quick("255x1601-PSPNet")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(96, 96), (255, 1601)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size_agrees_or_is_refused_by_name(size: tuple[int, int], architecture: str) -> None:
    agrees_or_is_refused_by_name(architecture, smallest_of(architecture), size)


def test_a_vision_transformer_takes_images_of_any_size() -> None:
    """Its positions are resampled, antialiased, to the grid of the image: no size is its own."""
    image_HW = image(96, 250)
    graph = untrained("DPT", "tu-vit_tiny_patch16_224", image_HW)
    data = export_graph(graph, 96, 250, precision="fp32")
    agreement = check_graph(graph, data, [image_HW], precision="fp32")
    assert agreement.band < 0.01
    assert agreement.peak_difference < 1e-4


def test_an_encoder_of_one_size_takes_that_and_says_so_of_others() -> None:
    name = "tu-vit_relpos_small_patch16_224"
    segmenter = Segmenter(ModelConfig(architecture="DPT", encoder=name), 2)
    check_sizes(segmenter, [(200, 210)])  # padded to 224 on both sides
    with pytest.raises(ConfigError) as refused:
        check_sizes(segmenter, [(200, 210), (200, 256)])
    assert str(refused.value).startswith(
        f"DPT with encoder '{name}' does not accept images or crops of 200×256: Input width (256) "
        "doesn't match model (224)"
    )


@pytest.mark.parametrize(
    "encoder", ["tu-vit_small_patch14_dinov2", "tu-xcit_nano_12_p16_224", "tu-levit_128s"]
)
def test_an_encoder_that_the_decoder_cannot_use_is_refused_by_name(encoder: str) -> None:
    with pytest.raises(ConfigError, match=rf"DPT with encoder '{encoder}'") as refused:
        check_sizes(Segmenter(ModelConfig(architecture="DPT", encoder=encoder), 2), [(200, 200)])
    assert "\n" not in str(refused.value)
