"""Resampling at a fixed size as products with two constant matrices, while a graph is traced.

Opset 17 has no operator for adaptive pooling and antialiased resizing. Between two fixed sizes both
are linear along rows and columns, so each is one constant matrix per direction. ONNX Runtime and
every TensorRT can multiply matrices.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Size = tuple[int, int]
Resample = Callable[[Tensor, Size], Tensor]
"""Resamples images [N, 1, H, W] to a height and width."""
POOLING: Final = inspect.signature(functional.adaptive_avg_pool2d)
INTERPOLATION: Final = inspect.signature(functional.interpolate)


class ConstantResampling(TorchFunctionMode):
    """Replaces functions without an operator by matrix products, within its context.

    All others are unchanged: global pooling, and resizing that ONNX's Resize can do.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by PyTorch instead of each of its functions."""
        kwargs = kwargs or {}
        if func is functional.adaptive_avg_pool2d:
            given = POOLING.bind(*args, **kwargs).arguments
            size = _pooled_size(given["input"], given["output_size"])
            if size != (1, 1):
                return _resample(given["input"], size, functional.adaptive_avg_pool2d)
        elif func is functional.interpolate:
            given = INTERPOLATION.bind(*args, **kwargs).arguments
            if _lacks_operator(given):
                size = _pooled_size(given["input"], given["size"])
                return _resample(given["input"], size, _interpolation(given))
        return func(*args, **kwargs)


def _lacks_operator(given: Mapping[str, Any]) -> bool:
    is_sized_image = given["input"].ndim == 4 and given.get("size") is not None
    return is_sized_image and (given.get("mode") == "area" or bool(given.get("antialias")))


def _interpolation(given: Mapping[str, Any]) -> Resample:
    options = {name: value for name, value in given.items() if name not in ("input", "size")}

    def interpolate(image_N1HW: Tensor, size: Size) -> Tensor:
        return functional.interpolate(image_N1HW, size=size, **options)

    return interpolate


def _pooled_size(image: Tensor, size: Any) -> Size:
    """Parse a size of PyTorch's functions: one number for both, None for the image's own size."""
    pair = size if isinstance(size, Sequence) else (size, size)
    height, width = (
        int(before if after is None else after)
        for before, after in zip(image.shape[-2:], pair, strict=True)
    )
    return height, width


def _resample(image: Tensor, size: Size, resample: Resample) -> Tensor:
    """Resample […, H, W] to […, height, width]."""
    before = int(image.shape[-2]), int(image.shape[-1])
    if before == size:
        return image
    # Another thread is not traced, so its result enters the graph as a constant.
    with ThreadPoolExecutor(1) as untraced:
        rows, columns = untraced.map(_matrix, before, size, (resample, resample))
    ranks = (1,) * (image.ndim - 2)
    image = image @ columns.to(image).view(*ranks, *columns.shape)
    return rows.to(image).T.reshape(*ranks, size[0], before[0]) @ image


def _matrix(before: int, after: int, resample: Resample) -> Tensor:
    """Return [before, after]: the weight of each input pixel of a row in each output pixel."""
    with torch.no_grad():
        return resample(torch.eye(before).view(before, 1, 1, before), (1, after)).view(
            before, after
        )
