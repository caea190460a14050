"""The configuration of a run: one frozen record, saved with the run.

Fields under "Plan" decide which images are scored and how they are divided into shards. Together
they are the run's *settings*: a run can be resumed only with the same settings. The other fields
say how the work is done, and may change between attempts.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from steel_batch.errors import ConfigError
from steel_batch.layout import check_date

ALL_DATES = "all"
RuntimeName = Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime"]
Precision = Literal["auto", "fp32", "fp16", "int8"]
DecodeOn = Literal["auto", "gpu", "cpu"]
RUNTIMES: Final = get_args(RuntimeName)
PRECISIONS: Final = get_args(Precision)
DECODES_ON: Final = get_args(DecodeOn)
GPU_BATCH_SIZE: Final = 32
"""Images per inference on a GPU, if neither the compiled plan nor the command sets it."""
CPU_BATCH_SIZE: Final = 2
"""Images per inference on a CPU; more do not fit in the core's own caches."""
MAX_CPUS_PER_ACTOR: Final = 4.0
"""CPUs of one CPU engine; beyond this, more engines scale better than more threads."""
GREATEST_NUMBER: Final = 10_000_000
"""Largest number of seconds (sixteen weeks) or CPUs; more is a typing error, or infinite."""
INFER_SECONDS: Final = 300.0
"""Default of the longest time an engine may take for one batch."""
DECODER = "steel_batch.images.decode:decode_gray"
"""The default decoder."""
SAMPLE_BITS: Final = 16
"""Bits per sample of files that do not state how many of them are in use."""
FEWEST_BITS: Final = 8
"""Lowest value of `ScoreConfig.bits`; the highest is `SAMPLE_BITS`."""
_MOVED_DECODER = "steel_batch.decode:decode_gray"
"""The default decoder's name until November 2026, still accepted in configuration files."""


def canonical_place(url: str) -> str:
    """Normalize a folder or prefix, so that every spelling of it means the same run."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        return url.rstrip("/")
    return os.path.realpath(Path(rest if separator else url).expanduser())


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of what readers accept from any input before they refuse it.

    An image beyond a limit is quarantined. A list or container beyond a limit stops the planning
    with a message that names the limit. Limits are not part of the plan: a run may be resumed with
    others.
    """

    object_bytes: int = 128 << 20
    """Bytes of one image file: an object, a member of a tar or a value of a Parquet column."""
    index_bytes: int = 64 << 20
    """Bytes of a tar's index, an inventory's manifest.json, a Parquet footer, or a record of the
    store."""
    image_pixels: int = 64_000_000
    """Pixels of one image, or of one strip or tile of a TIFF."""
    image_channels: int = 4
    """Samples per pixel."""
    decoded_bytes: int = 256 << 20
    """Bytes that the decoded samples of one image need, according to its header."""
    decoder_bytes: int = 2 << 30
    """Memory for decoding one image in a process of its own, in bytes."""
    tiff_pieces: int = 100_000
    """Strips or tiles of one TIFF."""
    column_bytes: int = 2 << 30
    """Uncompressed bytes of a Parquet column in one row group."""
    rows_per_byte: int = 4
    """Rows of a Parquet file per byte of the file."""
    expansion: int = 200
    """Decompressed bytes per compressed byte of a Parquet page or a compressed inventory, beyond
    the first 64 MiB."""
    text_bytes: int = 64 << 10
    """Bytes of one key, name or tag in a manifest, an inventory or a Parquet column."""
    tags: int = 100
    """Tags of one image."""
    line_bytes: int = 1 << 20
    """Bytes of one line of a manifest or an inventory."""
    tar_members: int = 1_000_000
    """Members of one tar."""
    tar_header_bytes: int = 1 << 20
    """Bytes of the headers of one member of a tar."""

    def __post_init__(self) -> None:
        """Refuse limits below 1."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if type(value) is not int or value < 1:
                name = each.name.replace("_", "-")
                raise ConfigError(f"limit {name} is {value!r}, expected 1 or more.")


LIMITS: Final = Limits()
"""The default limits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSettings:
    """What runs the engine, and how."""

    runtime: RuntimeName
    precision: Precision
    """``auto`` is the runtime's default."""
    batch_size: int | None
    """Images per inference; None for the runtime's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSettings:
    """What decodes images, where, and how long it may take."""

    decode_on: DecodeOn
    """Where JPEGs are decoded; ``auto`` is the GPU that scores, if it can decode."""
    decoder: str
    """The ``module:function`` that decodes on the CPU."""
    bits: int | None
    """Used bits of 16-bit samples, for the default decoder; see `images.depth`."""
    decode_seconds: float | None
    """Longest time for one image; None for no limit."""

    @property
    def is_usual(self) -> bool:
        """Whether the default decoder is used; only this one may be replaced by the GPU's."""
        return self.decoder == DECODER


_KINDS: Final[dict[str, type]] = {"str": str, "int": numbers.Integral, "float": numbers.Real}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """One `score` command."""

    # Plan.
    images: str
    """The lake: a folder, an s3:// prefix, or a manifest file; `sources` tells them apart."""
    key_pattern: str | None = None
    """The pattern of keys under `images`, such as ``line={line}/date={date}/{image_id}.jpg``."""
    engine: str = "demo"
    """``<model>@<alias>``, ``<model>-<12 hex digits>``, ``demo``, or a version's folder."""
    date: str = ALL_DATES
    """YYYY-MM-DD, or ``all`` for every date that the key pattern finds, each as its own run."""
    shard_images: int = 512
    """Most images of one shard."""
    shard_bytes: int = 64 << 20
    """Most compressed bytes of one shard; a single larger image is a shard of its own."""
    follow_links: bool = False
    """Whether to follow symbolic links that lead out of the lake's folder."""
    bits: int | None = None
    """Used bits of 16-bit samples, counted from the lowest; None if not stated. Other bits give
    other pixels, so a run is resumed with the same value."""
    max_images: int | None = None
    """Most images of one date's run, the first ones by line and key; None for all. The others are
    left to a later run."""
    rescore_changed: bool = False
    """Score images again whose ETag differs from the committed one, and replace their rows."""

    retry_quarantined: bool = False
    """Score quarantined images again; those that succeed leave the quarantine."""

    # Execution.
    allow_other_keys: bool = False
    """Score images even if they seem to have rows under other keys."""
    store: str
    inventory_buckets: tuple[str, ...] = ()
    """Buckets that an S3 Inventory may refer to, besides the bucket that contains its manifest."""
    endpoint_url: str | None = None
    """An S3 endpoint other than AWS's, for both the lake and the store."""
    max_bad: float = 0.01
    """Share of planned images that may be quarantined before the run fails."""
    fresh: bool = False
    """Discard an unfinished run of this engine and date, and begin a new one."""
    require_signed: bool = False
    """Refuse an alias, a card or a compiled plan without a signature; see `registry.signatures`."""
    runtime: RuntimeName = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
    """Images per inference; None for the runtime's default."""
    num_actors: int | None = None
    """Number of scoring actors; None for as many as fit on the cluster."""
    cpus_per_actor: float | None = None
    """CPUs that one scoring actor reserves; None to choose it from the node."""
    actors_per_gpu: int = 1
    """Number of scoring actors that share a GPU."""
    ray_address: str | None = None
    """A cluster to join; None joins ``RAY_ADDRESS`` or starts Ray on this machine."""
    lease_seconds: float = 60.0
    """How long the lock of an engine and date stays valid after its run dies."""
    lock_wait_seconds: float = 0.0
    """How long to wait for another run's lock before exit code 4."""
    unsafe_single_writer: bool = False
    """Write to a store that cannot decide between two concurrent writers. The user guarantees that
    no other command writes to it at the same time; see `lake.probe`."""
    merge_bytes: int = 256 << 20
    """Target size of one committed file."""
    shard_attempts: int = 3
    """How often a shard is tried in all if the lake keeps failing."""
    decode_on: DecodeOn = "auto"
    """Where JPEGs are decoded. Like the precision, it may change a pixel by a rounding error, and
    like the precision it is not part of the plan."""
    decoder: str = DECODER
    """The function that turns an image's bytes into pixels."""
    decode_seconds: float = 30.0
    """Longest time to decode one image. The largest takes about 1 s on a core of its own."""
    infer_seconds: float = INFER_SECONDS
    """Longest time for the engine to infer one batch."""
    limits: Limits = LIMITS
    """The limits of an image, a container or a list."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        for each in dataclasses.fields(self):
            kind, _, others = str(each.type).partition(" | ")
            value = getattr(self, each.name)
            is_left_out = value is None and others == "None"
            if kind in _KINDS and not is_left_out and not isinstance(value, _KINDS[kind]):
                raise ConfigError(f"{each.name} is {value!r}, expected {each.type}.")
        if self.decoder == _MOVED_DECODER:
            object.__setattr__(self, "decoder", DECODER)
        if self.date != ALL_DATES:
            check_date(self.date)
        choices = {"runtime": RUNTIMES, "precision": PRECISIONS, "decode_on": DECODES_ON}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                flag = "--decode" if name == "decode_on" else f"--{name}"
                raise ConfigError(
                    f"{flag} is {getattr(self, name)!r}, expected one of: {', '.join(known)}."
                )
        for name in ("shard_images", "shard_bytes", "merge_bytes", "shard_attempts",
                     "batch_size", "num_actors", "actors_per_gpu", "max_images"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = "limit" if name == "max_images" else name.replace("_", "-")
                raise ConfigError(f"--{flag} is {value}, expected 1 or more.")
        for name in ("cpus_per_actor", "lease_seconds", "decode_seconds", "infer_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= GREATEST_NUMBER:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value}, expected more than 0 and no more than "
                    f"{GREATEST_NUMBER:,}."
                )
        if not 0 <= self.lock_wait_seconds <= GREATEST_NUMBER:
            raise ConfigError(
                f"--lock-wait is {self.lock_wait_seconds}, expected 0 to {GREATEST_NUMBER:,} "
                "seconds."
            )
        if ":" not in self.decoder.strip(":"):
            raise ConfigError(f"--decoder is {self.decoder!r}, expected 'module:function'.")
        if self.decode_on == "gpu" and self.decoder != DECODER:
            raise ConfigError(
                f"--decode gpu cannot be combined with --decoder {self.decoder}, which decodes on "
                "the CPU. Remove one of the two."
            )
        if self.bits is not None and not FEWEST_BITS <= self.bits <= SAMPLE_BITS:
            raise ConfigError(
                f"--bits is {self.bits}, expected {FEWEST_BITS} to {SAMPLE_BITS}: the number of "
                f"used bits in images of {SAMPLE_BITS} bits per sample."
            )
        if self.bits is not None and self.decoder != DECODER:
            raise ConfigError(
                f"--bits {self.bits} cannot be combined with --decoder {self.decoder}, which reads "
                "samples by its own rules. Remove one of the two."
            )
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(
                f"--max-bad is {self.max_bad}, expected a share from 0 to 1, such as "
                "0.01 for one image in a hundred."
            )

    @property
    def inference(self) -> RuntimeSettings:
        """What runs the engine, and how."""
        return RuntimeSettings(
            runtime=self.runtime, precision=self.precision, batch_size=self.batch_size
        )

    @property
    def decoding(self) -> DecodeSettings:
        """What decodes images, and where."""
        return DecodeSettings(
            decode_on=self.decode_on,
            decoder=self.decoder,
            bits=self.bits,
            decode_seconds=self.decode_seconds,
        )

    def settings(self, *, engine: str, date: str) -> dict[str, Any]:
        """Return the settings that the plan depends on, with the engine and the date resolved."""
        return {
            "images": canonical_place(self.images),
            "key_pattern": self.key_pattern,
            "engine": engine,
            "date": date,
            "shard_images": self.shard_images,
            "shard_bytes": self.shard_bytes,
            "bits": self.bits,
            "max_images": self.max_images,
            "rescore_changed": self.rescore_changed,
            "retry_quarantined": self.retry_quarantined,
            # Only if it is on: plans of earlier builds do not have it.
            **({"follow_links": True} if self.follow_links else {}),
        }

    def replace(self, **changes: Any) -> ScoreConfig:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)
