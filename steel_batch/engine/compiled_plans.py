"""Compiled plans of an engine: the records that vouch for them, and which one fits this machine.

A compiled plan is code for one GPU, so it is loaded only if a record next to it states its SHA-256.
Records are written once and never changed; together with ``card.json`` they are the engine's card.
See docs/decisions/plans.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from steel_batch import layout
from steel_batch.config import GPU_BATCH_SIZE
from steel_batch.errors import (
    EngineError,
    EngineMismatchError,
    LargeObjectError,
    MissingObjectError,
)
from steel_batch.lake.documents import record_of
from steel_batch.lake.format_version import FileFormat
from steel_batch.registry.signatures import check_signature, sign
from steel_batch.registry.versions import Engine

log = logging.getLogger(__name__)

FORMAT: Final = FileFormat("the record of a compiled plan", newest=2)
"""2 has the digest of the timing cache."""
MAX_CACHE_BYTES: Final = 256 << 20
"""Maximum size of a timing cache; a U-Net has some hundred kilobytes."""
ANY_GPU: Final = "any"
"""The compute capability of a compiled plan that is completed on the GPU that loads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a compiled plan must have been built for to run here."""

    runtime: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    runtime_version: str
    compute_capability: str
    """Such as ``9.0``, or ``any``."""
    device_name: str = ""
    """Empty if there is no GPU to run a compiled plan on."""

    @property
    def short_name(self) -> str:
        """``<runtime>-<gpu>``, such as ``tensorrt8.5.3.1-sm90``."""
        gpu = self.compute_capability
        gpu = gpu if gpu == ANY_GPU else f"sm{gpu.replace('.', '')}"
        return f"{self.runtime}{self.runtime_version}-{gpu}"

    def __str__(self) -> str:
        """A description for messages."""
        is_any = self.compute_capability == ANY_GPU
        capability = "" if is_any else f"compute capability {self.compute_capability}"
        gpu = ", ".join(filter(None, (self.device_name, capability))) or "any GPU"
        return f"{self.runtime} {self.runtime_version} on {gpu}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """Record of one compiled plan: what it is, what it is for, and how it was made."""

    file: str
    """Its file name, next to the record."""
    sha256: str
    size_bytes: int
    engine: str
    graph_sha256: str
    """SHA-256 of the ONNX file that it was compiled from."""
    runtime: str
    runtime_version: str
    compute_capability: str
    """Such as ``9.0``, or ``any``."""
    device_name: str
    """The GPU that it was built on; empty if there was none."""
    precision: str
    batch_size: int
    """Images of every inference; a smaller batch is padded."""
    strongly_typed: bool
    layers: Mapping[str, int] = field(default_factory=dict)
    """How many layers output each type."""
    build_seconds: float
    slot_bytes: int = 0
    """GPU memory of one batch in flight, without the weights; 0 if the plan could not be run."""
    check: Mapping[str, Any] = field(default_factory=dict)
    """Differences from ONNX Runtime on the same images; empty if the plan could not be run."""
    host: str
    created: str
    timing_cache_sha256: str = ""
    """Digest of the measurements of this build, which later builds on such a machine start with;
    empty if nothing was measured."""

    @property
    def name(self) -> str:
        """What it is for, in one word; also the name of the record's file."""
        return plan_name(
            Machine(
                runtime=self.runtime,
                runtime_version=self.runtime_version,
                compute_capability=self.compute_capability,
            ),
            self.precision,
            self.batch_size,
        )

    def fits(self, machine: Machine) -> bool:
        """Whether it runs on a machine."""
        return (
            self.runtime == machine.runtime
            and self.runtime_version == machine.runtime_version
            and self.compute_capability in (ANY_GPU, machine.compute_capability)
        )

    def to_json(self) -> bytes:
        """Serialise the record as indented JSON."""
        fields = FORMAT.stamp(dataclasses.asdict(self))
        return (json.dumps(fields, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, *, source: str) -> PlanRecord:
        """Parse a record strictly.

        Raises:
            FormatError: It has a newer format.
            EngineError: It is not a valid record.
        """
        try:
            record = record_of(cls, FORMAT.load(text, source=source))
        except ValueError as error:
            raise EngineError(
                f"{source} is not a valid record of a compiled plan: {error}. Delete it and "
                "build the plan again."
            ) from error
        if "/" in record.file or record.file.startswith("."):
            raise EngineError(
                f"{source} names {record.file!r}, which is not a plain file name. Delete it and "
                "build the plan again."
            )
        return record


def plan_name(machine: Machine, precision: str, batch_size: int) -> str:
    """``<runtime>-<gpu>-<precision>-b<batch>``, such as ``tensorrt8.5.3.1-sm90-fp16-b32``."""
    return layout.plan_name(machine.short_name, precision, batch_size)


def list_plans(engine: Engine) -> list[PlanRecord]:
    """Every compiled plan of an engine, oldest first."""
    prefix = f"{engine.plan_folder}/"
    records = []
    for item in engine.plan_home.list_objects(prefix):
        name = item.key[len(prefix) :]
        if name.endswith(".json") and "/" not in name:
            source = engine.plan_home.uri(item.key)
            text = engine.plan_home.read(item.key)
            if engine.is_in_store:
                check_signature(engine.plan_home, item.key, text, is_required=engine.is_signed)
            record = PlanRecord.from_json(text, source=source)
            if record.engine != engine.card.name or f"{record.name}.json" != name:
                raise EngineError(
                    f"{source} is the record of plan {record.name} of engine {record.engine}: it "
                    f"does not belong to engine {engine.card.name} under this name. Delete it."
                )
            records.append(record)
    return sorted(records, key=lambda record: (record.created, record.name))


def find_plan(
    engine: Engine, machine: Machine, *, precision: str, batch_size: int | None
) -> PlanRecord:
    """Find the compiled plan that fits a machine.

    Args:
        engine: The engine.
        machine: The machine that is to run it.
        precision: Precision of the compiled plan.
        batch_size: Images of every inference; None takes `GPU_BATCH_SIZE` if there is such a plan,
            else the largest.

    Raises:
        EngineMismatchError: There is none; the message names what exists, the machine and the
            command that builds it.
    """
    plans = list_plans(engine)
    fitting = [
        plan
        for plan in plans
        if plan.fits(machine)
        and plan.precision == precision
        and batch_size in (None, plan.batch_size)
    ]
    if not fitting:
        raise EngineMismatchError(_explain(engine, machine, precision, batch_size, plans))
    return max(fitting, key=lambda p: (p.batch_size == GPU_BATCH_SIZE, p.batch_size, p.created))


def read_plan(engine: Engine, record: PlanRecord) -> bytes:
    """Read a compiled plan, and check it against its record.

    Raises:
        EngineError: The file is missing or has changed.
    """
    key = f"{engine.plan_folder}/{record.file}"
    try:
        data = engine.plan_home.read(key)
    except MissingObjectError as error:
        raise EngineError(
            f"engine {engine.card.name}: {engine.plan_home.uri(key)} does not exist, but its "
            f"record does. Delete the record {record.name}.json and build the plan again."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise EngineError(
            f"engine {engine.card.name}: {engine.plan_home.uri(key)} has SHA-256 {found[:12]}…, "
            f"but its record states {record.sha256[:12]}…: the file was changed and is not loaded. "
            f"Delete it and the record {record.name}.json, and build the plan again."
        )
    return data


def read_timing_cache(engine: Engine, machine: Machine) -> bytes:
    """What the newest build on such a machine timed; empty where no record vouches for any.

    TensorRT reads it as it reads a plan, so it is believed by its digest alone.
    """
    for record in reversed(list_plans(engine)):
        if not record.timing_cache_sha256 or not record.fits(machine):
            continue
        with contextlib.suppress(MissingObjectError, LargeObjectError):
            key = timing_cache_key(engine, machine, record.timing_cache_sha256)
            data = engine.plan_home.read(key, max_bytes=MAX_CACHE_BYTES)
            if hashlib.sha256(data).hexdigest() == record.timing_cache_sha256:
                return data
            log.warning("%s is not what its build wrote, and is not used", key)
    return b""


def timing_cache_key(engine: Engine, machine: Machine, sha256: str) -> str:
    """Where a timing cache lies: under a name that says its content."""
    return f"{engine.plan_folder}/{machine.short_name}-{sha256[:12]}.cache"


def put_plan(engine: Engine, record: PlanRecord, plan: bytes) -> PlanRecord:
    """Store a compiled plan. If one of the same name already exists, that one is kept.

    The file's name contains its digest, so every writer writes the same bytes, also over a damaged
    file; the record decides.

    Returns:
        The stored record.
    """
    store, folder = engine.plan_home, engine.plan_folder
    store.write(f"{folder}/{record.file}", plan)
    key = f"{folder}/{record.name}.json"
    if engine.is_in_store:
        sign(store, key, record.to_json())
    if store.put_if_absent(key, record.to_json()):
        return record
    standing = PlanRecord.from_json(store.read(key), source=store.uri(key))
    if standing.file != record.file:
        store.delete([f"{folder}/{record.file}"])
    return standing


def plan_file(name: str, plan: bytes) -> tuple[str, str]:
    """The file name and SHA-256 of a compiled plan."""
    sha256 = hashlib.sha256(plan).hexdigest()
    return f"{name}-{sha256[:12]}.plan", sha256


def build_command(engine: Engine, runtime: str, precision: str, batch_size: int | None) -> str:
    """The command that builds a compiled plan on the machine where it is run."""
    flags = f"--runtime {runtime} --precision {precision}"
    if batch_size is not None:
        flags += f" --batch-size {batch_size}"
    return f"steel-batch build-engine {engine.where} {flags}"


def _explain(
    engine: Engine,
    machine: Machine,
    precision: str,
    batch_size: int | None,
    plans: list[PlanRecord],
) -> str:
    batch = "" if batch_size is None else f" for batches of {batch_size}"
    have = "; ".join(
        f"{p.runtime} {p.runtime_version}, compute capability {p.compute_capability}, "
        f"{p.precision}, batches of {p.batch_size}"
        for p in plans
    )
    return (
        f"engine {engine.card.name} has no compiled {precision} plan{batch} for {machine}. It has: "
        f"{have or 'no compiled plans'}. On this machine, run: "
        f"{build_command(engine, machine.runtime, precision, batch_size)}"
    )
