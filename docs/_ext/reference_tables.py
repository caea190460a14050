"""What the reference takes from the code: ``{columns} predictions``, and help texts as text."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import pyarrow as pa
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from steel_batch.answers.columns import COLUMNS
from steel_batch.answers.open_store import OpenStore
from steel_batch.lake import Lake
from steel_batch.tables.table_log import SCHEMAS, ensure_tables


def type_name(kind: pa.DataType) -> str:
    """A type as SQL users read it."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "struct"
    if pa.types.is_map(kind):
        return "map of text to text"
    if pa.types.is_timestamp(kind):
        return "timestamp (UTC, µs)"
    return {"string": "text", "date32[day]": "date"}.get(str(kind), str(kind))


@functools.cache
def columns_of(table: str) -> list[tuple[str, str, str]]:
    """Name, type and whether it may be null ("yes"), of a table's columns or a view's."""
    if table in SCHEMAS:
        fields = SCHEMAS[table]
        return [(f.name, type_name(f.type), "yes" if f.nullable else "") for f in fields]
    with tempfile.TemporaryDirectory() as folder:
        store = Lake(folder)
        ensure_tables(store)
        with OpenStore(store) as opened:
            made = opened.view(table).limit(0).to_arrow_table().schema
    return [(field.name, type_name(field.type), "") for field in made]


class Columns(Directive):
    """A table of the columns of one of the store's tables."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown and have it parsed."""
        table = self.arguments[0]
        lines = ["| column | type | null | meaning | unit | example |", "|---|---|---|---|---|---|"]
        for name, kind, null in columns_of(table):
            column = COLUMNS[table][name]
            example = f"`{column.example}`" if column.example else ""
            lines.append(
                f"| `{name}` | {kind} | {null} | {column.meaning} | {column.unit} | {example} |"
            )
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source="schema"), 0, node)
        return node.children


def escape(_app: Any, _context: Any, lines: list[str]) -> None:
    """Help texts are text: the stars of a key pattern are no markup."""
    lines[:] = [line.replace("*", "\\*") for line in lines]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive and the escaping."""
    app.add_directive("columns", Columns)
    app.connect("sphinx-click-process-options", escape)
    return {"parallel_read_safe": True}
