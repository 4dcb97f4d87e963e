"""README.rst and docs/ as their readers get them: tables, code, and the steps of the tutorial.

By docutils alone, so that each environment can read them; ``tox run -e docs`` has Sphinx.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import Directive, directives, roles

ROOT = Path(__file__).parents[2]
README = "README"
#: By their paths without the suffix. What the changelog names may be gone by now.
PAGES = [README] + [
    str(path.relative_to(ROOT).with_suffix(""))
    for path in sorted(ROOT.glob("docs/**/*.rst"))
    if path.name != "changelog.rst"
]

#: A row's cells, without the markup of literals.
Row = list[str]


class _OfSphinx(Directive):
    """Read by Sphinx alone."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = dict.fromkeys(
        ("imported-members", "maxdepth", "members", "no-members"), directives.unchanged
    )

    def run(self) -> list[nodes.Node]:
        return []


def _reference(_role: str, source: str, text: str, *_: Any) -> Any:
    return [nodes.inline(source, text)], []


for _role in ("doc", "ref"):
    roles.register_local_role(_role, _reference)
for _kind in ("class", "exception", "function", "module"):
    directives.register_directive(f"auto{_kind}", _OfSphinx)
directives.register_directive("toctree", _OfSphinx)


@dataclass(frozen=True)
class Addition:
    """Lines for the end of a file."""

    path: str
    lines: str


@dataclass(frozen=True)
class Command:
    line: str


def text(page: str) -> str:
    return (ROOT / f"{page}.rst").read_text()


def all_text() -> str:
    return "\n".join(map(text, PAGES))


@cache
def document(page: str, *, halt_level: int = 5) -> nodes.document:
    """Raises ``docutils.ApplicationError`` for what docutils says at this level (1 is any)."""
    settings = {"halt_level": halt_level, "report_level": 5, "syntax_highlight": "none"}
    # PyPI takes nothing in from other files.
    alone = {"file_insertion_enabled": False, "raw_enabled": False}
    return publish_doctree(text(page), source_path=page, settings_overrides=settings | alone)


def rows(head: str, *pages: str) -> dict[str, Row]:
    """The other cells of each row of the one table that begins with this head; not README's."""
    [found] = [
        rows
        for page in pages or PAGES[1:]
        for table in document(page).findall(nodes.table)
        if (rows := _rows(table))[0][0] == head
    ]
    described = {row[0]: row[1:] for row in found[1:]}
    assert len(described) == len(found) - 1, "described twice"
    return described


def all_rows(page: str) -> list[Row]:
    return [row for table in document(page).findall(nodes.table) for row in _rows(table)]


def options() -> dict[str, list[str]]:
    """Those in tables, under the command of manage.py that was named last before."""
    found: dict[str, list[str]] = {}
    command = ""
    for node in document("docs/reference/commands").findall():
        if isinstance(node, nodes.literal | nodes.literal_block):
            command = [command, *re.findall(r"manage\.py (\w+)", node.astext())][-1]
        elif isinstance(node, nodes.table) and _rows(node)[0][0] == "Option":
            found[command] = [row[0] for row in _rows(node)[1:]]
    return found


def blocks(language: str, *pages: str) -> list[str]:
    return [
        block.astext()
        for page in pages or PAGES
        for block in document(page).findall(nodes.literal_block)
        if language in block["classes"]
    ]


def shell_lines() -> list[str]:
    return [line for block in blocks("console") + blocks("text") for line in block.splitlines()]


def literals() -> set[str]:
    return {_flat(node) for page in PAGES for node in document(page).findall(nodes.literal)}


def places_of_readme() -> list[str]:
    """Where its links and pictures lead, but for those to its own sections."""
    links = [node.get("refuri", "") for node in document(README).findall(nodes.reference)]
    pictures = [node["uri"] for node in document(README).findall(nodes.image)]
    return [place for place in (*links, *pictures) if place]


def tutorial() -> Iterator[Addition | Command]:
    """What a newcomer does, in order: Python goes to the file that was named last."""
    path = ""
    for node in document("docs/tutorial").findall():
        if isinstance(node, nodes.literal) and node.astext().endswith(".py"):
            path = node.astext()
        elif isinstance(node, nodes.literal_block) and "python" in node["classes"]:
            # What comes after the server has started is for a view.
            if "request" not in node.astext():
                yield Addition(path, node.astext())
        elif isinstance(node, nodes.literal_block) and "console" in node["classes"]:
            yield from map(Command, node.astext().splitlines())


def _rows(table: nodes.table) -> list[Row]:
    return [[_flat(cell) for cell in row] for row in table.findall(nodes.row)]


def _flat(node: nodes.Node) -> str:
    return " ".join(node.astext().split())
