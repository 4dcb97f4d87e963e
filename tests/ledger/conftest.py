"""An ilert that rotates refresh tokens and ends a grant when a used one comes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from django_ilert_oauth.flows import _lease, _storing
from django_ilert_oauth.flows._bulk import refresh as bulk_refresh
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.testing import connected_account
from ilert_standin import StandIn
from tests.support.databases import proxy_before_database
from tests.support.proxy import TcpProxy

MakeDue = Callable[..., list[ConnectedAccount]]


@pytest.fixture(autouse=True)
def _rotating(ilert: StandIn) -> None:
    ilert.options.rotate = ilert.options.detect_reuse = True
    ilert.options.requests_per_minute = 0


@pytest.fixture
def make_due(ilert: StandIn, user: User) -> MakeDue:
    """So many accounts whose access tokens have expired; quicker than a walk for each."""

    def make(count: int, *, first: int = 0, owner: User = user) -> list[ConnectedAccount]:
        accounts = []
        for number in range(first, first + count):
            tokens = ilert.issue_tokens("acme", f"user-{number}", "profile")
            accounts.append(
                connected_account(
                    owner,
                    username=f"user-{number}",
                    access_token=tokens["access_token"],
                    refresh_token=tokens["refresh_token"],
                    access_token_expires_at=timezone.now() - timedelta(minutes=1),
                )
            )
        return accounts

    return make


def lost(ilert: StandIn) -> list[ConnectedAccount]:
    """The accounts whose stored refresh token is not the live one of their grant."""
    live = set(ilert.ledger().values())
    accounts = ConnectedAccount.objects.exclude(status=Status.DISCONNECTED).order_by("pk")
    return [account for account in accounts if account.refresh_token.reveal() not in live]


def refreshed(accounts: list[ConnectedAccount]) -> int:
    """How many have been refreshed since they were made."""
    pks = [account.pk for account in accounts]
    return ConnectedAccount.objects.filter(pk__in=pks, refreshed_at__isnull=False).count()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """A database that fails is waited for one second, and a lease lasts two."""
    for module in (_lease, _storing):
        monkeypatch.setattr(module, "STORING_SECONDS", 1.0)
    monkeypatch.setattr(bulk_refresh, "DATABASE_PATIENCE", 1.0)
    monkeypatch.setattr(_storing, "DATABASE_PATIENCE", 1.0)
    settings.ILERT_OAUTH_TIMEOUT = (0.5, 0.5)


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    """Between Django and the database server."""
    with proxy_before_database() as proxy:
        yield proxy
