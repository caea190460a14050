"""Networks: an encoder and decoder of segmentation-models-pytorch, cut to a stride.

Full-resolution decoder blocks take about half of a U-Net's time for a tenth of its arithmetic. So
the input may be pooled first, and the decoder may stop early; logits are upsampled to full
resolution inside the exported graph. Shape suffixes: N images, C classes, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable
from typing import Any, Final

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from steel_batch.errors import ConfigError, paragraph_of
from training.encoders import own_encoder
from training.names import TIMM_PREFIX, unknown_encoder
from training.recipe import ModelConfig

ENCODER_STRIDE: Final = 32
"""The library's encoders halve their input five times."""
UNFIT: Final = (
    AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Errors of the libraries if a network cannot be built, or does not accept a size."""


class Segmenter(nn.Module):
    """One network.

    Args:
        config: Its architecture, encoder and first weights.
        num_classes: Channels of the logits.

    Raises:
        ConfigError: The library has no such encoder or architecture, or cannot get the weights.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        stride = config.input_stride * config.output_stride
        self.side = stride if config.head == "subpixel" else 1
        """Side of the square of pixels that the head predicts for each logit, in pixels."""
        self.stride = stride // self.side
        """Image pixels along one side of a logits pixel."""
        self.cell = ENCODER_STRIDE // config.output_stride
        """Squares along one side of the area of the smallest feature; they fill an image."""
        self.name = f"{config.architecture} with encoder {config.encoder!r}"
        """For messages."""
        self._config = config
        self._multiple = ENCODER_STRIDE * config.input_stride // config.input_upscale
        self.network = _build(config, num_classes)

    def forward(self, image_N1HW: Tensor) -> Tensor:
        """Logits of images scaled to 0–1.

        Returns:
            [N, C, ⌈H/stride⌉, ⌈W/stride⌉].
        """
        height, width = (int(size) for size in image_N1HW.shape[-2:])  # constants of the export
        logits = self.squares(image_N1HW)
        if self.side > 1:
            logits = functional.pixel_shuffle(logits, self.side)
        if not self.fits(height, width):
            logits = logits[..., : -(-height // self.stride), : -(-width // self.stride)]
        return logits

    def fits(self, height: int, width: int) -> bool:
        """Return whether images of a size are accepted without padding."""
        return height % self._multiple == 0 and width % self._multiple == 0

    def squares(self, image_N1HW: Tensor) -> Tensor:
        """Return logits of the padded image, with those of a square as channels of one pixel.

        Returns:
            [N, C·side², h, w]: channels in order of class, row and column.
        """
        height, width = (int(size) for size in image_N1HW.shape[-2:])
        image_N1HW = (image_N1HW - self._config.mean) / self._config.std
        stride, upscale = self._config.input_stride, self._config.input_upscale
        below, right = -height % self._multiple, -width % self._multiple
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
        return logits


def check_sizes(segmenter: Segmenter, sizes: Iterable[tuple[int, int]]) -> None:
    """Refuse a network that does not accept images of some sizes, before training.

    Some encoders accept only the image size that they were made for, or multiples of it.

    Args:
        segmenter: The network, on the CPU; it is set to evaluation mode.
        sizes: Heights and widths.

    Raises:
        ConfigError: It names the network, the size and the library's message.
    """
    segmenter.eval()
    for height, width in sorted(set(sizes)):
        try:
            with torch.no_grad():
                segmenter(torch.zeros(1, 1, height, width))
        except UNFIT as error:
            raise ConfigError(
                f"{segmenter.name} does not accept images or crops of {height}×{width}: "
                f"{paragraph_of(error)}. Use another --encoder or --architecture, or another "
                "--crop-width."
            ) from error


def _build(config: ModelConfig, num_classes: int) -> nn.Module:
    architecture = config.architecture.lower()
    _check_encoder(config.encoder)
    options: dict[str, Any] = {
        "encoder_weights": config.encoder_weights,
        "in_channels": config.input_stride**2 if config.fold == "channels" else 1,
        "classes": num_classes,
    }
    is_unet = architecture == "unet"
    if is_unet:
        options["decoder_channels"] = config.decoder_channels
    try:
        with own_encoder(config.encoder, config.encoder_channels) as encoder:
            network = _create(architecture, encoder, options)
    except OSError as error:
        raise ConfigError(
            f"the weights {config.encoder_weights!r} of encoder {config.encoder!r} cannot be "
            f"downloaded: {paragraph_of(error)}. Give this machine access to them, or remove "
            "--encoder-weights."
        ) from error
    except UNFIT as error:
        raise ConfigError(
            f"segmentation-models-pytorch {smp.__version__} has no {config.architecture} with "
            f"encoder {config.encoder!r}: {paragraph_of(error)}"
        ) from error
    num_blocks = len(config.decoder_channels) - (config.output_stride.bit_length() - 1)
    if is_unet and num_blocks < len(config.decoder_channels):
        network.decoder.blocks = nn.ModuleList(list(network.decoder.blocks)[:num_blocks])
    if is_unet:
        network.segmentation_head = _head(config, num_blocks, num_classes)
    built: nn.Module = network
    return built


def _create(architecture: str, encoder: str, options: dict[str, Any]) -> Any:
    """Create the library's network; vision transformers are set to accept images of any size."""
    with warnings.catch_warnings():
        # A warning about a setting that has no effect on encoders without such tokens.
        warnings.filterwarnings("ignore", "Encoder does not have prefix tokens", UserWarning)
        if architecture == "dpt":
            # An encoder without this argument accepts any size anyway, or only its own.
            with contextlib.suppress(TypeError):
                return smp.create_model(architecture, encoder, dynamic_img_size=True, **options)
        return smp.create_model(architecture, encoder, **options)


def _check_encoder(name: str) -> None:
    """Refuse an encoder that the libraries do not have."""
    timm_name = name.removeprefix(TIMM_PREFIX)
    if timm_name == name and name not in smp.encoders.encoders:
        raise unknown_encoder(name, smp.encoders.encoders)
    if timm_name != name and not timm.is_model(timm_name):
        raise unknown_encoder(name, timm.list_models())


def _head(config: ModelConfig, num_blocks: int, num_classes: int) -> nn.Module:
    side = config.input_stride * config.output_stride if config.head == "subpixel" else 1
    return nn.Conv2d(
        config.decoder_channels[num_blocks - 1], num_classes * side * side, 3, padding=1
    )


class ContractGraph(nn.Module):
    """The whole graph of an engine: see `steel_batch.engine.contract`.

    Runs in the precision of its parameters; counts and peaks are always float32.

    Args:
        segmenter: The network.
        thresholds: One probability per class.
    """

    def __init__(self, segmenter: Segmenter, thresholds: tuple[float, ...]) -> None:
        super().__init__()
        self._segmenter = segmenter
        self.name = segmenter.name
        """For messages."""
        self.limits: Tensor
        """The logit of each class's threshold."""
        self._bits: Tensor
        limits = torch.logit(torch.tensor(thresholds, dtype=torch.float64)).float()
        self.register_buffer("limits", limits.view(1, -1, 1, 1))
        bits = 2.0 ** torch.arange(len(thresholds))
        self.register_buffer("_bits", bits.view(1, -1, 1, 1))

    def logits(self, image_N1HW: Tensor) -> Tensor:
        """Return logits of uint8 images at full resolution."""
        height, width = (int(size) for size in image_N1HW.shape[-2:])
        stride = self._segmenter.stride
        logits: Tensor = self._segmenter(self._scaled(image_N1HW))
        if stride > 1:
            logits = functional.interpolate(logits, scale_factor=float(stride), mode="bilinear")
            if height % stride or width % stride:
                logits = logits[..., :height, :width]
        return logits

    def forward(self, image_N1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mask, peak and count."""
        if self._segmenter.side > 1 and self._segmenter.fits(*image_N1HW.shape[-2:]):
            return self._from_squares(self._segmenter.squares(self._scaled(image_N1HW)))
        logits = self.logits(image_N1HW)
        over = (logits > self.limits).to(logits.dtype)
        # A sum instead of a 1×1 convolution: ONNX Runtime pads the latter to 16 channels at full
        # resolution, which took a fifth of a small network's time.
        mask = (over * self._bits).sum(1, keepdim=True).to(torch.uint8)
        peak = torch.sigmoid(logits.amax((2, 3)).float())
        return mask, peak, over.float().sum((2, 3))

    def _scaled(self, image_N1HW: Tensor) -> Tensor:
        return image_N1HW.to(self.limits.dtype) / 255

    def _from_squares(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Like `forward`, from a subpixel head's logits; only the mask gets full resolution.

        The mask has one channel and the logits have one per class, and reductions over planes of
        hundreds of thousands of pixels are slow on a GPU: squares are reduced first.
        """
        side, num_classes = self._segmenter.side, self.limits.shape[1]
        num_places = side * side
        over = (logits > self.limits.repeat_interleave(num_places, 1)).to(logits.dtype)
        places = torch.eye(num_places, dtype=logits.dtype, device=logits.device)
        weight = (self._bits.view(1, -1, 1) * places[:, None]).flatten(1)[..., None, None]
        mask = functional.pixel_shuffle(functional.conv2d(over, weight), side).to(torch.uint8)
        size = self._segmenter.cell
        peak = functional.max_pool2d(logits, size).amax((2, 3))
        peak = torch.sigmoid(peak.reshape(-1, num_classes, num_places).amax(2).float())
        # Up to 1,024 pixels per cell: float16 represents their share and their number exactly.
        count = (functional.avg_pool2d(over, size) * size**2).float().sum((2, 3))
        return mask, peak, count.reshape(-1, num_classes, num_places).sum(2)
