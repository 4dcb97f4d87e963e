"""What all flows share: rows from the database that is written to, a client, and signals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from django.db import connections, models, transaction
from django.dispatch import Signal

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import EndpointMismatchError
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.client import IlertClient

Model = TypeVar("Model", bound=models.Model)

TOKEN_COLUMNS = ["access_token_ciphertext", "refresh_token_ciphertext"]
#: Rows that are read at once.
PAGE = 100


def in_pages(rows: models.QuerySet[Model]) -> Iterator[Model]:
    """In the order of their keys: no cursor stays open, and any thread may ask for the next."""
    rows = rows.using(database()).order_by("pk")
    page = list(rows[:PAGE])
    while page:
        yield from page
        page = list(rows.filter(pk__gt=page[-1].pk)[:PAGE])


def columns(account: ConnectedAccount, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(account, name) for name in names}


def open_client(api_url: str | None = None) -> IlertClient:
    return IlertClient(
        api_url=api_url or conf.api_url,
        client_id=conf.client_id,
        client_secret=conf.client_secret,
        timeout=conf.timeout,
    )


def belongs_to_client(account: ConnectedAccount) -> bool:
    """Whether its grant was given to the configured client of the configured ilert."""
    return (account.api_url, account.client_id) == (conf.api_url, conf.client_id)


def require_same_client(account: ConnectedAccount) -> None:
    if not belongs_to_client(account):
        raise EndpointMismatchError(
            "The account was connected at another ilert than ILERT_OAUTH_API_URL names, or by "
            "another client than ILERT_OAUTH_CLIENT_ID. Set it back, or have the user reconnect."
        )


def send_signal(
    signal: Signal, account: ConnectedAccount, *, at_once: bool = False, **facts: Any
) -> None:
    """Sends it after the commit; at once for what another connection has committed.

    At once, too, where the caller commits by hand: Django has no hook for that.
    """

    def send() -> None:
        signal.send_robust(sender=ConnectedAccount, account=account, **facts)

    connection = connections[database()]
    if at_once or not (connection.in_atomic_block or connection.get_autocommit()):
        send()
    else:
        transaction.on_commit(send, using=connection.alias, robust=True)
