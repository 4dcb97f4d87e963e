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

    ``code``, ``detailed_code``, ``message`` and ``correlation_id`` are strings from the body and
    headers of the response. They are empty if the response does not have them, or has not been read
    because of ``stream=True``. The message is shortened and contains neither control characters nor
    any part of the token, but it may quote what you sent, so think before you show it to users.
    ``str()`` contains neither the query nor ilert's message. Pickling drops request and response.
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
    """A scope is missing: ilert's ``OAUTH2_SCOPE_ERROR``, or ``insufficient_scope`` of RFC 6750.

    ``missing_scopes`` is a list of strings, empty if the response does not name them.
    """

    def __init__(self, *args: Any, missing_scopes: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.missing_scopes = list(missing_scopes)


class IlertPlanError(IlertHTTPError):
    """The tenant's plan at ilert does not include this, or its quota is used up (402)."""
