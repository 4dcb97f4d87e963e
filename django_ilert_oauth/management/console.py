"""Names on a console: they come from ilert, and do nothing to the terminal."""

from __future__ import annotations

from typing import Any


def printable(text: str, stream: Any) -> str:
    """Has escapes in place of what the stream cannot show, and of what is not to be seen.

    That is what breaks a line, moves the cursor or turns the direction of writing.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
