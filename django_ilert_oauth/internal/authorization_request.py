"""Authorization requests, from their start to the callback.

Each is a row of its own, found by the digest of its state, so nothing depends on what a session
keeps. It is bound to the user, which meets login CSRF, and to the browser: to a random string that
a session gets when its user logs in and loses when the user logs out. No response of another tab
can undo that string without undoing the login itself; the key of a session would not do, since
cookie sessions have none that stays, and the CSRF token neither, since its cookie may be
``SameSite=Strict``. A session from before the app was installed is known by its key, and a cookie
session from then by its user alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.db import models, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest
from django.utils.crypto import get_random_string

from django_ilert_oauth.conf import Client, conf
from django_ilert_oauth.exceptions import StateError
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret

from . import scopes as scope_names
from .db import database_now
from .rows import database

BROWSER_KEY = "ilert_oauth_browser"
#: As in Django's own table; the key of a cookie session is its content.
MAX_SESSION_KEY_LENGTH = 40
LIFETIME = timedelta(minutes=10)
#: For whoever reads the log.
ADVICE = (
    "If this happens often, the session cookie does not come back from ilert: "
    'SESSION_COOKIE_SAMESITE must not be "Strict", and users must visit the host of the redirect '
    "URI."
)


def requested_scope(
    scopes: str | Iterable[str] = (), account: ConnectedAccount | None = None, held: str = ""
) -> str:
    """The scopes of the settings, these and, for an account to reconnect, those of before.

    Without an account, ``held`` is what the user's accounts are not to lose.
    """
    earlier = (account.requested_scope, account.granted_scope) if account else ()
    return scope_names.union(conf.scopes, scopes, *earlier, held)


def mark_browser(request: HttpRequest | None, **kwargs: Any) -> None:
    """Receives ``user_logged_in``; without a session it does nothing."""
    session = getattr(request, "session", {})
    if SESSION_KEY in session:
        session.setdefault(BROWSER_KEY, get_random_string(32))


def store(
    request: HttpRequest, state: Secret, code_verifier: Secret, client: Client, **columns: Any
) -> AuthorizationRequest:
    """For the user and the browser of this request, for ten minutes."""
    user_pk: Any = request.user.pk
    row = AuthorizationRequest(
        state_digest=_digest(state.reveal()),
        user_id=user_pk,
        browser_digest=_browser_digest(request),
        client_id=client.client_id,
        api_url=client.api_url,
        expires_at=database_now(database()) + LIFETIME,
        **columns,
    )
    row.code_verifier = code_verifier
    row.save(using=database(), force_insert=True)
    return row


def find(request: HttpRequest, state: Secret) -> AuthorizationRequest:
    """Raises ``StateError`` unless it was started by this user in this browser."""
    found = _rows().filter(pk=_digest(state.reveal()), user=request.user.pk).first()
    if found is None or not _is_from_browser(found, request):
        raise _unknown_error()
    return found


def next_url(state: Secret) -> str:
    """Whoever asks: where it leads once somebody has logged in."""
    columns = _rows().filter(pk=_digest(state.reveal())).values_list("next_url", flat=True)
    return columns.first() or ""


def consume(found: AuthorizationRequest) -> datetime:
    """Returns the time; raises ``StateError`` for all callers but the first.

    Inside a transaction of the caller it is consumed with the commit; until then another callback
    of the same request waits here.
    """
    now = database_now(database())
    if found.expires_at <= now:
        raise _unknown_error()
    clients = [conf.client(), *conf.clients.values()]
    if (found.api_url, found.client_id) not in {(it.api_url, it.client_id) for it in clients}:
        raise StateError(
            "The client of this authorization request is no longer configured: "
            "ILERT_OAUTH_API_URL, ILERT_OAUTH_CLIENT_ID or ILERT_OAUTH_CLIENTS has changed. "
            "Connect again.",
            code="endpoint_mismatch",
        )
    unused = _rows().filter(pk=found.pk, consumed_at=None)
    if not unused.update(consumed_at=now, code_verifier_ciphertext=""):
        raise used_error()
    # Django has no hook for a caller that commits by hand: the next consumption deletes them.
    with suppress(TransactionManagementError):
        transaction.on_commit(lambda: _delete_expired(now), using=database(), robust=True)
    return now


def note_connected(consumed: AuthorizationRequest, account: ConnectedAccount) -> None:
    """For a reload of the callback."""
    _rows().filter(pk=consumed.pk).update(connected_uuid=account.uuid)


def has_connected(consumed: AuthorizationRequest) -> bool:
    return _rows().filter(pk=consumed.pk, connected_uuid__isnull=False).exists()


def used_error() -> StateError:
    return StateError("This authorization request has already been used.", code="state_used")


def _unknown_error() -> StateError:
    return StateError(f"This authorization request was not started here, or has expired. {ADVICE}")


def _delete_expired(now: datetime) -> None:
    _rows().filter(expires_at__lte=now).delete()


def _rows() -> models.QuerySet[AuthorizationRequest]:
    return AuthorizationRequest.objects.using(database())


def _is_from_browser(found: AuthorizationRequest, request: HttpRequest) -> bool:
    return not found.browser_digest or hmac.compare_digest(
        found.browser_digest, _browser_digest(request)
    )


def _browser_digest(request: HttpRequest) -> str:
    """Empty where nothing tells the browser from the user's others."""
    session = request.session
    key = session.get(BROWSER_KEY) or session.session_key or ""
    return _digest(key) if 0 < len(key) <= MAX_SESSION_KEY_LENGTH else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
