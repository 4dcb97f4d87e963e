"""A text that does not show itself."""

from __future__ import annotations


class Secret(str):
    """A token, code, verifier or key: an ordinary ``str`` whose ``repr`` is masked.

    Frames captured by error trackers, dataclasses and containers show the mask. ``str()``,
    formatting and every ``str`` method give plain text back.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"
