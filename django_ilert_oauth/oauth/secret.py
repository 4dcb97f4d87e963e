"""A string that does not show itself."""

from __future__ import annotations

import hmac
from collections.abc import Callable

MASK = "<secret>"


class Secret:
    """A token, code, verifier, state or key; ``reveal()`` gives the plain string.

    It is no ``str``: trackers, templates, formatting, slices and ``vars()`` find the mask or
    nothing, and a pickle holds an empty secret. Equality compares the plain strings, in constant
    time.
    """

    __slots__ = ("reveal",)

    #: In a closure, since error trackers show attributes.
    reveal: Callable[[], str]

    def __init__(self, text: str | Secret = "") -> None:
        self.reveal = text.reveal if isinstance(text, Secret) else lambda: text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __bool__(self) -> bool:
        return self.reveal() != ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str | Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), Secret(other)._bytes())

    def _bytes(self) -> bytes:
        # An error about a lone surrogate would carry the string.
        return self.reveal().encode(errors="surrogatepass")

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[type[Secret], tuple[()]]:
        return Secret, ()
