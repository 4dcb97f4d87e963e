"""Somebody else has locked a row in the moment in which its new tokens are to be stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Timer
from typing import Any

import pytest
from django.db import connection

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from tests.support.databases import RowLock, TableLock, needs_server, with_options
from tests.support.request_monitor import RequestMonitor

from .conftest import MakeDue, lost, refreshed

pytestmark = [needs_server, pytest.mark.django_db(transaction=True)]

#: How short sites let statements wait.
IMPATIENT = {
    "postgresql": [{"options": "-c lock_timeout=100ms"}, {"options": "-c statement_timeout=200ms"}],
    "mysql": [
        {"init_command": "SET SESSION innodb_lock_wait_timeout=1"},
        {"init_command": "SET SESSION innodb_lock_wait_timeout=0, lock_wait_timeout=1"},
    ],
}


@pytest.fixture(params=IMPATIENT.get(connection.vendor, [{}]), ids=str)
def _impatient(request: pytest.FixtureRequest, db: None) -> Iterator[None]:
    with with_options(request.param):
        yield


def locked_for(seconds: float, lock: RowLock) -> None:
    lock.take()
    Timer(seconds, lock.release).start()


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("lock", [RowLock, TableLock])
@pytest.mark.parametrize(
    "refresh",
    [
        flows.get_access_token,
        lambda _account: flows.refresh_many(ConnectedAccount.objects.all(), per_minute=0),
    ],
    ids=["get_access_token", "refresh_many"],
)
def test_tokens_that_come_while_their_row_is_locked_are_stored_afterwards(
    monitor: RequestMonitor,
    make_due: MakeDue,
    ilert: StandIn,
    refresh: Callable[[ConnectedAccount], Any],
    lock: Callable[[ConnectedAccount], RowLock],
) -> None:
    [account] = make_due(1)
    monitor.on_arrival = lambda _count: locked_for(1, lock(account))
    started = time.monotonic()
    refresh(account)
    assert time.monotonic() - started > 1
    assert refreshed([account]) == len(ilert.token_requests) == 1
    assert lost(ilert) == []


@pytest.mark.usefixtures("_impatient")
def test_a_row_that_is_locked_for_the_complete_run_holds_up_nobody_else(
    make_due: MakeDue, ilert: StandIn
) -> None:
    accounts = make_due(40)
    locked = accounts[5]
    with RowLock(locked):
        started = time.monotonic()
        result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=2, per_minute=0)
        seconds = time.monotonic() - started
    assert (result.refreshed, result.failures) == (39, {locked.pk: "row_locked"})
    assert seconds < 5
    assert len(ilert.token_requests) == 39
    assert lost(ilert) == []


def test_a_row_that_is_locked_while_its_tokens_come_holds_up_nobody_else(
    monitor: RequestMonitor, make_due: MakeDue, ilert: StandIn
) -> None:
    first, *_others = make_due(40)
    lock = RowLock(first)
    act = {1: lock.take, 40: lock.release}
    monitor.on_arrival = lambda count: act[count]() if count in act else None
    result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=4, per_minute=0)
    assert (result.refreshed, result.failures) == (40, {})
    assert lost(ilert) == []
