"""The mapping file: which of their columns is which of ours.

    engagements:
      user_id: uid                          # ours: theirs
      at: {column: ts, unit: ms}            # numbers must say their unit: s, ms or us
      action: {constant: long_view}         # the same for every row
    items:
      topics: {column: genres, delimiter: ","}
    ids:
      user: text                            # or integer; by default the column's type says it

Columns that are not named keep their own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.importers.keys import KINDS
from pipelines.importers.times import UNITS_US
from profiling.schema import TableSchema
from profiling.tables import ENGAGEMENTS, ITEMS, TOPICS
from selection.tables import IMPRESSIONS, SERVED_DRAWS

SCHEMAS: dict[str, TableSchema] = {
    s.name: s for s in (ITEMS, TOPICS, ENGAGEMENTS, IMPRESSIONS, SERVED_DRAWS)
}
_FIELDS = ("column", "constant", "unit", "delimiter")


@dataclass(frozen=True)
class MappedColumn:
    """Where a column of ours comes from.

    Attributes:
        column: Their column; None for a constant.
        constant: The value of every row.
        unit: Of times that are numbers: s, ms or us.
        delimiter: Between the parts of a text that holds several.
    """

    column: str | None
    constant: Any = None
    unit: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True)
class TableMapping:
    """A mapping file.

    Attributes:
        tables: Table (ITEMS, ...) to our column to where it comes from.
        ids: Kind of id to `text` or `integer`.
        where: The file, for errors.
    """

    tables: Mapping[str, Mapping[str, MappedColumn]] = field(default_factory=dict)
    ids: Mapping[str, str] = field(default_factory=dict)
    where: str = "the mapping"

    def column(self, table: str, name: str) -> MappedColumn:
        """Where our column `name` comes from; from theirs of the same name if not mapped."""
        return self.tables.get(table, {}).get(name, MappedColumn(name))

    def is_mapped(self, table: str, name: str) -> bool:
        """Whether the file names the column."""
        return name in self.tables.get(table, {})


def known_columns(table: str) -> list[str]:
    """Our columns of a table that a source may have: all but the digest, which is computed."""
    return [n for n in SCHEMAS[table].names if n != "content_digest"]


def read_mapping(path: Path) -> TableMapping:
    """Read a mapping file.

    Raises:
        ValueError: The file is missing, no YAML, or has a table, column or key that is not known;
            the message names the line and what is known.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such mapping file; give one that exists")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{path}: not YAML: {problem}; correct it") from None
    tables: dict[str, dict[str, MappedColumn]] = {}
    ids: dict[str, str] = {}
    for name, line, node in _entries(root, str(path), (*map(str.lower, SCHEMAS), "ids")):
        if name == "ids":
            ids = {kind: _id_type(value, at) for kind, at, value in _entries(node, line, KINDS)}
            continue
        tables[name.upper()] = {
            column: _mapped_column(value, at)
            for column, at, value in _entries(node, line, known_columns(name.upper()))
        }
    return TableMapping(tables, ids, str(path))


def _entries(
    node: yaml.Node | None, where: str, known: Iterable[str]
) -> list[tuple[str, str, yaml.Node]]:
    """(key, place, value) of a YAML mapping whose keys must be known and come once."""
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{where}: must be `key: value` lines, one of {', '.join(known)}")
    path = where.split(", line")[0]
    found: dict[str, tuple[str, str, yaml.Node]] = {}
    for key, value in node.value:
        place = f"{path}, line {key.start_mark.line + 1}"
        if key.value not in known:
            raise ValueError(f"{place}: {key.value!r} is not known; use {', '.join(known)}")
        if key.value in found:
            raise ValueError(f"{place}: {key.value!r} comes twice; keep one")
        found[key.value] = (key.value, place, value)
    return list(found.values())


def _id_type(node: yaml.Node, where: str) -> str:
    if node.value not in ("text", "integer"):
        raise ValueError(f"{where}: ids are `text` or `integer`, got {node.value!r}")
    return str(node.value)


def _mapped_column(node: yaml.Node, where: str) -> MappedColumn:
    if isinstance(node, yaml.ScalarNode) and node.value:
        return MappedColumn(node.value)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{where}: give a column, or {{constant: value}}, got {node.value!r}")
    parts = {key: value for key, _, value in _entries(node, where, _FIELDS)}
    if ("column" in parts) == ("constant" in parts):
        raise ValueError(f"{where}: give either `column` or `constant`, got {', '.join(parts)}")
    unit = parts["unit"].value if "unit" in parts else None
    if unit is not None and unit not in UNITS_US:
        raise ValueError(f"{where}: a unit is {', '.join(UNITS_US)}, got {unit!r}")
    delimiter = parts["delimiter"].value if "delimiter" in parts else None
    if delimiter == "":
        raise ValueError(f"{where}: the delimiter is empty; give at least one character")
    if "column" in parts:
        return MappedColumn(str(parts["column"].value), None, unit, delimiter)
    constant = yaml.safe_load(yaml.serialize(parts["constant"]))
    return MappedColumn(None, constant, unit, delimiter)
