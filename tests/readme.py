"""What README.rst prints, to be run as it stands."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

README = Path(__file__).parents[1] / "README.rst"
BLOCK = ".. code-block:: python\n\n"


def python_blocks(title: str) -> list[str]:
    """Those below a heading, up to the next one of any level."""
    _, _, rest = README.read_text().partition(f"\n{title}\n")
    section = _up_to_next_heading(rest.split("\n", 1)[1])
    return [_block(part) for part in section.split(BLOCK)[1:]]


def _up_to_next_heading(text: str) -> str:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if number and len(line) > 3 and set(line) in ({"="}, {"-"}) and lines[number - 1].strip():
            return "\n".join(lines[: number - 1])
    return text


def _block(text: str) -> str:
    lines = text.splitlines()
    ends = (n for n, line in enumerate(lines) if line and not line.startswith(" "))
    return dedent("\n".join(lines[: next(ends, len(lines))]))
