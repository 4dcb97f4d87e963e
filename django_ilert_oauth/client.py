"""ilert's OAuth endpoints over HTTP.

Plain Python over ``requests``, without Django: settings come in as arguments, answers go out as
frozen dataclasses. Secrets go only to https (loopback aside), no redirect is followed and an
answer is read up to a bound. Exceptions are raised outside of ``except`` blocks: the frames of
``requests`` hold whole request bodies and must not travel with what is raised here.

The facts about ilert come from its guide "Developing ilert apps: backend apps" and its OpenAPI
description.
"""

from __future__ import annotations

import ipaddress
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Self, TypeVar
from urllib.parse import urlencode, urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry, parse_url

from .exceptions import IlertOAuthError, IlertRejectedError, IlertUnavailableError
from .secret import Secret

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")

AUTHORIZE_PATH = "/api/developers/oauth2/authorize"
TOKEN_PATH = "/api/developers/oauth2/token"  # noqa: S105
TOKEN_INFO_PATH = "/api/developers/oauth2/token_info"  # noqa: S105
REVOKE_PATH = "/api/developers/oauth2/revoke"
CURRENT_USER_PATH = "/api/users/current"

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

#: Mounted by URL prefix on every session opened from now on: where tests put their transport.
adapters: dict[str, BaseAdapter] = {}


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
class _Answer:
    status: int
    retry_after: float | None
    body: Mapping[str, Any] | None = field(repr=False)


class IlertClient:
    """A context manager: leaving it closes the connections.

    Its methods raise ``IlertUnavailableError``, ``IlertRejectedError`` or, for an endpoint that is
    not safe to send secrets to, ``IlertOAuthError``.
    """

    def __init__(
        self, *, api_url: str, client_id: str, client_secret: str, timeout: tuple[float, float]
    ) -> None:
        self.api_url = api_url
        self._credentials = {"client_id": client_id, "client_secret": Secret(client_secret)}
        self._timeout = timeout
        self._session = open_session()
        self._forms: dict[str, requests.PreparedRequest] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._session.close()

    def exchange_code(self, code: Secret, code_verifier: Secret) -> TokenAnswer:
        """Never sent twice: a code works once."""
        return self._tokens(
            {"grant_type": "authorization_code", "code": code, "code_verifier": code_verifier}
        )

    def refresh(self, refresh_token: Secret) -> TokenAnswer:
        return self._tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})

    def token_info(self, access_token: Secret) -> TokenInfo:
        return _made_of(self._post(TOKEN_INFO_PATH, {"token": access_token}), _token_info)

    def current_user(self, access_token: Secret) -> CurrentUser:
        answer = self._send(
            lambda: authorized(self._prepared("GET", CURRENT_USER_PATH), access_token)
        )
        return _made_of(answer, _current_user)

    def revoke(self, refresh_token: Secret) -> None:
        """A token that ilert does not know counts as revoked (RFC 7009, section 2.2)."""
        self._post(REVOKE_PATH, {"token": refresh_token})

    def _tokens(self, form: Mapping[str, str]) -> TokenAnswer:
        return _made_of(self._post(TOKEN_PATH, {**self._credentials, **form}), _token_answer)

    def _post(self, path: str, form: Mapping[str, str]) -> _Answer:
        return self._send(lambda: self._filled(path, form))

    def _filled(self, path: str, form: Mapping[str, str]) -> requests.PreparedRequest:
        """All but the body is the same each time: preparing it costs more than sending it."""
        if path not in self._forms:
            empty = self._prepared("POST", path)
            empty.headers["Content-Type"] = "application/x-www-form-urlencoded"
            self._forms[path] = empty
        request = self._forms[path].copy()
        request.prepare_body(Secret(urlencode(form)), None)
        return request

    def _prepared(self, method: str, path: str) -> requests.PreparedRequest:
        headers = {"Accept": "application/json"}
        request = requests.Request(method, self.api_url + path, headers=headers, auth=_no_auth)
        return self._session.prepare_request(request)

    def _send(self, prepare: Callable[[], requests.PreparedRequest]) -> _Answer:
        require_safe(self.api_url)
        outcome = self._exchange(prepare)
        if isinstance(outcome, IlertOAuthError):
            raise outcome
        return outcome

    def _exchange(
        self, prepare: Callable[[], requests.PreparedRequest]
    ) -> _Answer | IlertOAuthError:
        deadline = time.monotonic() + sum(self._timeout)
        try:
            request = prepare()
            # Straight to the adapter: it follows no redirect and keeps no cookie.
            adapter = self._session.get_adapter(request.url or "")
            with adapter.send(request, timeout=self._timeout, **self._environment) as response:
                return _read(response, deadline)
        except (requests.Timeout, ReadTimeoutError):
            return _too_slow()
        except (OSError, HTTPError):
            return IlertUnavailableError("ilert could not be reached.", code="unreachable")
        except BaseException as error:
            failure = bare(error)
        raise failure

    @cached_property
    def _environment(self) -> Mapping[str, Any]:
        """The proxies and certificates that it names."""
        return self._session.merge_environment_settings(
            self.api_url, proxies_for(self.api_url), True, None, None
        )


def open_session() -> requests.Session:
    """Tries once more where no connection came about: then nothing was sent."""
    session = requests.Session()
    retry = Retry(total=1, connect=1, read=False, redirect=0, status=0, other=0)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    for prefix, adapter in adapters.items():
        session.mount(prefix, adapter)
    return session


def authorized(request: requests.PreparedRequest, access_token: str) -> requests.PreparedRequest:
    request.headers["Authorization"] = f"Bearer {access_token}"
    return request


def bare(error: E) -> E:
    """Without what led to it: the frames of ``requests`` hold whole bodies and headers."""
    error.__cause__ = error.__context__ = None
    for inner in (*error.args, getattr(error, "reason", None)):
        if isinstance(inner, BaseException):
            bare(inner)
    return error.with_traceback(None)


def authorization_url(base_url: str, parameters: Mapping[str, str]) -> str:
    return f"{base_url}{AUTHORIZE_PATH}?{urlencode(parameters)}"


def require_safe(url: str) -> None:
    """Raises ``IlertOAuthError`` for a URL that secrets must not go to."""
    parts = parse_url(url)  # as requests reads it
    if parts.scheme != "https" and not _is_loopback((parts.host or "").strip("[]")):
        raise IlertOAuthError(
            "Secrets are not sent over plain http. Let ILERT_OAUTH_API_URL begin with https://.",
            code="insecure_endpoint",
        )


def proxies_for(url: str) -> dict[str, str]:
    """Plain http stays on this machine, whatever proxy the environment names."""
    return {"http": "", "all": ""} if urlsplit(url).scheme == "http" else {}


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


def retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header: seconds or a date (RFC 9110, section 10.2.3)."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def pause_after_429(asked: float | None, *, most: float = 30) -> float:
    """Seconds. ilert asks for none (observed): its documentation says 10 to 30.

    No more than ``most`` where 10 will do.
    """
    if asked is not None:
        return max(asked, 1.0)
    return random.uniform(10, min(max(most, 10), 30))  # noqa: S311


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps ``requests`` from adding a password from ``~/.netrc``."""
    return request


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(response: requests.Response, deadline: float) -> _Answer | IlertOAuthError:
    content = bytearray()
    while chunk := response.raw.read1(16 * 1024, decode_content=True):
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            return IlertUnavailableError("ilert's answer is too long.", code="unusable_answer")
        if time.monotonic() > deadline:
            return _too_slow()
    answer = _Answer(
        response.status_code, retry_after(response.headers.get("Retry-After")), _parse(content)
    )
    return _error(answer) or answer


def _too_slow() -> IlertUnavailableError:
    return IlertUnavailableError("ilert did not answer in time.", code="timeout")


def _parse(content: bytearray) -> Mapping[str, Any] | None:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _error(answer: _Answer) -> IlertOAuthError | None:
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


def _unavailable(answer: _Answer, message: str, code: str) -> IlertUnavailableError:
    return IlertUnavailableError(
        f"{message} (HTTP {answer.status})", code=code, retry_after=answer.retry_after
    )


def _unusable(answer: _Answer) -> IlertUnavailableError:
    return _unavailable(answer, "ilert's answer could not be used.", "unusable_answer")


def _made_of(answer: _Answer, make: Callable[[Mapping[str, Any]], T | None]) -> T:
    made = None if answer.body is None else make(answer.body)
    if made is None:
        raise _unusable(answer)
    return made


def _token_answer(body: Mapping[str, Any]) -> TokenAnswer | None:
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


def _token_info(body: Mapping[str, Any]) -> TokenInfo | None:
    if not isinstance(body.get("active"), bool):
        return None
    info = TokenInfo(
        active=body["active"],
        tenant_id=_text(body, "tenant_id", 100),
        username=_text(body, "username", 255),
        scope=_text(body, "scope", 4096),
    )
    return info if not info.active or (info.tenant_id and info.username) else None


def _current_user(body: Mapping[str, Any]) -> CurrentUser:
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
