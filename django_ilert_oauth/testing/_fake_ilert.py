"""An ilert in memory."""

from __future__ import annotations

import json as jsonlib
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests
from cryptography.fernet import Fernet
from django.conf import settings
from django.http import QueryDict
from django.test import override_settings
from django.urls import reverse
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from django_ilert_oauth.api import retry
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter
from django_ilert_oauth.internal import scopes as scope_names
from django_ilert_oauth.internal.setting_values import PREFIX
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.client import AUTHORIZE_PATH

from ._fake_grants import OPEN, OWN, Grants, Key
from ._rest_rules import error_body, too_large
from ._sent_request import SentRequest, as_sent

#: For settings that the site's tests do not have; the key is new in each process.
_FALLBACK_SETTINGS: dict[str, Any] = {
    PREFIX + "CLIENT_ID": "fake-client",
    PREFIX + "CLIENT_SECRET": "fake-secret",
    PREFIX + "ENCRYPTION_KEYS": [Fernet.generate_key().decode()],
}
#: The body that ilert gives: one for errors, none otherwise.
_USUAL: Any = object()

Raised = BaseException | type[BaseException]


@contextmanager
def fake_ilert() -> Iterator[FakeIlert]:
    """Replaces ilert by a ``FakeIlert`` inside a ``with`` block: no request reaches the network.

    If the settings have no client credentials or no key, they are supplied. A request for which no
    response is set raises ``AssertionError``, which is raised again at the end of the block.
    """
    fake = FakeIlert()
    adapter = _Adapter(fake)
    missing = missing_settings()
    with (
        override_settings(**missing) if missing else nullcontext(),
        mock.patch.dict(transport.adapters, {"https://": adapter, "http://": adapter}, clear=True),
        mock.patch.object(retry, "wait", fake.waits.append),
        mock.patch.object(
            RateLimiter, "pause", lambda limiter, seconds: fake.waits.append(seconds)
        ),
    ):
        yield fake
    if fake.unexpected:
        raise AssertionError("\n".join(fake.unexpected))


def missing_settings() -> dict[str, Any]:
    return {n: value for n, value in _FALLBACK_SETTINGS.items() if not getattr(settings, n, None)}


@dataclass(frozen=True)
class _Response:
    status: int = 200
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raises: Raised | None = None

    @property
    def is_failure(self) -> bool:
        return self.raises is not None or self.status >= 400


class FakeIlert(Grants):
    """An ilert in memory, which responds as ilert does.

    Set ``tenant_id`` and ``username`` to choose who allows access next, ``expires_in`` to the
    seconds that an access token is valid, and ``rotates`` to True if each refresh is to return a
    new refresh token. ``requests`` is a list of every ``SentRequest`` so far, and ``waits`` one of
    the seconds that the app would have waited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[SentRequest] = []
        self.waits: list[float] = []
        self.unexpected: list[str] = []
        self._queued: defaultdict[Key, list[_Response]] = defaultdict(list)
        self._permanent: dict[Key, _Response] = {}
        self._lock = threading.Lock()

    def answer(
        self,
        method: str,
        path: str,
        *,
        json: Any = _USUAL,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        raises: Raised | None = None,
        times: int | None = None,
    ) -> None:
        """Sets the response to requests for a path, or the exception that they raise.

        Responses with ``times`` are used that often, and first; a response without stays until you
        set another. You can set those of ilert's OAuth endpoints, too, such as
        ``/api/developers/oauth2/token``. ``raises`` is an exception such as ``requests.Timeout``.

        A ``status`` of 400 or more is sent for every token. Any other response is sent only if the
        token is valid and has the scopes for the path, and if the page is not too large. A
        ``status`` from 400 to 499 has ilert's body unless you pass ``json``; None is an empty body.
        """
        key = (method.upper(), path)
        if json is _USUAL:
            json = error_body(status) if 400 <= status < 500 and key not in OPEN else None
        response = _Response(status, json, headers or {}, raises)
        if times is None:
            self._permanent[key] = response
        else:
            self._queued[key] += [response] * times

    def authorize(
        self,
        client: Any,
        *,
        allow: bool = True,
        scopes: str | Iterable[str] | None = None,
        secure: bool = False,
        link: str = "",
        **form: Any,
    ) -> Any:
        """Connects an account with Django's test ``client``, whose user must be logged in.

        It posts to the connect page, lets the user allow access (or decline, with ``allow=False``),
        and returns the site's response to the callback. ilert grants ``scopes`` (default: what the
        site asked for). ``link`` is a URL of the connect page, such as one that a view redirected
        to. Other keywords are posted to that page: ``next``, ``tenant``, ``account``.
        """
        form = QueryDict(urlsplit(link).query).dict() | form
        leaving = client.post(reverse("ilert_oauth:connect"), form, secure=secure)
        url = leaving.get("Location") or f"a page of its own ({leaving.status_code})"
        callback = self.callback_url(url, allow=allow, scopes=scopes)
        return client.get(callback, secure=secure)

    def callback_url(
        self, authorize_url: str, *, allow: bool = True, scopes: str | Iterable[str] | None = None
    ) -> str:
        """Returns the URL of the callback to which ilert sends the user's browser.

        ``authorize_url`` is the URL at ilert to which the connect page has redirected.
        """
        parts = urlsplit(authorize_url)
        asked = dict(parse_qsl(parts.query))
        if not parts.path.endswith(AUTHORIZE_PATH):
            raise AssertionError(
                f"The site led to {parts.path} and not to ilert. Is the user logged in?"
            )
        scope = asked["scope"] if scopes is None else scope_names.union(scopes)
        code = self._give_code(asked["code_challenge"], scope)
        decision = {"code": code} if allow else {"error": "access_denied"}
        return f"{asked['redirect_uri']}?{urlencode({**decision, 'state': asked['state']})}"

    def refuse_scope(self, scope: str) -> None:
        """Has ilert refuse requests that need this scope until a user connects and grants it.

        It does so whatever scopes the account has. Set the responses to these requests as well.
        """
        self._refused_scopes.add(scope)

    def revoke(self) -> None:
        """Ends every grant, as a user can at ilert; access tokens are valid until they expire."""
        self._end("refresh")

    def expire_access_tokens(self) -> None:
        """Has ilert refuse every access token issued so far (401), expired or not."""
        self._end("access")

    def _respond(self, request: requests.PreparedRequest) -> _Response:
        """Serves threads one after the other."""
        with self._lock:
            return self._response_to(request)

    def _response_to(self, request: requests.PreparedRequest) -> _Response:
        sent = as_sent(request)
        self.requests.append(sent)
        key = (sent.method, sent.path)
        queued = self._queued[key]
        response = queued[0] if queued else self._permanent.get(key)
        if response is None and key not in OWN:
            raise self._unexpected(sent)
        if not (response and response.is_failure) and (denied := self._denied(request, key)):
            return _Response(*denied)
        if sent.method == "GET" and (message := too_large(sent.path, sent.query)):
            return _Response(400, error_body(400, message))
        if queued:
            queued.pop(0)
        return response or _Response(*self._own_response(request, key))

    def _unexpected(self, sent: SentRequest) -> AssertionError:
        call = f'answer("{sent.method}", "{sent.path}", json=...)'
        message = f"No response is set for {sent.method} {sent.path}: set one with {call}"
        self.unexpected.append(message)
        return AssertionError(message)


class _Adapter(HTTPAdapter):
    def __init__(self, ilert: FakeIlert) -> None:
        super().__init__()
        self._ilert = ilert

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        response = self._ilert._respond(request)
        if response.raises is not None:
            raise response.raises
        raw = HTTPResponse(
            BytesIO(b"" if response.json is None else jsonlib.dumps(response.json).encode()),
            headers={
                "Content-Type": "application/json",
                "correlation-id": str(uuid.uuid4()),
                **response.headers,
            },
            status=response.status,
            preload_content=False,
        )
        return self.build_response(request, raw)
