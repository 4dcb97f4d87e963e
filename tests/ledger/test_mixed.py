"""All that can be done to accounts, done by many callers at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from itertools import count
from random import Random
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import StandIn
from tests.support.other_callers import at_once

from .conftest import MakeDue, lost

pytestmark = pytest.mark.django_db(transaction=True)

IS_SQLITE = connection.vendor == "sqlite"
SECONDS = 2.0 if IS_SQLITE else 5.0
#: A transaction of SQLite that reads before it writes may be refused.
EXPECTED = (IlertOAuthError, CommandError, *([OperationalError] if IS_SQLITE else []))

Act = Callable[[ConnectedAccount], Any]


def get_in_a_transaction(account: ConnectedAccount) -> None:
    with transaction.atomic():
        flows.get_access_token(account)


def refresh_by_force(account: ConnectedAccount) -> None:
    flows.refresh(account, force=True)


def refresh_by_force_in_a_transaction(account: ConnectedAccount) -> None:
    with transaction.atomic():
        flows.refresh(account, force=True)


def run_the_command(_account: ConnectedAccount) -> None:
    call_command("refresh_ilert_tokens", force=True, limit=10, json=True, stdout=StringIO())


@pytest.fixture
def acts(make_due: MakeDue) -> list[Act]:
    """The more often one is named, the more often it is done."""
    numbers = count(1000)

    def disconnect(account: ConnectedAccount) -> None:
        flows.disconnect(account)
        account.delete()
        make_due(1, first=next(numbers))

    def delete(account: ConnectedAccount) -> None:
        account.delete()
        make_due(1, first=next(numbers))

    often: list[Act] = [flows.get_access_token, get_in_a_transaction]
    less_often: list[Act] = [refresh_by_force, refresh_by_force_in_a_transaction]
    return [*often * 4, *less_often * 2, flows.check, run_the_command, disconnect, delete]


def test_sixteen_callers_at_once_lose_nothing_and_leave_nothing_over(
    acts: list[Act], make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    make_due(30)
    # Each token is about to expire.
    ilert.options.access_token_lifetime = 60
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 0
    end = time.monotonic() + SECONDS

    def act(number: int) -> None:
        chosen = Random(number)  # noqa: S311
        while time.monotonic() < end:
            pks = list(ConnectedAccount.objects.values_list("pk", flat=True))
            account = ConnectedAccount.objects.filter(pk=chosen.choice(pks)).first()
            if account is not None:
                with suppress(*EXPECTED):
                    chosen.choice(acts)(account)

    assert at_once(16, act) == [None] * 16
    assert lost(ilert) == []
    flows.revoke_pending()
    connected = ConnectedAccount.objects.filter(status=Status.CONNECTED)
    stored = {account.refresh_token.reveal() for account in connected}
    left_over = set(ilert.ledger().values()) - stored
    assert len(left_over) == 0
