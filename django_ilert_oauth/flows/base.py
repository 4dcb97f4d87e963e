"""What all flows share: rows from the database that is written to, a client, and signals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db import connections, models, router, transaction
from django.dispatch import Signal
from django.utils import timezone

from django_ilert_oauth.client import IlertClient
from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import EndpointMismatchError
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, PendingRevocation
from django_ilert_oauth.oauth_answers import TokenAnswer

Model = TypeVar("Model", bound=models.Model)

TOKEN_COLUMNS = ["access_token_ciphertext", "refresh_token_ciphertext"]
#: Rows that are read at once.
PAGE = 100


def database() -> str:
    """Never a replica: tokens read there may be old."""
    return router.db_for_write(ConnectedAccount)


def account_rows() -> ConnectedAccountQuerySet:
    return ConnectedAccount.objects.using(database())


def in_pages(rows: models.QuerySet[Model]) -> Iterator[Model]:
    """In the order of their keys: no cursor stays open, and any thread may ask for the next."""
    rows = rows.using(database()).order_by("pk")
    page = list(rows[:PAGE])
    while page:
        yield from page
        page = list(rows.filter(pk__gt=page[-1].pk)[:PAGE])


def pending_revocations() -> models.QuerySet[PendingRevocation]:
    return PendingRevocation.objects.using(database())


def columns(account: ConnectedAccount, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(account, name) for name in names}


def open_client(api_url: str | None = None) -> IlertClient:
    return IlertClient(
        api_url=api_url or conf.api_url,
        client_id=conf.client_id,
        client_secret=conf.client_secret,
        timeout=conf.timeout,
    )


def require_same_ilert(account: ConnectedAccount) -> None:
    if account.api_url != conf.api_url:
        raise EndpointMismatchError(
            "The account was connected at another ilert than ILERT_OAUTH_API_URL names. "
            "Set it back, or have the user connect again."
        )


def announce(
    signal: Signal, account: ConnectedAccount, *, at_once: bool = False, **facts: Any
) -> None:
    """Sends the signal after the commit; at once for what was committed apart.

    At once, too, where the caller commits by hand: Django knows no hook for that.
    """

    def send() -> None:
        signal.send_robust(sender=ConnectedAccount, account=account, **facts)

    connection = connections[database()]
    if at_once or not (connection.in_atomic_block or connection.get_autocommit()):
        send()
    else:
        transaction.on_commit(send, using=connection.alias, robust=True)


def take_tokens(account: ConnectedAccount, tokens: TokenAnswer) -> list[str]:
    """The columns set: an answer without refresh token or scope leaves what the account has."""
    now = timezone.now()
    names = ["access_token_ciphertext", "access_token_expires_at"]
    account.access_token = tokens.access_token
    account.access_token_expires_at = _later(now, tokens.expires_in)
    if tokens.refresh_token:
        names += ["refresh_token_ciphertext", "refresh_token_expires_at"]
        account.refresh_token = tokens.refresh_token
        account.refresh_token_expires_at = _later(now, tokens.refresh_token_expires_in)
    if tokens.scope:
        names.append("granted_scope")
        account.granted_scope = tokens.scope
    return names


def _later(now: datetime, seconds: int | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=seconds)
