"""Callers at once under stricter isolation levels than the usual ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertOAuthError, IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth.secret import Secret
from ilert_standin import StandIn
from tests.support.databases import needs_server, with_options
from tests.support.other_callers import at_once, copies

from .conftest import MakeDue, lost, refreshed

pytestmark = [needs_server, pytest.mark.django_db(transaction=True)]

#: Of PostgreSQL by the numbers of psycopg's IsolationLevel.
LEVELS: dict[str, dict[str, Any]] = {
    "postgresql": {"repeatable read": 3, "serializable": 4},
    "mysql": {"repeatable read": "repeatable read", "serializable": "serializable"},
}
BLOCKS: dict[str, Callable[[int], Any]] = {
    "outside": lambda _number: nullcontext(),
    "in transactions": lambda _number: transaction.atomic(),
    "both": lambda number: transaction.atomic() if number % 2 else nullcontext(),
}
blocks = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


@pytest.fixture(autouse=True, params=["repeatable read", "serializable"])
def level(request: pytest.FixtureRequest, db: None) -> Iterator[str]:
    with with_options({"isolation_level": LEVELS[connection.vendor][request.param]}):
        yield request.param


@pytest.fixture
def reading_locks(level: str) -> bool:
    return (connection.vendor, level) == ("mysql", "serializable")


@blocks
@pytest.mark.parametrize("callers", [2, 8])
def test_callers_at_once_make_one_request_and_all_get_its_token(
    make_due: MakeDue, ilert: StandIn, block: Callable[[int], Any], callers: int
) -> None:
    [account] = make_due(1)
    ilert.options.latency = 0.2

    mine = copies(account, callers)

    def get(number: int) -> Secret:
        with block(number):
            assert User.objects.exists()
            return Secret(flows.get_access_token(mine[number]))

    started = time.monotonic()
    results = at_once(callers, get)
    seconds = time.monotonic() - started
    stored = ConnectedAccount.objects.get(pk=account.pk).access_token
    assert results == [stored] * callers
    assert len(ilert.token_requests) == 1
    assert seconds < 5
    assert lost(ilert) == []


def test_runs_at_once_share_the_accounts(make_due: MakeDue, ilert: StandIn) -> None:
    accounts = make_due(30)
    results = at_once(
        4, lambda _number: flows.refresh_many(ConnectedAccount.objects.all(), per_minute=0)
    )
    assert [result for result in results if isinstance(result, Exception)] == []
    assert len(ilert.token_requests) == refreshed(accounts) == 30
    assert lost(ilert) == []


def test_one_who_has_read_the_account_in_the_transaction_gets_the_token_unless_reading_locks(
    make_due: MakeDue, ilert: StandIn, reading_locks: bool
) -> None:
    """As it does under MariaDB's SERIALIZABLE."""
    [account] = make_due(1)
    with transaction.atomic():
        mine = ConnectedAccount.objects.get(pk=account.pk)
        if reading_locks:
            with pytest.raises(IlertUnavailableError) as raised:
                flows.get_access_token(mine)
            assert raised.value.code == "row_locked"
        else:
            flows.get_access_token(mine)
    assert len(ilert.token_requests) == (not reading_locks)
    assert lost(ilert) == []


def test_disconnecting_while_others_refresh_raises_nothing_and_leaves_no_grant(
    make_due: MakeDue, ilert: StandIn
) -> None:
    make_due(10)

    def act(number: int) -> None:
        for account in ConnectedAccount.objects.order_by("pk"):
            if number % 2:
                flows.disconnect(account)
            else:
                with suppress(IlertOAuthError):
                    flows.refresh(account, force=True)

    assert at_once(8, act) == [None] * 8
    assert set(ConnectedAccount.objects.values_list("status", flat=True)) == {Status.DISCONNECTED}
    flows.revoke_pending()
    assert ilert.ledger() == {}
