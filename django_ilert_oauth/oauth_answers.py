"""What ilert's OAuth endpoints answer, trusted no further than it can be stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests

from .exceptions import IlertOAuthError, IlertRejectedError, IlertUnavailableError
from .secret import Secret
from .transport import retry_after

T = TypeVar("T")

MAX_ANSWER_BYTES = 1024 * 1024
MAX_LIFETIME = 100 * 365 * 24 * 3600

TRANSIENT_CODES = frozenset({"server_error", "temporarily_unavailable"})
#: RFC 6749, sections 4.1.2.1 and 5.2; RFC 7009, section 2.2.1
ERROR_CODES = TRANSIENT_CODES | {
    "access_denied",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "unsupported_token_type",
}
UNKNOWN_CODE = "unknown_error"


@dataclass(frozen=True)
class TokenAnswer:
    """Lifetimes are in seconds, None where ilert named none; texts are empty where absent."""

    access_token: Secret = field(repr=False)
    refresh_token: Secret = field(repr=False)
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
class Answer:
    status: int
    retry_after: float | None
    body: Mapping[str, Any] | None = field(repr=False)


def error_code(value: object) -> str:
    """Only a documented code comes back; anything else that ilert may have sent does not."""
    return value if isinstance(value, str) and value in ERROR_CODES else UNKNOWN_CODE


def lifetime(value: object) -> int | None:
    """Whole seconds from whatever ``expires_in`` holds; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = value if isinstance(value, int) else float(value)
        return int(min(max(seconds, 0), MAX_LIFETIME))
    except ValueError:
        return None


def read(response: requests.Response, deadline: float) -> Answer | IlertOAuthError:
    content = bytearray()
    while chunk := response.raw.read1(16 * 1024, decode_content=True):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            return IlertUnavailableError("ilert's answer is too long.", code="unusable_answer")
        if time.monotonic() > deadline:
            return too_slow()
    answer = Answer(
        response.status_code, retry_after(response.headers.get("Retry-After")), _parse(content)
    )
    return _error(answer) or answer


def too_slow() -> IlertUnavailableError:
    return IlertUnavailableError("ilert did not answer in time.", code="timeout")


def _parse(content: bytearray) -> Mapping[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _error(answer: Answer) -> IlertOAuthError | None:
    if 200 <= answer.status < 300:
        return None
    codes = [(answer.body or {}).get(key) for key in ("code", "error")]
    known = next((code for code in codes if error_code(code) != UNKNOWN_CODE), None)
    if answer.status == 429:
        return _unavailable(answer, "ilert asks for fewer requests.", "rate_limited")
    if answer.status >= 500 or known in TRANSIENT_CODES:
        return _unavailable(answer, "ilert has trouble of its own.", "server_error")
    if answer.status >= 400 and any(isinstance(code, str) for code in codes):
        code = error_code(known)
        return IlertRejectedError(f"ilert refused: {code}.", code=code, status=answer.status)
    return _unusable(answer)


def _unavailable(answer: Answer, message: str, code: str) -> IlertUnavailableError:
    return IlertUnavailableError(
        f"{message} (HTTP {answer.status})", code=code, retry_after=answer.retry_after
    )


def _unusable(answer: Answer) -> IlertUnavailableError:
    return _unavailable(answer, "ilert's answer could not be used.", "unusable_answer")


def made_of(answer: Answer, make: Callable[[Mapping[str, Any]], T | None]) -> T:
    made = None if answer.body is None else make(answer.body)
    if made is None:
        raise _unusable(answer)
    return made


def token_answer(body: Mapping[str, Any]) -> TokenAnswer | None:
    if not _is_token(body.get("access_token")):
        return None
    refresh_token = body.get("refresh_token") or ""
    if refresh_token and not _is_token(refresh_token):
        return None
    return TokenAnswer(
        access_token=Secret(body["access_token"]),
        refresh_token=Secret(refresh_token),
        expires_in=lifetime(body.get("expires_in")),
        refresh_token_expires_in=lifetime(body.get("refresh_token_expires_in")),
        scope=_text(body, "scope", 4096),
    )


def token_info(body: Mapping[str, Any]) -> TokenInfo | None:
    if not isinstance(body.get("active"), bool):
        return None
    info = TokenInfo(
        active=body["active"],
        tenant_id=_text(body, "tenant_id", 100),
        username=_text(body, "username", 255),
        scope=_text(body, "scope", 4096),
    )
    return info if not info.active or (info.tenant_id and info.username) else None


def current_user(body: Mapping[str, Any]) -> CurrentUser:
    names = (_text(body, key, 120) for key in ("firstName", "lastName"))
    return CurrentUser(
        id=_number(body.get("id")),
        display_name=" ".join(filter(None, names)),
        email=_text(body, "email", 254),
    )


def _is_token(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isascii() and value.isprintable()


def _text(body: Mapping[str, Any], key: str, longest: int) -> str:
    """Empty for what a database could not keep: control characters, lone surrogates, too long."""
    value = body.get(key)
    if isinstance(value, str) and value.isprintable() and len(value) <= longest:
        return value
    return ""


def _number(value: object) -> int | None:
    """None for what a 64-bit column could not keep."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
        return value
    return None
