"""README.rst as its readers get it: tables, code, and the steps of the installation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree

PATH = Path(__file__).parents[2] / "README.rst"

#: A row's cells, without the markup of literals.
Row = list[str]


@dataclass(frozen=True)
class Addition:
    """Lines for the end of a file."""

    path: str
    lines: str


@dataclass(frozen=True)
class Command:
    line: str


@cache
def document(*, halt_level: int = 5) -> nodes.document:
    """Raises ``docutils.ApplicationError`` for what docutils says at this level (1 is any)."""
    settings = {"halt_level": halt_level, "report_level": 5, "syntax_highlight": "none"}
    # PyPI takes nothing in from other files.
    alone = {"file_insertion_enabled": False, "raw_enabled": False}
    return publish_doctree(
        PATH.read_text(), source_path=str(PATH), settings_overrides=settings | alone
    )


def section(title: str) -> nodes.section:
    [found] = [node for node in document().findall(nodes.section) if node[0].astext() == title]
    return found


def section_titles() -> list[str]:
    """Of the topmost, in order."""
    return [node[0].astext() for node in document().children if isinstance(node, nodes.section)]


def rows(first_cell: str) -> dict[str, Row]:
    """The other cells of each row of any table whose first cell is like this."""
    found = [row for table in document().findall(nodes.table) for row in _rows(table)]
    fitting = [row for row in found if re.fullmatch(first_cell, row[0])]
    assert len({row[0] for row in fitting}) == len(fitting), f"described twice: {fitting}"
    return {row[0]: row[1:] for row in fitting}


def table(title: str) -> list[Row]:
    """The rows of the only one in a section, without its head."""
    [found] = section(title).findall(nodes.table)
    return _rows(found)[1:]


def options() -> dict[str, list[str]]:
    """Those in tables, under the command of manage.py that was named last before."""
    found: dict[str, list[str]] = {}
    command = ""
    for node in document().findall():
        if isinstance(node, nodes.literal | nodes.literal_block):
            command = [command, *re.findall(r"manage\.py (\w+)", node.astext())][-1]
        elif isinstance(node, nodes.table):
            given = [row[0] for row in _rows(node) if row[0].startswith("--")]
            found[command] = found.get(command, []) + given
    return found


def blocks(language: str, title: str = "") -> list[str]:
    """In a section, or anywhere."""
    found = (section(title) if title else document()).findall(nodes.literal_block)
    return [block.astext() for block in found if language in block["classes"]]


def literals() -> set[str]:
    return {_flat(node) for node in document().findall(nodes.literal)}


def installation() -> Iterator[Addition | Command]:
    """What a newcomer does, in order: Python goes to the file that was named last."""
    path = ""
    for node in section("Installation").findall():
        if isinstance(node, nodes.literal) and node.astext().endswith(".py"):
            path = node.astext()
        elif isinstance(node, nodes.literal_block) and "python" in node["classes"]:
            yield Addition(path, node.astext())
        elif isinstance(node, nodes.literal_block) and "console" in node["classes"]:
            yield from map(Command, node.astext().splitlines())


def _rows(table: nodes.table) -> list[Row]:
    return [[_flat(cell) for cell in row] for row in table.findall(nodes.row)]


def _flat(node: nodes.Node) -> str:
    return " ".join(node.astext().split())
