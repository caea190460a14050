"""What a training run is told: one frozen value that ends in the engine's card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from steel_batch.errors import ConfigError
from training.augment import AugmentConfig
from training.choices import DEVICES, FIGURES, PRECISIONS
from training.model import ModelConfig

GREATEST_SEED: Final = 2**64 - 1
"""That PyTorch takes."""


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
        for name, value in (("learning_rate", self.learning_rate), ("positive_weight", smallest)):
            if value <= 0:
                raise ConfigError(f"{name} is {value}, expected more than 0.")
        for name in ("num_loaders", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}, expected 1 or more.")
        for name in ("warmup_share", "clean_share", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 1.")
