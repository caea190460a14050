"""Networks: an encoder and decoder of segmentation-models-pytorch, cut to a stride.

Full-resolution decoder blocks cost about half of a U-Net's time for a tenth of its arithmetic. Here
the input may be pooled first and the decoder may stop early; logits are brought back to full
resolution inside the exported graph. Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from steel_batch.errors import ConfigError, paragraph_of
from training import encoders as _small_encoders  # noqa: F401 # adds them to the library's list

ENCODER_STRIDE = 32
"""The library's encoders halve their input five times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A network."""

    architecture: str = "Unet"
    """Any architecture of segmentation-models-pytorch; only U-Nets can stop early."""
    encoder: str = "resnet18"
    """Any encoder of the library; ``tu-…`` for one of timm."""
    encoder_weights: str | None = None
    """Pretrained weights to begin with, fetched by the library; None begins from scratch."""
    input_stride: int = 1
    """The network sees the input at this stride: 1, 2 or 4."""
    fold: str = "average"
    """How the input comes to that stride: ``average`` over squares, or ``channels``, where each
    pixel of a square is a channel of its own and nothing is lost."""
    input_upscale: int = 1
    """The input is enlarged by this factor first, 1 or 2: for small images with fine defects."""
    output_stride: int = 1
    """Logits are made at this stride of the pooled input: 1, 2 or 4."""
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    """Of a U-Net's five decoder blocks; those that it stops before are not made."""
    head: str = "bilinear"
    """How coarse logits come back to full resolution: ``bilinear``, or ``subpixel``, where the
    network says each pixel of a square itself."""
    mean: float = 0.5
    """Subtracted from pixels that are scaled to 0–1."""
    std: float = 0.25
    """What they are then divided by."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        _check_name("architecture", self.architecture.lower(), smp.MODEL_ARCHITECTURES_MAPPING)
        timm_name = self.encoder.removeprefix("tu-")
        if timm_name == self.encoder:
            _check_name("encoder", self.encoder, smp.encoders.encoders, "; tu-… is one of timm's")
        elif not timm.is_model(timm_name):
            _check_name("encoder", timm_name, timm.list_models(), " in timm")
        for name in ("input_stride", "output_stride"):
            if getattr(self, name) not in (1, 2, 4):
                raise ConfigError(f"model.{name} is {getattr(self, name)}, not one of 1, 2 and 4.")
        if self.fold not in ("average", "channels"):
            raise ConfigError(f"model.fold is {self.fold!r}, not average or channels.")
        if self.input_upscale not in (1, 2):
            raise ConfigError(f"model.input_upscale is {self.input_upscale}, not 1 or 2.")
        if self.input_upscale > 1 and (self.input_stride, self.output_stride) != (1, 1):
            raise ConfigError(
                "model.input_upscale enlarges what model.input_stride or output_stride makes "
                "coarser; give one of them."
            )
        if self.output_stride > 1 and self.architecture.lower() != "unet":
            raise ConfigError(
                f"{self.architecture} cannot stop early; use Unet, or model.output_stride = 1."
            )
        if self.head not in ("bilinear", "subpixel"):
            raise ConfigError(f"model.head is {self.head!r}, not bilinear or subpixel.")
        if self.head == "subpixel" and self.architecture.lower() != "unet":
            raise ConfigError(f"{self.architecture} has no subpixel head; use Unet.")
        if min(self.decoder_channels, default=1) < 1:
            raise ConfigError(
                f"model.decoder_channels is {list(self.decoder_channels)}, expected 1 or more of "
                "each block."
            )
        if self.std <= 0:
            raise ConfigError(f"model.std is {self.std}, expected more than 0.")


def _check_name(what: str, name: str, known: Iterable[str], where: str = "") -> None:
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known) or known[:3]
        raise ConfigError(f"there is no {what} {name!r}{where}. Did you mean {' or '.join(near)}?")


class Segmenter(nn.Module):
    """One network.

    Args:
        config: Which.
        num_classes: Channels of the logits.

    Raises:
        ConfigError: The library has no such encoder or architecture, or cannot fetch the weights.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        stride = config.input_stride * config.output_stride
        self.stride = 1 if config.head == "subpixel" else stride
        """Pixels of the image along one side of a pixel of the logits."""
        self._config = config
        self.network = _build(config, num_classes)

    def forward(self, image_N1HW: Tensor) -> Tensor:
        """Logits of images scaled to 0–1.

        Returns:
            [N, C, ⌈H/stride⌉, ⌈W/stride⌉].
        """
        height, width = (int(size) for size in image_N1HW.shape[-2:])  # constants of the export
        image_N1HW = (image_N1HW - self._config.mean) / self._config.std
        stride, upscale = self._config.input_stride, self._config.input_upscale
        multiple = ENCODER_STRIDE * stride // upscale
        below, right = -height % multiple, -width % multiple
        if below or right:
            image_N1HW = functional.pad(image_N1HW, (0, right, 0, below))
        if upscale > 1:
            image_N1HW = functional.interpolate(
                image_N1HW, scale_factor=float(upscale), mode="bilinear"
            )
        if stride > 1 and self._config.fold == "channels":
            image_N1HW = functional.pixel_unshuffle(image_N1HW, stride)
        elif stride > 1:
            image_N1HW = functional.avg_pool2d(image_N1HW, stride)
        logits: Tensor = self.network(image_N1HW)
        if upscale > 1:
            logits = functional.avg_pool2d(logits, upscale)
        if below or right:
            logits = logits[..., : -(-height // self.stride), : -(-width // self.stride)]
        return logits


def _build(config: ModelConfig, num_classes: int) -> nn.Module:
    options: dict[str, Any] = {
        "encoder_weights": config.encoder_weights,
        "in_channels": config.input_stride**2 if config.fold == "channels" else 1,
        "classes": num_classes,
    }
    is_unet = config.architecture.lower() == "unet"
    if is_unet:
        options["decoder_channels"] = config.decoder_channels
    try:
        network: Any = smp.create_model(config.architecture.lower(), config.encoder, **options)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"segmentation-models-pytorch {smp.__version__} has no {config.architecture} with "
            f"encoder {config.encoder!r}: {paragraph_of(error)}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the weights {config.encoder_weights!r} of encoder {config.encoder!r} cannot be "
            f"fetched: {paragraph_of(error)}. Give this machine a way to them, or leave "
            "--encoder-weights out."
        ) from error
    num_blocks = len(config.decoder_channels) - (config.output_stride.bit_length() - 1)
    if is_unet and num_blocks < len(config.decoder_channels):
        network.decoder.blocks = nn.ModuleList(list(network.decoder.blocks)[:num_blocks])
    if is_unet:
        network.segmentation_head = _head(config, num_blocks, num_classes)
    built: nn.Module = network
    return built


def _head(config: ModelConfig, num_blocks: int, num_classes: int) -> nn.Module:
    side = config.input_stride * config.output_stride if config.head == "subpixel" else 1
    logits = nn.Conv2d(
        config.decoder_channels[num_blocks - 1], num_classes * side * side, 3, padding=1
    )
    return logits if side == 1 else nn.Sequential(logits, nn.PixelShuffle(side))


class ContractGraph(nn.Module):
    """The whole graph of an engine: see `steel_batch.engine.contract`.

    Runs in the precision of its parameters; counts and peaks are float32 in each.

    Args:
        segmenter: The network.
        thresholds: Per class, as a probability.
    """

    def __init__(self, segmenter: Segmenter, thresholds: tuple[float, ...]) -> None:
        super().__init__()
        self._segmenter = segmenter
        self.limits: Tensor
        """Per class, the logit of its threshold."""
        self._bits: Tensor
        limits = torch.logit(torch.tensor(thresholds, dtype=torch.float64)).float()
        self.register_buffer("limits", limits.view(1, -1, 1, 1))
        bits = 2.0 ** torch.arange(len(thresholds))
        self.register_buffer("_bits", bits.view(1, -1, 1, 1))

    def logits(self, image_N1HW: Tensor) -> Tensor:
        """Logits at full resolution, of uint8 images."""
        height, width = (int(size) for size in image_N1HW.shape[-2:])
        stride = self._segmenter.stride
        logits: Tensor = self._segmenter(image_N1HW.to(self.limits.dtype) / 255)
        if stride > 1:
            logits = functional.interpolate(logits, scale_factor=float(stride), mode="bilinear")
            if height % stride or width % stride:
                logits = logits[..., :height, :width]
        return logits

    def forward(self, image_N1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, peak and count."""
        logits = self.logits(image_N1HW)
        over = (logits > self.limits).to(logits.dtype)
        # A sum and not a 1×1 convolution: ONNX Runtime pads that one's channels to sixteen at full
        # resolution, which took a fifth of the time of a small network.
        mask = (over * self._bits).sum(1, keepdim=True).to(torch.uint8)
        peak = torch.sigmoid(logits.amax((2, 3)).float())
        return mask, peak, over.float().sum((2, 3))
