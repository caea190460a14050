"""What a training run is told: one frozen value that ends in the engine's card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from steel_batch.errors import ConfigError
from training.augment import AugmentConfig
from training.choices import ARCHITECTURES, DEVICES, FIGURES, OWN_ENCODERS, PRECISIONS
from training.names import TIMM_PREFIX, unknown_name

GREATEST_SEED: Final = 2**64 - 1
"""That PyTorch takes."""
NUM_STAGES: Final = 5
"""Of an encoder, each of which halves the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A network."""

    architecture: str = "Unet"
    """Any architecture of segmentation-models-pytorch; only U-Nets can stop early."""
    encoder: str = "resnet18"
    """Any encoder of the library; ``tu-…`` for one of timm."""
    encoder_channels: tuple[int, ...] = ()
    """Of the five stages of ``narrow16``, ``narrow32`` or ``residual10``, in place of their own; a
    GPU is fastest at multiples of 16."""
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
        if self.architecture.lower() not in {name.lower() for name in ARCHITECTURES}:
            raise unknown_name("architecture", self.architecture, ARCHITECTURES)
        if self.architecture.lower() == "dpt" and not self.encoder.startswith(TIMM_PREFIX):
            raise ConfigError(
                f"DPT needs a vision transformer of timm, and encoder is {self.encoder!r}: give "
                "--encoder tu-vit_tiny_patch16_224, or another tu-vit_…."
            )
        if self.encoder_channels and self.encoder not in OWN_ENCODERS:
            raise ConfigError(
                f"model.encoder_channels are given, which encoder {self.encoder!r} has of its own; "
                f"they can be set for {', '.join(OWN_ENCODERS)}."
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A recipe. The same one on the same data gives the same network on the same machine's CPU."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    num_steps: int = 2000
    """Updates of the weights."""
    batch_size: int = 16
    """Crops of one update, over all processes and all parts of an accumulated one."""
    accumulate: int = 1
    """Parts that each process takes one after the other to make an update, to save memory."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.05
    """Of the steps, those in which the learning rate rises; it then falls along half a cosine."""
    positive_weight: float | tuple[float, ...] = 2.0
    """What a defect pixel weighs against a clean one: one figure, or one per class."""
    lovasz_weight: float = 0.0
    """Of Lovász's hinge beside cross-entropy and Dice: it follows IoU itself."""
    teachers: tuple[str, ...] = ()
    """Versions whose answers are learned beside the labels; see `training.teacher`."""
    teacher_weight: float = 0.5
    """Of the teachers' answers in the loss, 0 to 1; the labels have the rest."""
    temperature: float = 2.0
    """What teachers' logits are divided by: with a higher one, they tell more of near misses."""
    clean_share: float = 0.25
    """Of the crops, from images without a defect."""
    ema_decay: float = 0.998
    """Of the average over steps whose weights are the result."""
    seed: int = 0
    device: str = "auto"
    """``auto`` takes a GPU where there is one."""
    precision: str = "auto"
    """Of activations; ``auto`` is bf16 on a GPU, or fp16 where it has none, and fp32 on a CPU. A
    CPU with AMX is two to three times as fast in bf16; none uses fp16."""
    compile: bool = False
    """Let `torch.compile` work on the network: a minute at the start, faster steps."""
    resident: bool = True
    """On a GPU that has memory for all images: keep them there and cut crops there, and record each
    step once to replay it, where the network can be recorded."""
    num_threads: int = 2
    """Of PyTorch on a CPU."""
    num_loaders: int | None = None
    """Threads that make batches; None is one, or beside a GPU four, or sixteen where images do not
    fit into memory."""
    cache_bytes: int = 8 << 30
    """Decoded images are kept in memory if all of them need no more than this."""
    report_steps: int = 50
    checkpoint_steps: int = 200
    validate_steps: int = 200
    """How often the average is judged, where there are examples for it."""
    watch: str = "kaggle_dice"
    """The figure that decides which weights are best: ``kaggle_dice``, ``mean_iou`` or
    ``present_dice``, the mean over classes."""
    fp16: bool = True
    """Whether the version gets a float16 graph as well; TensorRT from 10 on needs it for FP16."""
    int8: bool = True
    """Whether an INT8 graph is tried as well, which takes minutes of a CPU."""
    patience: int | None = None
    """Stop after this many judgements without a better one; None never stops early."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
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
