"""What a scoring run is told: one frozen record, saved with the run.

Fields under "plan" decide which images are scored and how they are cut into shards; together they
are the run's *settings*, and a run can only be continued with the same ones. The others say how
the work is done and may change from one attempt to the next.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steel_batch.errors import ConfigError
from steel_batch.layout import check_date

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ALL_DATES = "all"
RUNTIMES: Final = ("auto", "tensorrt", "tensorrt_rtx", "onnxruntime")
DECODES: Final = ("auto", "gpu", "cpu")
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
    bits: int | None = None
    """Bits that cameras put into samples of 16, counted from the lowest; None where nobody says so.
    Other bits make other pixels, so a run is continued with the same."""
    rescore_changed: bool = False
    """Score images again whose etag differs from the committed one, and replace their rows."""

    retry_quarantined: bool = False
    """Score images again that are in quarantine; what succeeds leaves it."""

    # Execution.
    allow_other_keys: bool = False
    """Score images also where they seem to have rows under other keys."""
    store: str
    endpoint_url: str | None = None
    """An S3 endpoint other than AWS's, for both lake and store."""
    max_bad: float = 0.01
    """Share of planned images that may be quarantined before the run fails."""
    fresh: bool = False
    """Abandon an unfinished run of this engine and date and begin a new one."""
    require_signed: bool = False
    """Refuse an alias, a card or a compiled plan that is not signed; see `registry.signatures`."""
    runtime: str = "auto"
    """``auto``, ``tensorrt``, ``tensorrt_rtx`` or ``onnxruntime``."""
    precision: str = "auto"
    """``auto``, ``fp32``, ``fp16`` or ``int8``."""
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
    decode: str = "auto"
    """Where JPEGs become pixels: ``gpu``, ``cpu`` or ``auto``. Like the precision it may move a
    pixel by a rounding, and so it is no more a part of the plan than that."""
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
        for name in ("shard_images", "shard_bytes", "merge_bytes", "shard_attempts",
                     "batch_size", "num_actors", "actors_per_gpu"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected 1 or more.")
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
        if self.decode == "gpu" and self.decoder != DECODER:
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
            "rescore_changed": self.rescore_changed,
            "retry_quarantined": self.retry_quarantined,
        }

    def replace(self, **changes: Any) -> ScoreConfig:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def parse_toml(path: Path) -> dict[str, Any]:
    """What a configuration file says.

    Raises:
        ConfigError: It cannot be read, or is no TOML.
    """
    try:
        # Editors of Windows put a mark before the text.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path} is not TOML: it is not text in UTF-8. Save it as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path} is not TOML: {error}.") from error


def read_toml(
    path: Path, *, section: str, names: Mapping[str, str], is_required: bool = False
) -> dict[str, Any]:
    """Read one command's section of a configuration file.

    Args:
        path: The TOML file.
        section: The table to read, such as ``score``.
        names: What a file may name, and the setting that it means. A setting's own name does as
            well, and ``-`` and ``_`` are the same.
        is_required: Whether a file without that table is refused; else it says nothing.

    Returns:
        Values by setting.

    Raises:
        ConfigError: The file cannot be read, is no TOML, has no such table, or names an unknown
            key.
    """
    document = parse_toml(path)
    if is_required and section not in document:
        raise ConfigError(f"--config {path} has no [{section}] table.")
    table = document.get(section, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"--config {path}: [{section}] is not a table.")
    known = {name.replace("-", "_"): name for name in names.values()}
    known |= {name.replace("-", "_"): setting for name, setting in names.items()}
    unknown = sorted(key for key in table if key.replace("-", "_") not in known)
    if unknown:
        raise ConfigError(
            f"--config {path}: [{section}] has unknown keys: {', '.join(unknown)}. "
            f"Known are: {', '.join(sorted(names))}."
        )
    return {known[key.replace("-", "_")]: value for key, value in table.items()}
