"""An ilert that lives in memory, and accounts that are connected to it."""

from __future__ import annotations

import json as jsonlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
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
from django.utils import timezone
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse

from django_ilert_oauth import session
from django_ilert_oauth.api import retry
from django_ilert_oauth.conf import PREFIX, conf
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter
from django_ilert_oauth.internal import scopes as scope_names
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.client import AUTHORIZE_PATH

from ._fake_grants import OWN, Grants, Key, make_token

#: For settings that the site's tests do not have; the key is new in each process.
_STAND_INS: dict[str, Any] = {
    PREFIX + "CLIENT_ID": "fake-client",
    PREFIX + "CLIENT_SECRET": "fake-secret",
    PREFIX + "ENCRYPTION_KEYS": [Fernet.generate_key().decode()],
}
_REASONS = {Status.RECONNECT_REQUIRED: Reason.REVOKED_AT_ILERT, Status.DISCONNECTED: Reason.USER}

Raised = BaseException | type[BaseException]


def connected_account(
    user: Any,
    *,
    scopes: str | Iterable[str] | None = None,
    expires_in: float = 3600,
    status: str = Status.CONNECTED,
    **columns: Any,
) -> ConnectedAccount:
    """A saved account of grace at acme; ``columns`` are those of the model.

    ilert has granted it ``ILERT_OAUTH_SCOPES``, or ``scopes``. ``expires_in`` is in seconds; below
    zero, the access token has expired. Without ``ILERT_OAUTH_ENCRYPTION_KEYS`` in the settings it
    works inside ``fake_ilert()`` only.
    """
    scope = scope_names.union(conf.scopes if scopes is None else scopes)
    who = {"tenant_id": "acme", "username": "grace", "granted_scope": scope, **columns}
    owner = {
        "tenant_id": who["tenant_id"],
        "username": who["username"],
        "scope": who["granted_scope"],
    }
    tokens = {f"{kind}_token": make_token(kind, owner) for kind in ("access", "refresh")}
    made = {
        "user": user,
        "api_url": conf.api_url,
        "client_id": conf.client_id,
        "requested_scope": scope,
        "access_token_expires_at": timezone.now() + timedelta(seconds=expires_in),
        "status": status,
        "reason": _REASONS.get(Status(status), ""),
        **({} if status == Status.DISCONNECTED else tokens),
    }
    return ConnectedAccount.objects.create(**{**made, **who})


@contextmanager
def fake_ilert() -> Iterator[FakeIlert]:
    """Answers what the app sends to ilert; no session of the app reaches the network meanwhile.

    Credentials and a key that the settings lack are supplied. A request that nobody has given an
    answer for raises ``AssertionError``, there and at the end.
    """
    fake = FakeIlert()
    adapter = _Adapter(fake)
    missing = missing_settings()
    with (
        override_settings(**missing) if missing else nullcontext(),
        mock.patch.dict(transport.adapters, {"https://": adapter, "http://": adapter}, clear=True),
        mock.patch.object(session.IlertSession, "_mounted", lambda session, url: adapter),
        mock.patch.object(retry, "wait", fake.waits.append),
        mock.patch.object(
            RateLimiter, "pause", lambda limiter, seconds: fake.waits.append(seconds)
        ),
    ):
        yield fake
    if fake.unexpected:
        raise AssertionError("\n".join(fake.unexpected))


def missing_settings() -> dict[str, Any]:
    return {n: value for n, value in _STAND_INS.items() if not getattr(settings, n, None)}


@dataclass(frozen=True)
class SentRequest:
    """Without forms and the headers that hold a token: ``Authorization`` and ``Cookie``.

    The names of ``headers`` are of any case. ``json`` is None for other bodies.
    """

    method: str
    path: str
    query: QueryDict
    headers: Mapping[str, str]
    json: Any


@dataclass(frozen=True)
class _Answer:
    status: int = 200
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raises: Raised | None = None

    @property
    def is_failure(self) -> bool:
        return self.raises is not None or self.status >= 400


class FakeIlert(Grants):
    """Behaves as ilert does: a code works once and with its verifier, tokens end.

    ``tenant_id`` and ``username`` say who lets the site in next, ``expires_in`` how many seconds
    an access token lasts, ``rotates`` whether a refresh brings a new refresh token, too.
    ``requests`` have come so far, and ``waits`` are the seconds that would have been waited.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[SentRequest] = []
        self.waits: list[float] = []
        self.unexpected: list[str] = []
        self._coming: defaultdict[Key, list[_Answer]] = defaultdict(list)
        self._standing: dict[Key, _Answer] = {}
        self._lock = threading.Lock()

    def answer(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        raises: Raised | None = None,
        times: int | None = None,
    ) -> None:
        """What requests for a path are answered, or what they raise: ``requests.Timeout``.

        Answers with ``times`` come first, one after the other. One without stays, until another
        takes its place. Goes for ``/api/developers/oauth2/token`` and ilert's other endpoints, too.
        A failure is answered whoever asks; the rest only to tokens that are good for it.
        """
        made = _Answer(status, json, headers or {}, raises)
        if times is None:
            self._standing[method.upper(), path] = made
        else:
            self._coming[method.upper(), path] += [made] * times

    def authorize(
        self,
        client: Any,
        *,
        allow: bool = True,
        scopes: str | Iterable[str] | None = None,
        secure: bool = False,
        **form: Any,
    ) -> Any:
        """Walks Django's test client, logged in, from the site over ilert to the callback.

        Returns the site's answer there. ``form`` goes to the connect page: ``next``, ``tenant``,
        ``account``. ilert grants what it is asked for, or ``scopes``.
        """
        leaving = client.post(reverse("ilert_oauth:connect"), form, secure=secure)
        url = leaving.get("Location") or f"a page of its own ({leaving.status_code})"
        callback = self.callback_url(url, allow=allow, scopes=scopes)
        return client.get(callback, secure=secure)

    def callback_url(
        self, authorize_url: str, *, allow: bool = True, scopes: str | Iterable[str] | None = None
    ) -> str:
        """Where ilert sends the user's browser, once the user has decided."""
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

    def revoke(self) -> None:
        """As users do at ilert: no grant can be refreshed, access tokens last until they expire."""
        self._end("refresh")

    def expire_access_tokens(self) -> None:
        """Those so far are refused, whatever the accounts say."""
        self._end("access")

    def _respond(self, request: requests.PreparedRequest) -> _Answer:
        """One after the other, whatever threads ask."""
        with self._lock:
            return self._answer_to(request)

    def _answer_to(self, request: requests.PreparedRequest) -> _Answer:
        sent = _as_sent(request)
        self.requests.append(sent)
        key = (sent.method, sent.path)
        coming = self._coming[key]
        answer = coming[0] if coming else self._standing.get(key)
        if answer is None and key not in OWN:
            raise self._surprise(sent)
        if not (answer and answer.is_failure) and (refusal := self._refusal(request, key)):
            return _Answer(*refusal)
        if coming:
            coming.pop(0)
        return answer or _Answer(*self._own_answer(request, key))

    def _surprise(self, sent: SentRequest) -> AssertionError:
        call = f'answer("{sent.method}", "{sent.path}", json=...)'
        text = f"{sent.method} {sent.path} has no answer: give one by {call}"
        self.unexpected.append(text)
        return AssertionError(text)


class _Adapter(HTTPAdapter):
    def __init__(self, ilert: FakeIlert) -> None:
        super().__init__()
        self._ilert = ilert

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        answer = self._ilert._respond(request)
        if answer.raises is not None:
            raise answer.raises
        raw = HTTPResponse(
            BytesIO(b"" if answer.json is None else jsonlib.dumps(answer.json).encode()),
            headers={"Content-Type": "application/json", **answer.headers},
            status=answer.status,
            preload_content=False,
        )
        return self.build_response(request, raw)


def _as_sent(request: requests.PreparedRequest) -> SentRequest:
    """With the path below ``ILERT_OAUTH_API_URL``; the whole address elsewhere."""
    parts = urlsplit((request.url or "").removeprefix(conf.api_url))
    path = parts._replace(query="", fragment="").geturl()
    headers = {
        name: str(value)
        for name, value in request.headers.items()
        if name.lower() not in ("authorization", "cookie")
    }
    return SentRequest(
        method=request.method or "",
        path=path,
        query=QueryDict(parts.query),
        headers=CaseInsensitiveDict(headers),
        json=_json_of(request),
    )


def _json_of(request: requests.PreparedRequest) -> Any:
    is_json = str(request.headers.get("Content-Type")).startswith("application/json")
    if not is_json or not isinstance(request.body, str | bytes):
        return None
    try:
        return jsonlib.loads(request.body)
    except ValueError:
        return None
