"""What the reference takes from the code: ``{columns} predictions``, and help texts as text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from steel_batch.tables.columns import COLUMNS
from steel_batch.tables.table_log import SCHEMAS


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


class Columns(Directive):
    """A table of the columns of one of the store's tables."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown and have it parsed."""
        table = self.arguments[0]
        lines = ["| column | type | null | meaning | unit | example |", "|---|---|---|---|---|---|"]
        for field in SCHEMAS[table]:
            column = COLUMNS[table][field.name]
            null = "yes" if field.nullable else ""
            example = f"`{column.example}`" if column.example else ""
            lines.append(
                f"| `{field.name}` | {type_name(field.type)} | {null} | {column.meaning} "
                f"| {column.unit} | {example} |"
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
