"""The configuration of a training run: one frozen value that is recorded in the engine's card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from steel_batch.errors import ConfigError
from training.augment import AugmentConfig
from training.choices import ARCHITECTURES, DEVICES, FIGURES, OWN_ENCODERS, PRECISIONS
from training.names import TIMM_PREFIX, unknown_name

GREATEST_SEED: Final = 2**64 - 1
"""The greatest seed of PyTorch."""
NUM_STAGES: Final = 5
"""Stages of an encoder; each halves the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network."""

    architecture: str = "Unet"
    """Any architecture of segmentation-models-pytorch; only a Unet can stop early."""
    encoder: str = "resnet18"
    """Any encoder of the library; ``tu-…`` for one of timm."""
    encoder_channels: tuple[int, ...] = ()
    """Channels of the five stages of ``narrow16``, ``narrow32`` or ``residual10``, to replace their
    own; a GPU is fastest at multiples of 16."""
    encoder_weights: str | None = None
    """Pretrained weights to start from, downloaded by the library; None for random weights."""
    input_stride: int = 1
    """Stride at which the network sees the input: 1, 2 or 4."""
    fold: str = "average"
    """How the input is reduced to that stride: ``average`` pools squares; ``channels`` makes each
    pixel of a square a channel of its own, without loss."""
    input_upscale: int = 1
    """Factor by which the input is enlarged first, 1 or 2: for small images with fine defects."""
    output_stride: int = 1
    """Stride of the logits relative to the reduced input: 1, 2 or 4."""
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    """Channels of a U-Net's five decoder blocks; blocks after the output stride are not built."""
    head: str = "bilinear"
    """How coarse logits are upsampled: ``bilinear``; or ``subpixel``, where the network predicts
    each pixel of a square."""
    mean: float = 0.5
    """Subtracted from pixels scaled to 0–1."""
    std: float = 0.25
    """Divides them afterwards."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.architecture.lower() not in {name.lower() for name in ARCHITECTURES}:
            raise unknown_name("architecture", self.architecture, ARCHITECTURES)
        if self.architecture.lower() == "dpt" and not self.encoder.startswith(TIMM_PREFIX):
            raise ConfigError(
                f"DPT needs a vision transformer of timm, but encoder is {self.encoder!r}: use "
                "--encoder tu-vit_tiny_patch16_224 or another tu-vit_…."
            )
        if self.encoder_channels and self.encoder not in OWN_ENCODERS:
            raise ConfigError(
                f"model.encoder_channels cannot be set for encoder {self.encoder!r}, only for "
                f"{', '.join(OWN_ENCODERS)}. Remove it, or use one of those encoders."
            )
        if self.encoder_channels and (
            len(self.encoder_channels) != NUM_STAGES or min(self.encoder_channels) < 1
        ):
            raise ConfigError(
                f"model.encoder_channels is {list(self.encoder_channels)}, expected {NUM_STAGES} "
                "numbers of 1 or more."
            )
        for name in ("input_stride", "output_stride"):
            if getattr(self, name) not in (1, 2, 4):
                raise ConfigError(f"model.{name} is {getattr(self, name)}, expected 1, 2 or 4.")
        if self.fold not in ("average", "channels"):
            raise ConfigError(f"model.fold is {self.fold!r}, expected average or channels.")
        if self.input_upscale not in (1, 2):
            raise ConfigError(f"model.input_upscale is {self.input_upscale}, expected 1 or 2.")
        if self.input_upscale > 1 and (self.input_stride, self.output_stride) != (1, 1):
            raise ConfigError(
                "model.input_upscale enlarges the input, while model.input_stride and "
                "model.output_stride reduce it. Use one of them."
            )
        if self.output_stride > 1 and self.architecture.lower() != "unet":
            raise ConfigError(
                f"model.output_stride needs architecture Unet, not {self.architecture}: use Unet, "
                "or output_stride = 1."
            )
        if self.head not in ("bilinear", "subpixel"):
            raise ConfigError(f"model.head is {self.head!r}, expected bilinear or subpixel.")
        if self.head == "subpixel" and self.architecture.lower() != "unet":
            raise ConfigError(
                f"model.head = 'subpixel' needs architecture Unet, not {self.architecture}."
            )
        if min(self.decoder_channels, default=1) < 1:
            raise ConfigError(
                f"model.decoder_channels is {list(self.decoder_channels)}, expected 1 or more for "
                "each block."
            )
        if self.std <= 0:
            raise ConfigError(f"model.std is {self.std}, expected more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A recipe. On a CPU, the same recipe and data give the same network on the same machine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    num_steps: int = 2000
    """Number of weight updates."""
    batch_size: int = 16
    """Crops per update, over all processes and all parts of an accumulated update."""
    accumulate: int = 1
    """Parts of an update that each process computes one after the other, to save memory."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls along half a cosine."""
    positive_weight: float | tuple[float, ...] = 2.0
    """Weight of a defect pixel relative to a clean one: one value, or one per class."""
    lovasz_weight: float = 0.0
    """Weight of the Lovász hinge in the loss, besides cross-entropy and Dice; it follows IoU."""
    teachers: tuple[str, ...] = ()
    """Versions whose predictions are learned in addition to labels; see `training.teacher`."""
    teacher_weight: float = 0.5
    """Weight of the teachers' predictions in the loss, 0 to 1; the labels have the rest."""
    temperature: float = 2.0
    """Distillation temperature, which divides logits; higher values show more of near misses."""
    clean_share: float = 0.25
    """Share of the crops from images without a defect."""
    ema_decay: float = 0.998
    """Decay of the moving average of the weights, which is the result."""
    seed: int = 0
    device: str = "auto"
    """``auto`` is a GPU if there is one."""
    precision: str = "auto"
    """Precision of activations. ``auto`` is bf16 on a GPU (fp16 if it has no bf16) and fp32 on a
    CPU. A CPU with AMX is two to three times as fast in bf16; no CPU uses fp16."""
    compile: bool = False
    """Whether to use `torch.compile`: a minute at the start, then faster steps."""
    resident: bool = True
    """If all images fit in a GPU's memory: keep them there and make crops there; record a step as a
    CUDA graph and replay it, if the network allows that."""
    num_threads: int = 2
    """PyTorch's threads on a CPU."""
    num_loaders: int | None = None
    """Threads that make batches; None for 1, with a GPU 4, or 16 if images do not fit in memory."""
    cache_bytes: int = 8 << 30
    """Memory limit of decoded images: they are cached if all of them need no more than this."""
    report_steps: int = 50
    checkpoint_steps: int = 200
    validate_steps: int = 200
    """Steps between evaluations of the averaged weights, if there are validation examples."""
    watch: str = "kaggle_dice"
    """The figure that selects the best weights: ``kaggle_dice``, ``mean_iou`` or ``present_dice``,
    the mean over classes."""
    fp16: bool = True
    """Whether to export an FP16 graph too; TensorRT from 10 on needs it for FP16."""
    int8: bool = True
    """Whether to try an INT8 graph too, which takes minutes of CPU time."""
    patience: int | None = None
    """Stop after this many evaluations without a better one; None to never stop early."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        for name, known in (("device", DEVICES), ("precision", PRECISIONS), ("watch", FIGURES)):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}."
                )
        for name in ("num_steps", "batch_size", "accumulate", "num_threads", "report_steps",
                     "checkpoint_steps", "validate_steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more.")
        for name in ("seed", "weight_decay", "lovasz_weight", "cache_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        if self.seed > GREATEST_SEED:
            raise ConfigError(f"seed is {self.seed}, expected no more than 2^64 - 1.")
        weights = self.positive_weight
        smallest = min(weights, default=0.0) if isinstance(weights, tuple) else weights
        for name, value in (("learning_rate", self.learning_rate), ("positive_weight", smallest),
                            ("temperature", self.temperature)):  # fmt: skip
            if value <= 0:
                raise ConfigError(f"{name} is {value}, expected more than 0.")
        for name in ("num_loaders", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more.")
        for name in ("warmup_share", "clean_share", "ema_decay", "teacher_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 1.")

    def check_processes(self, num_processes: int) -> None:
        """Refuse a batch that cannot be divided evenly among processes and their parts."""
        multiple = num_processes * self.accumulate
        if self.batch_size % multiple:
            raise ConfigError(
                f"a batch of {self.batch_size} cannot be divided among {num_processes} process(es) "
                f"with {self.accumulate} part(s) each: use a multiple of {multiple}."
            )

    def check_classes(self, num_classes: int) -> None:
        """Refuse weights of classes that are not as many as the classes."""
        weights = self.positive_weight
        if isinstance(weights, tuple) and len(weights) != num_classes:
            raise ConfigError(
                f"positive_weight has {len(weights)} values, expected {num_classes}, one per class."
            )
