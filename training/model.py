"""Networks: an encoder and decoder of segmentation-models-pytorch, cut to a stride.

Full-resolution decoder blocks cost about half of a U-Net's time for a tenth of its arithmetic. Here
the input may be pooled first and the decoder may stop early; logits are brought back to full
resolution inside the exported graph. Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional

from steel_batch.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A network."""

    architecture: str = "Unet"
    """Any architecture of segmentation-models-pytorch; only U-Nets can stop early."""
    encoder: str = "resnet18"
    encoder_weights: str | None = None
    """Pretrained weights to begin with, fetched by the library; None begins from scratch."""
    input_stride: int = 1
    """The input is averaged over squares of this side first."""
    output_stride: int = 1
    """Logits are made at this stride of the pooled input: 1, 2 or 4."""
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)


class Segmenter(nn.Module):
    """One network.

    Args:
        config: Which.
        num_classes: Channels of the logits.

    Raises:
        ConfigError: The library has no such encoder or architecture, or it cannot stop early.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.stride = config.input_stride * config.output_stride
        self._pool = config.input_stride
        options: dict[str, object] = {
            "encoder_weights": config.encoder_weights,
            "in_channels": 1,
            "classes": num_classes,
        }
        if config.architecture == "Unet":
            options["decoder_channels"] = config.decoder_channels
        elif config.output_stride != 1:
            raise ConfigError(f"{config.architecture} cannot stop early; use output_stride 1.")
        try:
            network = smp.create_model(config.architecture.lower(), config.encoder, **options)
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"segmentation-models-pytorch {smp.__version__} has no {config.architecture} with "
                f"encoder {config.encoder!r}: {error}"
            ) from error
        num_dropped = config.output_stride.bit_length() - 1
        if num_dropped:
            kept = len(config.decoder_channels) - num_dropped
            network.decoder.blocks = nn.ModuleList(list(network.decoder.blocks)[:kept])
            network.segmentation_head = nn.Conv2d(
                config.decoder_channels[kept - 1], num_classes, 3, padding=1
            )
        self.network = network

    def forward(self, image_N1HW: Tensor) -> Tensor:
        """Logits [N, C, H/stride, W/stride] of images scaled to 0–1."""
        if self._pool > 1:
            image_N1HW = functional.avg_pool2d(image_N1HW, self._pool)
        logits: Tensor = self.network((image_N1HW - 0.5) * 4)
        return logits


class ContractGraph(nn.Module):
    """The whole graph of an engine: see `steel_batch.engine.contract`.

    Args:
        segmenter: The network.
        thresholds: Per class, as a probability.
    """

    def __init__(self, segmenter: Segmenter, thresholds: tuple[float, ...]) -> None:
        super().__init__()
        self._segmenter = segmenter
        probabilities = torch.tensor(thresholds)
        self.limits: Tensor
        """Per class, the logit of its threshold."""
        self._bits: Tensor
        self.register_buffer("limits", torch.logit(probabilities).view(1, -1, 1, 1))
        bits = 2.0 ** torch.arange(len(thresholds))
        self.register_buffer("_bits", bits.view(1, -1, 1, 1))

    def logits(self, image_N1HW: Tensor) -> Tensor:
        """Logits at full resolution, of uint8 images."""
        logits = self._segmenter(image_N1HW.float() / 255)
        if self._segmenter.stride > 1:
            logits = functional.interpolate(
                logits, scale_factor=float(self._segmenter.stride), mode="bilinear"
            )
        return logits

    def forward(self, image_N1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, peak and count."""
        logits = self.logits(image_N1HW)
        over = (logits > self.limits).to(logits.dtype)
        mask = functional.conv2d(over, self._bits).to(torch.uint8)
        peak = torch.sigmoid(logits.amax((2, 3)))
        return mask, peak, over.sum((2, 3))
