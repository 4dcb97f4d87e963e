"""What ilert's OAuth endpoints respond, trusted no further than it can be stored."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from django_ilert_oauth.exceptions import IlertRejectedError, IlertUnavailableError

from .secret import Secret
from .transport import retry_after

MAX_RESPONSE_BYTES = 1024 * 1024
MAX_LIFETIME = 100 * 365 * 24 * 3600

TRANSIENT_CODES = frozenset({"server_error", "temporarily_unavailable"})
#: RFC 6749, sections 4.1.2.1 and 5.2; RFC 6750, section 3.1; RFC 7009, section 2.2.1
ERROR_CODES = TRANSIENT_CODES | {
    "access_denied",
    "insufficient_scope",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_token",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "unsupported_token_type",
}
UNKNOWN_CODE = "unknown_error"

#: Control characters and lone surrogates: what not every database keeps.
UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class TokenResponse:
    """Lifetimes are in seconds, None where ilert named none; strings are empty where absent."""

    access_token: Secret
    refresh_token: Secret
    expires_in: int | None
    refresh_token_expires_in: int | None
    scope: str


@dataclass(frozen=True)
class TokenInfo:
    active: bool
    tenant_id: str
    username: str
    scope: str


@dataclass(frozen=True)
class CurrentUser:
    """``email`` may be unverified: to show, never to trust."""

    id: int | None
    display_name: str
    email: str


@dataclass(frozen=True)
class OAuthResponse:
    """``body`` is None where it is no JSON object."""

    status: int
    retry_after: float | None
    body: Mapping[str, Any] | None = field(repr=False)


def error_code(value: object) -> str:
    """Only a documented code comes back; anything else that ilert may have sent does not."""
    return value if isinstance(value, str) and value in ERROR_CODES else UNKNOWN_CODE


def lifetime(value: object) -> int | None:
    """An integer of seconds from whatever ``expires_in`` holds; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = value if isinstance(value, int) else float(value)
        return int(min(max(seconds, 0), MAX_LIFETIME))
    except ValueError:
        return None


def parse_response(response: requests.Response) -> OAuthResponse:
    """Raises ``IlertUnavailableError`` or ``IlertRejectedError`` for all that is no success."""
    content = _content(response)
    parsed = OAuthResponse(
        response.status_code,
        retry_after(response.headers.get("Retry-After")),
        _parse_object(content),
    )
    _raise_for_error(parsed)
    if content.lstrip().startswith(b"<"):
        raise _unusable(parsed)
    return parsed


def parse_tokens(response: OAuthResponse) -> TokenResponse:
    body = _body(response)
    refresh_token = body.get("refresh_token") or ""
    if not (
        _is_token(body.get("access_token"))
        and (refresh_token == "" or _is_token(refresh_token))
        and _is_bearer(body.get("token_type"))
    ):
        raise _unusable(response)
    return TokenResponse(
        access_token=Secret(body["access_token"]),
        refresh_token=Secret(refresh_token),
        expires_in=lifetime(body.get("expires_in")),
        refresh_token_expires_in=lifetime(body.get("refresh_token_expires_in")),
        scope=_scope(body),
    )


def parse_token_info(response: OAuthResponse) -> TokenInfo:
    body = _body(response)
    info = TokenInfo(
        active=body.get("active") is True,
        tenant_id=_string(body, "tenant_id", 100),
        username=_string(body, "username", 255),
        scope=_scope(body),
    )
    is_anonymous = info.active and not (info.tenant_id and info.username)
    if is_anonymous or not isinstance(body.get("active"), bool):
        raise _unusable(response)
    return info


def parse_current_user(response: OAuthResponse) -> CurrentUser:
    """Names are decoration: what is too long is cut, and what no database keeps is left out."""
    body = _body(response)
    names = (_string(body, key) for key in ("firstName", "lastName"))
    return CurrentUser(
        id=_integer(body.get("id")),
        display_name=" ".join(filter(None, names))[:255],
        email=_string(body, "email")[:254],
    )


def parse_nothing(response: OAuthResponse) -> None:
    """The status says it all (RFC 7009, section 2.2)."""


def _content(response: requests.Response) -> bytes:
    content = bytearray()
    for chunk in response.raw.stream(16 * 1024, decode_content=True):
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise IlertUnavailableError(
                "ilert's response is too long.",
                code="unusable_response",
                status=response.status_code,
            )
    return bytes(content)


def _parse_object(content: bytes) -> Mapping[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _raise_for_error(response: OAuthResponse) -> None:
    if 200 <= response.status < 300:
        return
    codes = [(response.body or {}).get(key) for key in ("code", "error")]
    known = next((code for code in codes if error_code(code) != UNKNOWN_CODE), None)
    if response.status == 429:
        raise _unavailable(response, "ilert asks for fewer requests.", "rate_limited")
    if response.status >= 500 or known in TRANSIENT_CODES:
        raise _unavailable(response, "ilert reports a server error.", "server_error")
    if response.status >= 400 and any(isinstance(code, str) for code in codes):
        code = error_code(known)
        raise IlertRejectedError(f"ilert refused: {code}.", code=code, status=response.status)
    raise _unusable(response)


def _unavailable(response: OAuthResponse, message: str, code: str) -> IlertUnavailableError:
    return IlertUnavailableError(
        f"{message} (HTTP {response.status})",
        code=code,
        status=response.status,
        retry_after=response.retry_after,
    )


def _unusable(response: OAuthResponse) -> IlertUnavailableError:
    message = "ilert's response could not be used."
    if response.body is None:
        message = "The response is not ilert's: is there a proxy, a firewall or a wrong address?"
    return _unavailable(response, message, "unusable_response")


def _body(response: OAuthResponse) -> Mapping[str, Any]:
    if response.body is None:
        raise _unusable(response)
    return response.body


def _is_token(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable()


def _is_bearer(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.lower() == "bearer")


def _scope(body: Mapping[str, Any]) -> str:
    """ASCII (RFC 6749, section 3.3): what a database cannot keep would cost the tokens."""
    scope = _string(body, "scope", 4096)
    return scope if scope.isascii() else ""


def _string(body: Mapping[str, Any], key: str, max_length: int | None = None) -> str:
    """Empty for what is none, and for what a column could not keep."""
    value = body.get(key)
    if not isinstance(value, str) or UNSTORABLE.search(value):
        return ""
    return value if max_length is None or len(value) <= max_length else ""


def _integer(value: object) -> int | None:
    """None for what a 64-bit column could not keep."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    return None
