"""What ``IlertSession`` raises for error responses; import it from ``exceptions``.

A module of its own, since the others are needed when Django starts, which ``requests`` would slow
down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import requests


class IlertHTTPError(requests.HTTPError):
    """An error response of ilert's REST API; ``raise_for_status`` raises it.

    ``code``, ``detailed_code``, ``message`` and ``correlation_id`` are ilert's own, empty where the
    response has none or, with ``stream=True``, has not been read. The message is cut short, has no
    control characters and no piece of the token; it may quote what was sent, so think before you
    show it. ``str()`` has neither the query nor ilert's message. Pickled, the error leaves its
    request and response behind.
    """

    def __init__(
        self,
        *args: Any,
        code: str = "",
        detailed_code: str = "",
        message: str = "",
        correlation_id: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.code = code
        self.detailed_code = detailed_code
        self.message = message
        self.correlation_id = correlation_id

    def __reduce__(self) -> tuple[Any, ...]:
        left_behind = {"request": None, "response": None}
        return type(self), self.args, vars(self) | left_behind


class IlertScopeError(IlertHTTPError):
    """A scope is missing: ``OAUTH2_SCOPE_ERROR``, or ``insufficient_scope`` of RFC 6750.

    ``missing_scopes`` is empty where the response does not name them.
    """

    def __init__(self, *args: Any, missing_scopes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.missing_scopes = list(missing_scopes)


class IlertPlanError(IlertHTTPError):
    """The plan of the tenant does not include it, or has used it up (402)."""
