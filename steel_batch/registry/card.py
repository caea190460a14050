"""The card of a version: what is recorded of one immutable version of a model, and its digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from steel_batch.errors import EngineError
from steel_batch.lake.documents import parse_json, record_of
from steel_batch.lake.format_version import FileFormat

MAX_CLASSES = 8
MAX_SIDE_PX = 1 << 16
IMAGE, MASK, PEAK, COUNT = "image", "mask", "peak", "count"
PRECISIONS = ("fp32", "fp16", "int8")
Resize = Literal["never", "fit"]
FORMAT: Final = FileFormat("an engine card", newest=2)
"""Format of the card. In format 1, a version is a digest of its graphs and post-processing only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PostProcess:
    """What is done to a mask between the graph and the row."""

    min_area_px: tuple[int, ...]
    """Per class: a class with fewer pixels than this on an image is dropped from it. Counted in
    pixels of the engine's input; on an image of another size, the same share of the image."""
    min_component_px: tuple[int, ...]
    """Per class: connected components with fewer pixels than this, counted in the same way, are
    dropped first."""
    resize: Resize = "never"
    """Images of another size: `never` quarantines them, `fit` scales the image and its mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """One ONNX file of a version."""

    file: str
    sha256: str
    precision: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is recorded of one immutable version of a model: `card.json`."""

    model: str
    version: str
    """12 hex digits of the digest of the graphs and of everything that determines a row."""
    created: str
    classes: tuple[str, ...]
    """Names of the classes 1, 2, …: at most eight."""
    height: int
    width: int
    thresholds: tuple[float, ...]
    """Per class, as a probability; for information only, the graph applies its own."""
    post_process: PostProcess
    graphs: tuple[Graph, ...]
    """The first is the master (fp32); the others are the same network in other precisions."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = FORMAT.newest

    @classmethod
    def of(cls, graphs: Mapping[str, bytes], files: Mapping[str, str], **fields: Any) -> Card:
        """Make the card of a new version.

        Args:
            graphs: ONNX bytes by precision, the master first.
            files: File names of the graphs by precision.
            fields: The other fields, without the version.

        Returns:
            The card; the same content gives the same version on any machine.
        """
        described = tuple(
            Graph(
                file=files[precision], sha256=hashlib.sha256(data).hexdigest(), precision=precision
            )
            for precision, data in graphs.items()
        )
        card = cls(version="", graphs=described, **fields)
        return dataclasses.replace(card, version=card.content_version())

    def content_version(self) -> str:
        """The version that follows from the card's own content."""
        content: dict[str, Any] = {
            "graphs": {graph.precision: graph.sha256 for graph in self.graphs},
            "post_process": dataclasses.asdict(self.post_process),
        }
        if self.format > 1:
            names = ("format", "model", "classes", "height", "width", "thresholds")
            content |= {name: getattr(self, name) for name in names}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """``<model>-<version>``, as in the partition ``engine=…``."""
        return f"{self.model}-{self.version}"

    def graph(self, precision: str) -> Graph:
        """The graph of one precision.

        Raises:
            EngineError: The version has none.
        """
        for graph in self.graphs:
            if graph.precision == precision:
                return graph
        have = ", ".join(graph.precision for graph in self.graphs)
        raise EngineError(f"engine {self.name} has no {precision} graph; it has: {have}.")

    def to_json(self) -> str:
        """The card as indented JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Card:
        """Parse a card strictly.

        Args:
            text: The JSON.
            source: Where it is stored, for messages.

        Raises:
            FormatError: It has a newer format.
            EngineError: A field is missing, unknown or of the wrong type, the settings contradict
                each other, or settings or graphs do not match the version.
        """
        try:
            raw = parse_json(text)
            stated = raw.get("format", 1) if isinstance(raw, dict) else 1
            form = FORMAT.check(stated, source=source)
            card = record_of(cls, {**raw, "format": form} if isinstance(raw, dict) else raw)
        except ValueError as error:
            raise EngineError(
                f"{source} is not a valid engine card: {error}. Restore the card, or move it away "
                "and register the version again."
            ) from error
        card._check(source)
        return card

    def _check(self, source: str) -> None:
        num_classes = len(self.classes)
        post = self.post_process
        sizes = {
            "thresholds": len(self.thresholds),
            "post_process.min_area_px": len(post.min_area_px),
            "post_process.min_component_px": len(post.min_component_px),
        }
        wrong = [f"{name} has {size}" for name, size in sizes.items() if size != num_classes]
        if not 1 <= num_classes <= MAX_CLASSES:
            wrong.append(f"classes has {num_classes} entries, expected 1 to {MAX_CLASSES}")
        if not all(1 <= px <= MAX_SIDE_PX for px in (self.height, self.width)):
            wrong.append(f"its size is {self.width}×{self.height}, expected 1 to {MAX_SIDE_PX}")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            wrong.append("a threshold is not a probability")
        if min((*post.min_area_px, *post.min_component_px), default=0) < 0:
            wrong.append("a minimum area is negative")
        if post.resize not in get_args(Resize):
            wrong.append(f"post_process.resize is {post.resize!r}, expected 'never' or 'fit'")
        if not self.graphs or self.graphs[0].precision != "fp32":
            wrong.append("graphs does not begin with the fp32 master")
        if any("/" in graph.file or graph.file.startswith(".") for graph in self.graphs):
            wrong.append("a graph's file is not a plain file name")
        if wrong:
            raise EngineError(
                f"{source} is inconsistent ({num_classes} classes): {'; '.join(wrong)}. Restore "
                "the card, or register the version again."
            )
        found = self.content_version()
        if found != self.version:
            raise EngineError(
                f"{source} was changed after it was registered: its content has version {found}, "
                f"but it states {self.version}. Restore the card, or register its present content "
                "as a version of its own."
            )
