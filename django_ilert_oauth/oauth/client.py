"""ilert's OAuth endpoints over HTTP.

Plain Python over ``requests``, without Django: settings come in as arguments, responses go out as
frozen dataclasses. Secrets go only to https (loopback aside), no redirect is followed and a
response is read up to a bound. Plain secrets are in the frames of worker threads only, and the
exceptions that leave them hold no frame.

The facts about ilert come from its guide "Developing ilert apps: backend apps" and its OpenAPI
description.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from copy import copy
from functools import partial
from typing import Self, TypeVar
from urllib.parse import urlencode

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from django_ilert_oauth.exceptions import IlertRejectedError, IlertUnavailableError

from .responses import (
    CurrentUser,
    OAuthResponse,
    TokenInfo,
    TokenResponse,
    parse_current_user,
    parse_nothing,
    parse_response,
    parse_token_info,
    parse_tokens,
)
from .secret import Secret
from .transport import (
    USER_AGENT,
    ClientSession,
    Exchange,
    authorized,
    clock,
    innermost,
    no_auth,
    require_safe,
    strip_frames,
    timed_out,
)
from .workers import Workers

T = TypeVar("T")
Form = Mapping[str, str | Secret]
Fill = Callable[[requests.PreparedRequest], requests.PreparedRequest]

logger = logging.getLogger(__name__)

AUTHORIZE_PATH = "/api/developers/oauth2/authorize"
TOKEN_PATH = "/api/developers/oauth2/token"  # noqa: S105
TOKEN_INFO_PATH = "/api/developers/oauth2/token_info"  # noqa: S105
REVOKE_PATH = "/api/developers/oauth2/revoke"
CURRENT_USER_PATH = "/api/users/current"
#: A token POST is not among them: what it has been given works only once.
IDEMPOTENT_PATHS = {TOKEN_INFO_PATH, CURRENT_USER_PATH}


class IlertClient:
    """Requests to ilert, any number at once; leaving its context closes it.

    Every request is over by its ``deadline``, a moment of ``transport.clock()``, by default after
    both of the ``timeout`` (connect, read). The methods raise ``IlertUnavailableError``,
    ``IlertRejectedError`` or, for an endpoint that is not safe to send secrets to,
    ``IlertOAuthError``. Those that ``start`` something return a future at once, which is done by
    the deadline; its callbacks must not block. A client serves the process that made it.
    """

    def __init__(
        self,
        *,
        api_url: str,
        client_id: str,
        client_secrets: Sequence[Secret],
        timeout: tuple[float, float],
    ) -> None:
        self.api_url = api_url
        self._client_id = client_id
        #: The one that ilert has accepted last comes first.
        self._client_secrets = tuple(client_secrets)
        self._timeout = timeout
        self._workers = Workers()
        self._templates: dict[str, requests.PreparedRequest] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads and connections; requests that are still running fail."""
        self._workers.close()

    def exchange_code(
        self, code: Secret, code_verifier: Secret, *, deadline: float | None = None
    ) -> TokenResponse:
        return self.start_exchange_code(code, code_verifier, deadline=deadline).result()

    def start_exchange_code(
        self, code: Secret, code_verifier: Secret, *, deadline: float | None = None
    ) -> Future[TokenResponse]:
        """Never sent twice with the same client secret: a code works once."""
        form = {"code": code, "code_verifier": code_verifier}
        return self._start_tokens("authorization_code", form, deadline)

    def refresh(self, refresh_token: Secret, *, deadline: float | None = None) -> TokenResponse:
        return self.start_refresh(refresh_token, deadline=deadline).result()

    def start_refresh(
        self, refresh_token: Secret, *, deadline: float | None = None
    ) -> Future[TokenResponse]:
        """Never sent twice with the same client secret: it may bring another refresh token."""
        return self._start_tokens("refresh_token", {"refresh_token": refresh_token}, deadline)

    def token_info(self, access_token: Secret, *, deadline: float | None = None) -> TokenInfo:
        return self.start_token_info(access_token, deadline=deadline).result()

    def start_token_info(
        self, access_token: Secret, *, deadline: float | None = None
    ) -> Future[TokenInfo]:
        fill = partial(_with_form, {"token": access_token})
        return self._start(TOKEN_INFO_PATH, fill, parse_token_info, deadline)

    def current_user(self, access_token: Secret, *, deadline: float | None = None) -> CurrentUser:
        fill = partial(authorized, access_token=access_token)
        return self._start(CURRENT_USER_PATH, fill, parse_current_user, deadline).result()

    def revoke(self, refresh_token: Secret, *, deadline: float | None = None) -> None:
        self.start_revoke(refresh_token, deadline=deadline).result()

    def start_revoke(self, refresh_token: Secret, *, deadline: float | None = None) -> Future[None]:
        """A token that ilert does not know counts as revoked (RFC 7009, section 2.2)."""
        fill = partial(_with_form, {"token": refresh_token})
        return self._start(REVOKE_PATH, fill, parse_nothing, deadline)

    def _start_tokens(
        self, grant_type: str, grant: Form, deadline: float | None
    ) -> Future[TokenResponse]:
        form = {"client_id": self._client_id, "grant_type": grant_type, **grant}

        def call(session: ClientSession, exchange: Exchange) -> TokenResponse:
            *others, last = self._client_secrets
            for secret in others:
                try:
                    return self._ask_for_tokens(form, secret, session, exchange)
                except IlertRejectedError as error:
                    if error.code != "invalid_client":
                        raise
            return self._ask_for_tokens(form, last, session, exchange)

        return self._submit(call, deadline)

    def _ask_for_tokens(
        self, form: Form, client_secret: Secret, session: ClientSession, exchange: Exchange
    ) -> TokenResponse:
        fill = partial(_with_form, {**form, "client_secret": client_secret})
        tokens = parse_tokens(self._send(TOKEN_PATH, fill, session, exchange))
        others = (secret for secret in self._client_secrets if secret != client_secret)
        self._client_secrets = (client_secret, *others)
        return tokens

    def _start(
        self, path: str, fill: Fill, parse: Callable[[OAuthResponse], T], deadline: float | None
    ) -> Future[T]:
        def call(session: ClientSession, exchange: Exchange) -> T:
            return parse(self._send(path, fill, session, exchange))

        return self._submit(call, deadline)

    def _submit(
        self, call: Callable[[ClientSession, Exchange], T], deadline: float | None
    ) -> Future[T]:
        if deadline is None:
            deadline = clock() + sum(self._timeout)
        return self._workers.submit(call, deadline)

    def _send(
        self, path: str, fill: Fill, session: ClientSession, exchange: Exchange
    ) -> OAuthResponse:
        while True:
            try:
                return self._send_once(path, fill, session, exchange)
            except (requests.Timeout, ReadTimeoutError):
                raise timed_out() from None
            except (OSError, HTTPError) as error:
                if not (path in IDEMPOTENT_PATHS and exchange.used_kept_connection):
                    raise _unreachable(error, exchange) from None
                strip_frames(error)

    def _send_once(
        self, path: str, fill: Fill, session: ClientSession, exchange: Exchange
    ) -> OAuthResponse:
        require_safe(self.api_url)
        request = fill(self._empty_request(path))
        left = exchange.remaining()
        connect, read = (min(seconds, left) for seconds in self._timeout)
        with session.exchange(request, (connect, read)) as response:
            return parse_response(response)

    def _empty_request(self, path: str) -> requests.PreparedRequest:
        """Made once: preparing it costs more than sending it."""
        if path not in self._templates:
            self._templates[path] = self._prepare(path)
        request = copy(self._templates[path])
        request.headers = request.headers.copy()
        return request

    def _prepare(self, path: str) -> requests.PreparedRequest:
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        method = "GET" if path == CURRENT_USER_PATH else "POST"
        return requests.Request(method, self.api_url + path, headers, auth=no_auth).prepare()


def _unreachable(error: Exception, exchange: Exchange) -> IlertUnavailableError:
    exchange.remaining()
    names = type(error).__name__, type(innermost(error)).__name__
    logger.warning("ilert could not be reached: %s (%s)", *names)
    return IlertUnavailableError("ilert could not be reached.", code="unreachable")


def _with_form(form: Form, request: requests.PreparedRequest) -> requests.PreparedRequest:
    request.headers["Content-Type"] = "application/x-www-form-urlencoded"
    request.prepare_body(_encoded(form), None)
    return request


def _encoded(form: Form) -> str:
    return urlencode({name: Secret(value).reveal() for name, value in form.items()})


def authorization_url(base_url: str, parameters: Form) -> str:
    return f"{base_url}{AUTHORIZE_PATH}?{_encoded(parameters)}"
