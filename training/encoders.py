"""Residual encoders that are smaller than the library's, for fast engines.

ONNX Runtime's blocked layout, its INT8 kernels and a GPU's matrix units are fastest at dense 3×3
convolutions with ReLU in multiples of 16 channels; depthwise networks with fewer multiplications
take longer. Importing this module adds the encoders to segmentation-models-pytorch: ``narrow16``
and ``narrow32`` for CPUs, and ``residual10``, half a ResNet-18, for GPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders._base import EncoderMixin
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(in_channels, out_channels, 3, stride)
        self.second = convolution(out_channels, out_channels, 3, 1, activate=False)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels and stride == 1
            else convolution(in_channels, out_channels, 1, stride, activate=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features at the block's stride."""
        return functional.relu(self.second(self.first(features)) + self.shortcut(features))


class ResidualEncoder(nn.Module, EncoderMixin):  # type: ignore[misc] # the library has no types
    """Five stages that each halve the image: a stem and four stages of residual blocks.

    Args:
        channels: Channels of the five stages.
        num_blocks: Residual blocks of the last four stages.
        depth: Number of stages that the decoder uses.
        in_channels: Channels of the image.
        output_stride: Must be 32; dilation is not supported.
        weights: Must be None; there are no pretrained weights.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_blocks: Sequence[int],
        depth: int = 5,
        in_channels: int = 1,
        output_stride: int = 32,
        weights: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if weights is not None:
            raise ValueError("there are no pretrained weights of this encoder")
        self._depth = depth
        self._in_channels = in_channels
        self._output_stride = output_stride
        self._out_channels = [in_channels, *channels]
        stages: list[nn.Module] = [convolution(in_channels, channels[0], 5, 2)]
        for before, after, num in zip(channels[:-1], channels[1:], num_blocks, strict=True):
            blocks = [ResidualBlock(before, after, 2)]
            blocks += [ResidualBlock(after, after, 1) for _ in range(num - 1)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def set_in_channels(self, in_channels: int, pretrained: bool = False) -> None:  # noqa: ARG002 # the library's signature
        """Called by the library; images are gray.

        Raises:
            ValueError: The number of channels differs.
        """
        if in_channels != self._in_channels:
            raise ValueError(f"{in_channels} channels; this encoder has {self._in_channels}")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the image and the features of each stage."""
        features = [image]
        for stage in list(self.stages)[: self._depth]:
            features.append(stage(features[-1]))
        return features


def convolution(
    in_channels: int, out_channels: int, size: int, stride: int, *, activate: bool = True
) -> nn.Sequential:
    """Return a convolution with batch normalisation and, by default, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if activate:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


NUM_BLOCKS: Final = {"narrow16": (1, 2, 2, 2), "narrow32": (1, 2, 2, 2), "residual10": (1, 1, 1, 1)}
"""Residual blocks of the last four stages."""
CHANNELS: Final = {
    "narrow16": (16, 16, 32, 64, 96),
    "narrow32": (16, 32, 48, 96, 128),
    "residual10": (32, 64, 128, 256, 512),
}


@contextlib.contextmanager
def own_encoder(name: str, channels: Sequence[int] = ()) -> Iterator[str]:
    """The library's name of an encoder within a `with` block; ours may get other channels.

    Args:
        name: The encoder's name.
        channels: Channels of the five stages; empty for the encoder's own.
    """
    if not channels:
        yield name
        return
    changed = f"{name}-{'-'.join(map(str, channels))}"
    _register(changed, channels, NUM_BLOCKS[name])
    try:
        yield changed
    finally:
        smp.encoders.encoders.pop(changed, None)


def _register(name: str, channels: Sequence[int], num_blocks: Sequence[int]) -> None:
    smp.encoders.encoders[name] = {
        "encoder": ResidualEncoder,
        "pretrained_settings": {},
        "params": {"channels": tuple(channels), "num_blocks": tuple(num_blocks)},
    }


for _name, _channels in CHANNELS.items():
    _register(_name, _channels, NUM_BLOCKS[_name])
