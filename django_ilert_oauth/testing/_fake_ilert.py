"""An ilert that lives in memory."""

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

from ._endpoints import error_body, too_large
from ._fake_grants import OPEN, OWN, Grants, Key
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
    """Takes the place of ilert: no session of the app reaches the network meanwhile.

    Credentials and a key that the settings lack are supplied. A request for which no response is
    set raises ``AssertionError``, there and at the end of the context.
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
    """An ilert in memory that behaves as ilert does: a code works once and with its verifier.

    ``tenant_id`` and ``username`` say who allows access next, ``expires_in`` how many seconds an
    access token lasts, ``rotates`` whether a refresh brings a new refresh token, too. ``requests``
    are those received so far, ``waits`` the seconds that the app would have waited.
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
        """Sets the response to requests for a path, or what they raise, as ``requests.Timeout``.

        Responses with ``times`` are used first, one after the other; one without stays until it is
        replaced. ``/api/developers/oauth2/token`` and ilert's other endpoints can be set, too.
        A failure is sent to everybody, any other response only to tokens that are good for it and
        to pages that are not too large. An error of 400 to 499 has ilert's body unless ``json`` is
        given; None is no body.
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
        """Sends Django's test client, logged in, to the connect page, to ilert and to the callback.

        Returns the site's response there. ``form`` goes to the connect page: ``next``, ``tenant``,
        ``account``; so does the query of ``link``, a URL of that page. ilert grants what the site
        asks for, or ``scopes``.
        """
        form = QueryDict(urlsplit(link).query).dict() | form
        leaving = client.post(reverse("ilert_oauth:connect"), form, secure=secure)
        url = leaving.get("Location") or f"a page of its own ({leaving.status_code})"
        callback = self.callback_url(url, allow=allow, scopes=scopes)
        return client.get(callback, secure=secure)

    def callback_url(
        self, authorize_url: str, *, allow: bool = True, scopes: str | Iterable[str] | None = None
    ) -> str:
        """Returns where ilert sends the browser of a user who has allowed or denied access."""
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
        """What needs it is refused, whatever was granted, until a user connects and grants it."""
        self._refused_scopes.add(scope)

    def revoke(self) -> None:
        """Ends every grant, as users do at ilert; access tokens last until they expire."""
        self._end("refresh")

    def expire_access_tokens(self) -> None:
        """Has ilert refuse every access token so far, whatever the accounts say."""
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
