"""JPEGs decoded on the GPU, with nvImageCodec, straight into an engine's input.

Only this module imports it. What the GPU does not decode is left to the CPU, whose answer counts.

Shape suffixes: N images of a batch, H rows, W columns.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.engine.gpu import NON_BLOCKING, Gpu, open_gpu
from steel_batch.errors import ConfigError
from steel_batch.jpeg import is_plain_jpeg

log = logging.getLogger(__name__)


def import_nvimgcodec() -> ModuleType:
    """The bindings of nvImageCodec.

    Raises:
        ConfigError: They are not installed, or their library cannot be loaded.
    """
    try:
        return importlib.import_module("nvidia.nvimgcodec")
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"--decode gpu needs NVIDIA's nvImageCodec, which cannot be imported here ({error}). "
            "Install steel-batch[gpu] on every GPU node, or give --decode cpu."
        ) from error


class GpuDecoder:
    """Decodes a batch's JPEGs to gray into device memory. One thread at a time may use it.

    The hardware decoder is asked first, where the GPU has one, then its other units, then both
    together with the CPU.

    Args:
        gpu: Whose context is current, here and in each call.
        stream: PyCUDA's; what it is given after `decode` sees the pixels.
        address: Of the batch in the device's memory, which outlives the decoder.
        shape_NHW: Of that memory, one byte a pixel.
        num_threads: CPU threads that read headers and feed the GPU; 0 for one a core.

    Raises:
        ConfigError: nvImageCodec is missing.
        RuntimeError: It does not start.
    """

    def __init__(
        self, gpu: Gpu, stream: Any, address: int, shape_NHW: tuple[int, int, int], num_threads: int
    ) -> None:
        self._codec = codec = import_nvimgcodec()
        self._gpu = gpu
        self._stream: Any = stream
        num_images, self._height, self._width = shape_NHW
        kinds = (
            codec.BackendKind.HW_GPU_ONLY,
            codec.BackendKind.GPU_ONLY,
            codec.BackendKind.HYBRID_CPU_GPU,
        )
        self._decoder: Any = codec.Decoder(
            device_id=0,
            max_num_cpu_threads=num_threads,
            backends=[codec.Backend(kind) for kind in kinds],
        )
        # As on the CPU, images stay in the coordinates of the sensor.
        self._params = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=codec.ColorSpec.GRAY
        )
        self._images = [
            codec.as_image(pixels, cuda_stream=stream.handle)
            for pixels in (
                _DevicePixels(address + i * self._height * self._width, self._height, self._width)
                for i in range(num_images)
            )
        ]

    def decode(self, jpegs: Mapping[int, Any]) -> frozenset[int]:
        """Decode JPEGs, each into its image of the batch, and wait without the GIL.

        The memory has to be idle: the hardware decoder works beside the stream, not in its order.

        Args:
            jpegs: Files that are whole by their structure (`decode.check_jpeg`), by their place in
                the batch. Those that are not plain (`jpeg.is_plain_jpeg`) are left out.

        Returns:
            The places whose images are decoded. The memory of the others holds anything.

        Raises:
            cuda.Error: The GPU failed; this process cannot use it any more.
        """
        codec, stream = self._codec, self._stream
        sources = {
            place: codec.CodeStream(np.frombuffer(data, np.uint8))
            for place, data in jpegs.items()
            if is_plain_jpeg(data, self._height, self._width)
        }
        if not sources:
            return frozenset()
        try:
            images = self._decoder.decode(
                list(sources.values()),
                images=[self._images[place] for place in sources],
                params=self._params,
                cuda_stream=stream.handle,
            )
        except RuntimeError as error:
            log.warning("nvImageCodec decodes none of %d JPEGs: %s", len(sources), error)
            # It may have begun with some, on streams of its own.
            self._gpu.cuda.Context.synchronize()
            return frozenset()
        return frozenset(
            place for place, image in zip(sources, images, strict=True) if image is not None
        )

    def free(self) -> None:
        """Free what the decoder holds; the GPU's context is current."""
        self._images.clear()
        self._decoder = self._stream = None


class _DevicePixels:
    """One gray image in the device's memory, as other libraries are told of it."""

    def __init__(self, address: int, height: int, width: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (height, width, 1),
            "strides": None,
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def check_decoder(height: int, width: int) -> None:
    """Decode one strip on this process's GPU and compare it with the CPU's.

    Args:
        height: Of the images to come.
        width: Of the images to come.

    Raises:
        ConfigError: nvImageCodec is missing, too old, does not start, or does not decode here.
        EngineError: The GPU gives this process no context.
    """
    gpu = open_gpu()
    noise_HW = np.random.default_rng(1).integers(0, 256, (height, width), dtype=np.uint8)
    _, jpeg = cv2.imencode(".jpg", cv2.blur(noise_HW, (9, 9)))
    expected_HW = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), np.int16)
    try:
        with gpu.current():
            found_HW = _decode_one(gpu, jpeg, height, width)
    except (RuntimeError, TypeError, ValueError, AttributeError, gpu.cuda.Error) as error:
        raise ConfigError(
            f"nvImageCodec does not work on {gpu.name}: {error}. Install steel-batch[gpu] in its "
            "present version, or give --decode cpu."
        ) from error
    if found_HW is None or (difference := int(np.abs(found_HW - expected_HW).max())) > 1:
        found = "nothing" if found_HW is None else f"pixels that differ by {difference}"
        raise ConfigError(
            f"of a JPEG of {width}×{height} pixels nvImageCodec makes {found} on {gpu.name}, where "
            "those of the CPU were expected, give or take one. It needs nvJPEG's library: install "
            "steel-batch[gpu] there, or give --decode cpu."
        )


def _decode_one(
    gpu: Gpu, jpeg: npt.NDArray[np.uint8], height: int, width: int
) -> npt.NDArray[np.uint8] | None:
    """Decode one JPEG into memory of its own, or nothing; the GPU's context is current."""
    cuda = gpu.cuda
    found_HW = np.zeros((height, width), np.uint8)
    memory = cuda.mem_alloc(found_HW.nbytes)
    try:
        stream = cuda.Stream(NON_BLOCKING)
        decoder = GpuDecoder(gpu, stream, int(memory), (1, height, width), 1)
        try:
            is_decoded = bool(decoder.decode({0: jpeg}))
            stream.synchronize()
            cuda.memcpy_dtoh(found_HW, memory)
        finally:
            decoder.free()
    finally:
        memory.free()
    return found_HW if is_decoded else None
