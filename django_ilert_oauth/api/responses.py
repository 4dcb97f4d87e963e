"""What an error response of ilert's REST API says, beyond what ``requests`` makes of it."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests

from django_ilert_oauth.exceptions import IlertHTTPError, IlertPlanError, IlertScopeError
from django_ilert_oauth.internal import scopes
from django_ilert_oauth.oauth.secret import Secret

MAX_MESSAGE = 500
#: So many characters are searched for pieces of the token.
MAX_SEARCHED = 8 * MAX_MESSAGE
#: So many characters of a secret tell something about it.
PIECE = 8
NOT_JSON = object()
#: Codes and correlation IDs.
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
#: No word of a message is as long, but other tokens are.
_LONG_WORD = re.compile(r"\S{40,}")
#: RFC 6750, section 3.
_CHALLENGE = re.compile(r'\b(error|scope)="?([^",]*)')
_INSUFFICIENT_SCOPE = "insufficient_scope"


class IlertResponse(requests.Response):
    """An error response."""

    #: All that it says, without the token, so that pickles can keep it.
    error: partial[IlertHTTPError]

    def raise_for_status(self) -> None:
        raise self.error(response=self)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"error": self.error}


def error_response(response: requests.Response, token: Secret, *, stream: Any) -> IlertResponse:
    """The same response, but one that raises ``IlertHTTPError``. A stream is not read for that.

    ``token`` is the one that was sent; without one, the response came from elsewhere.
    """
    body = {} if stream or not response.content else parse_json(response.content)
    made = IlertResponse()
    # ``requests`` has no way to choose the class of a response, and no copy of one.
    vars(made).update(vars(response))
    made.error = _error(response, body, token)
    return made


def parse_json(content: bytes) -> Any:
    """``NOT_JSON`` instead of an error, which would carry the body."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return NOT_JSON


def _error(response: requests.Response, body: Any, token: Secret) -> partial[IlertHTTPError]:
    fields = body if isinstance(body, dict) else {}
    challenge = dict(_CHALLENGE.findall(response.headers.get("WWW-Authenticate", "")))
    code = _word(fields.get("code"), token)
    if not code and _INSUFFICIENT_SCOPE in (fields.get("error"), challenge.get("error")):
        code = _INSUFFICIENT_SCOPE
    request = f"{response.request.method} {urlsplit(response.url).path}"
    if not token or (body is NOT_JSON and not code):
        return partial(
            IlertHTTPError,
            f"The {response.status_code} in response to {request} is not from ilert, but perhaps "
            "from a proxy, a firewall or a wrong address.",
        )
    correlation_id = _word(response.headers.get("correlation-id"), token)
    text = f"ilert responded with {f'{response.status_code} {code}'.strip()} to {request}"
    error: partial[Any] = partial(
        IlertPlanError if response.status_code == 402 else IlertHTTPError,
        f"{text} (correlation ID {correlation_id})" if correlation_id else text,
        code=code,
        detailed_code=_word(fields.get("detailedCode"), token),
        message=_message(fields.get("message", fields.get("error_description")), token),
        correlation_id=correlation_id,
    )
    if response.status_code == 403 and code in ("OAUTH2_SCOPE_ERROR", _INSUFFICIENT_SCOPE):
        missing = _scopes(fields.get("scope", challenge.get("scope")), token)
        error = partial(IlertScopeError, *error.args, **error.keywords, missing_scopes=missing)
    return error


def _word(value: object, token: Secret) -> str:
    is_word = isinstance(value, str) and _WORD.fullmatch(value)
    return str(value) if is_word and _redacted(str(value), token) == value else ""


def _message(value: object, token: Secret) -> str:
    if not isinstance(value, str):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in value[:MAX_SEARCHED])
    return " ".join(_LONG_WORD.sub("…", _redacted(printable, token)).split())[:MAX_MESSAGE]


def _scopes(value: object, token: Secret) -> list[str]:
    """RFC 6750 separates them by spaces; ilert names one."""
    if not isinstance(value, str) or len(value) > MAX_SEARCHED:
        return []
    return [name for name in scopes.split(_redacted(value, token)) if scopes.is_valid(name)]


def _redacted(text: str, token: Secret) -> str:
    """Without any piece of the token that tells something about it."""
    for at in range(len(text)):
        if len(piece := text[at : at + PIECE]) == PIECE and piece in token.reveal():
            text = f"{text[:at]}…{text[at + PIECE :]}"
    return text
