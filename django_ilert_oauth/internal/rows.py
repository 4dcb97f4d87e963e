"""Rows of the database that is written to: a replica may not have heard of the last change yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from django.db import models, router

from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, PendingRevocation

Model = TypeVar("Model", bound=models.Model)

TOKEN_COLUMNS = ["access_token_ciphertext", "refresh_token_ciphertext"]
#: Rows that are read at once.
PAGE = 100


def database() -> str:
    return router.db_for_write(ConnectedAccount)


def account_rows() -> ConnectedAccountQuerySet:
    return ConnectedAccount.objects.using(database())


def row_of(account: ConnectedAccount) -> ConnectedAccountQuerySet:
    """By key and ``uuid``: another schema or replica may have the same key."""
    return account_rows().filter(pk=account.pk, uuid=account.uuid)


def pending_revocations() -> models.QuerySet[PendingRevocation]:
    return PendingRevocation.objects.using(database())


def columns(account: ConnectedAccount, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(account, name) for name in names}


def in_pages(rows: models.QuerySet[Model]) -> Iterator[Model]:
    """In the order of their keys: no cursor stays open, and any thread may ask for the next."""
    rows = rows.order_by("pk")
    page = list(rows[:PAGE])
    while page:
        yield from page
        page = list(rows.filter(pk__gt=page[-1].pk)[:PAGE])
