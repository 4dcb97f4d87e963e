"""Tables in reStructuredText, and the machine that they come from."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

PACKAGES = ["Django", "requests", "cryptography", "psycopg", "django-esi", "social-auth-app-django"]


@dataclass
class Table:
    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        ruler = "  ".join("=" * width for width in widths)
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [self.head, *self.rows]
        ]
        return "\n".join([self.title, "", ruler, lines[0], ruler, *lines[1:], ruler, ""])


def merged(tables: Iterable[Table]) -> list[Table]:
    """One of each title, with the rows of all."""
    by_title: dict[str, Table] = {}
    for table in tables:
        by_title.setdefault(table.title, Table(table.title, table.head)).rows.extend(table.rows)
    return list(by_title.values())


def machine(databases: Iterable[str]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{packages}, {', '.join(databases)}."
    )
