"""What a scoring run is told: one frozen record, saved with the run; and what a backfill is.

Fields under "plan" decide which images are scored and how they are cut into shards; together they
are the run's *settings*, and a run can only be continued with the same ones. The others say how
the work is done and may change from one attempt to the next.
"""

from __future__ import annotations

import dataclasses
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
"""Images of one inference on a GPU, where neither the compiled plan nor the command says."""
CPU_BATCH_SIZE: Final = 2
"""Images of one inference on a CPU: more of them leave the core's own caches."""
MAX_CPUS_PER_ACTOR: Final = 4.0
"""More threads than this in one CPU engine scale worse than more engines."""
GREATEST_NUMBER: Final = 10_000_000
"""Of seconds (sixteen weeks) and of CPUs: what is above it is a slip, or infinite."""
INFER_SECONDS: Final = 300.0
"""How long an engine may take for one batch, where nobody says otherwise."""
DECODER = "steel_batch.images.decode:decode_gray"
"""What decodes where nobody says otherwise."""
FEWEST_BITS, SAMPLE_BITS = 8, 16
"""Of `ScoreConfig.bits`: a sample of 16 bits holds so many."""
_MOVED_DECODER = "steel_batch.decode:decode_gray"
"""Where it was until November 2026, as configuration files may still name it."""


def canonical_place(url: str) -> str:
    """One spelling of a folder or prefix, so that each way to write it means the same run."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        return url.rstrip("/")
    return os.path.realpath(Path(rest if separator else url).expanduser())


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that readers take of an input, whoever wrote it, before they refuse it.

    An image beyond one is quarantined; a list or container beyond one stops the planning with one
    sentence that names the limit. They are no part of the plan: a run may be continued with others.
    """

    object_bytes: int = 128 << 20
    """Bytes of one image file: an object, a member of a tar or a value of a Parquet column."""
    index_bytes: int = 64 << 20
    """Bytes of an index beside a tar, of an inventory's manifest.json, of a Parquet footer, and of
    a record of the store."""
    image_pixels: int = 64_000_000
    """Pixels of one image, or of one strip or tile of a TIFF: no camera of a strip makes more."""
    image_channels: int = 4
    """Samples a pixel."""
    decoded_bytes: int = 256 << 20
    """Bytes that a decoder needs for the samples of one image, by its header."""
    decoder_bytes: int = 2 << 30
    """Memory that decoding one image in a process of its own may take."""
    tiff_pieces: int = 100_000
    """Strips or tiles of one TIFF."""
    column_bytes: int = 2 << 30
    """Uncompressed bytes of a Parquet column in one row group."""
    rows_per_byte: int = 4
    """Rows of a Parquet file for each of its bytes."""
    expansion: int = 200
    """Bytes that each byte of a Parquet page or a compressed inventory may become, beyond the first
    64 MiB."""
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
        """Refuse limits under which nothing could be read."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if type(value) is not int or value < 1:
                name = each.name.replace("_", "-")
                raise ConfigError(f"the limit {name} is {value!r}, expected 1 or more.")


LIMITS: Final = Limits()
"""The limits where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSettings:
    """What infers, and how."""

    runtime: RuntimeName
    precision: Precision
    """``auto`` is the runtime's usual one."""
    batch_size: int | None
    """Images of one inference; None for the runtime's usual number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSettings:
    """What makes pixels of an image's bytes, where, and how long it may take."""

    decode_on: DecodeOn
    """Where JPEGs become pixels; ``auto`` is the GPU that scores, where it decodes."""
    decoder: str
    """The ``module:function`` that decodes on the CPU."""
    bits: int | None
    """Of samples of 16 bits, for the usual decoder; see `images.depth`."""
    decode_seconds: float | None
    """How long it may take for one image; None: as long as it likes."""

    @property
    def is_usual(self) -> bool:
        """Whether the usual decoder makes the pixels, which is the one that a GPU may stand for."""
        return self.decoder == DECODER


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """One `score` command."""

    # Plan.
    images: str
    """The lake: a folder, an s3:// prefix, or a manifest file; `sources` says what is what."""
    key_pattern: str | None = None
    """How keys below `images` read, such as ``line={line}/date={date}/{image_id}.jpg``."""
    engine: str = "demo"
    """``<model>@<alias>``, ``<model>-<12 hex>``, ``demo``, or a version's folder."""
    date: str = ALL_DATES
    """YYYY-MM-DD, or ``all`` to take every date from the key pattern, each as its own run."""
    shard_images: int = 512
    """Most images of one shard."""
    shard_bytes: int = 64 << 20
    """Most compressed bytes of one shard; a single larger image is a shard of its own."""
    follow_links: bool = False
    """Read what links in a folder lead to out of it, too; only within it where it is False."""
    bits: int | None = None
    """Bits that cameras put into samples of 16, counted from the lowest; None where nobody says so.
    Other bits make other pixels, so a run is continued with the same."""
    max_images: int | None = None
    """Most images of one date's run, the first ones by line and key; None: all of them. The others
    are left to a later run."""
    rescore_changed: bool = False
    """Score images again whose etag differs from the committed one, and replace their rows."""

    retry_quarantined: bool = False
    """Score images again that are in quarantine; what succeeds leaves it."""

    # Execution.
    allow_other_keys: bool = False
    """Score images also where they seem to have rows under other keys."""
    store: str
    inventory_buckets: tuple[str, ...] = ()
    """Buckets that an S3 Inventory may name besides the one that its manifest lies in."""
    endpoint_url: str | None = None
    """An S3 endpoint other than AWS's, for both lake and store."""
    max_bad: float = 0.01
    """Share of planned images that may be quarantined before the run fails."""
    fresh: bool = False
    """Abandon an unfinished run of this engine and date and begin a new one."""
    require_signed: bool = False
    """Refuse an alias, a card or a compiled plan that is not signed; see `registry.signatures`."""
    runtime: RuntimeName = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
    """Images of one inference; the runtime's own default where it is None."""
    num_actors: int | None = None
    """Scoring actors; as many as the cluster has room for where it is None."""
    cpus_per_actor: float | None = None
    """CPUs that one scoring actor claims; chosen from the node where it is None."""
    actors_per_gpu: int = 1
    """Scoring actors that share a GPU."""
    ray_address: str | None = None
    """A cluster to join; None joins ``RAY_ADDRESS`` or starts Ray on this machine."""
    lease_seconds: float = 60.0
    """How long a dead run keeps the lock of its engine and date."""
    lock_wait_seconds: float = 0.0
    """How long to wait for another run's lock before exit 4."""
    unsafe_single_writer: bool = False
    """Write to a store that does not decide between two writers, on the user's word that no other
    command writes there meanwhile; see `lake.probe`."""
    merge_bytes: int = 256 << 20
    """Aimed size of one committed file."""
    shard_attempts: int = 3
    """How often a shard is tried that the lake keeps failing."""
    decode_on: DecodeOn = "auto"
    """Where JPEGs become pixels. Like the precision it may move a pixel by a rounding, and so it is
    no more a part of the plan than that."""
    decoder: str = DECODER
    """The function that turns an image's bytes into pixels."""
    decode_seconds: float = 30.0
    """How long it may take for one image; on a core of its own the largest takes about one."""
    infer_seconds: float = INFER_SECONDS
    """How long the engine may take for one batch."""
    limits: Limits = LIMITS
    """The most that is read of an image, a container or a list."""

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        if self.decoder == _MOVED_DECODER:
            object.__setattr__(self, "decoder", DECODER)
        if self.date != ALL_DATES:
            check_date(self.date)
        choices = {"runtime": RUNTIMES, "precision": PRECISIONS, "decode_on": DECODES_ON}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                flag = "--decode" if name == "decode_on" else f"--{name}"
                raise ConfigError(f"{flag} {getattr(self, name)!r} is none of {', '.join(known)}.")
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
            raise ConfigError(f"--decoder {self.decoder!r} is no 'module:function'.")
        if self.decode_on == "gpu" and self.decoder != DECODER:
            raise ConfigError(
                f"--decode gpu was asked for and --decoder {self.decoder} makes the pixels: leave "
                "one of them away."
            )
        if self.bits is not None and not FEWEST_BITS <= self.bits <= SAMPLE_BITS:
            raise ConfigError(
                f"--bits is {self.bits}, expected {FEWEST_BITS} to {SAMPLE_BITS}: the bits in use "
                f"in images of {SAMPLE_BITS} bits a sample."
            )
        if self.bits is not None and self.decoder != DECODER:
            raise ConfigError(
                f"--bits {self.bits} cannot be combined with --decoder {self.decoder}, which makes "
                "the pixels by its own rules. Remove one of the two."
            )
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(
                f"--max-bad is {self.max_bad}, expected a share from 0 to 1, such as "
                "0.01 for one image of a hundred."
            )

    @property
    def inference(self) -> RuntimeSettings:
        """What infers, and how."""
        return RuntimeSettings(
            runtime=self.runtime, precision=self.precision, batch_size=self.batch_size
        )

    @property
    def decoding(self) -> DecodeSettings:
        """What decodes, and where."""
        return DecodeSettings(
            decode_on=self.decode_on,
            decoder=self.decoder,
            bits=self.bits,
            decode_seconds=self.decode_seconds,
        )

    def settings(self, *, engine: str, date: str) -> dict[str, Any]:
        """What the plan depends on, with the engine and the date resolved."""
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
            # Only where it is on: plans of earlier builds do not have it.
            **({"follow_links": True} if self.follow_links else {}),
        }

    def replace(self, **changes: Any) -> ScoreConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackfillConfig:
    """One `backfill` command."""

    first_date: str | None = None
    """Oldest date; None for the lake's oldest."""
    last_date: str | None = None
    """Newest date; None for the lake's newest."""
    newest_first: bool = False
    max_dates_at_once: int = 4
    """Dates that are planned, scored or committed at one time."""
    stop_after: int | None = None
    """Failed dates after which no further date is begun."""
    recheck: bool = False
    """List dates again that the ledger has as done, for late images."""

    def __post_init__(self) -> None:
        """Refuse values that no backfill can use."""
        for name in ("max_dates_at_once", "stop_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected 1 or more.")
        for date in (self.first_date, self.last_date):
            if date is not None:
                check_date(date)
        if self.first_date and self.last_date and self.first_date > self.last_date:
            raise ConfigError(f"--from {self.first_date} is later than --to {self.last_date}.")
