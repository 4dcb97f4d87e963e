"""Connections to the database, and open files, are few."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from threading import Barrier
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret
from ilert_standin import StandIn
from tests.support.databases import changed_settings, needs_postgresql
from tests.support.other_callers import at_once
from tests.support.pgbouncer import pgbouncer
from tests.support.site_processes import refresh_all_with_few_files, site_process

from .conftest import MakeDue, lost, refreshed

pytestmark = pytest.mark.django_db(transaction=True)

Few = Callable[[int], Any]


@contextmanager
def pool_of(size: int, timeout: int = 30) -> Iterator[None]:
    options = {"pool": {"min_size": 1, "max_size": size, "timeout": timeout}}
    with changed_settings(OPTIONS={**connection.settings_dict["OPTIONS"], **options}):
        try:
            yield
        finally:
            connection.close()
            wrapper: Any = connections["default"]
            wrapper.close_pool()


@contextmanager
def pgbouncer_with(connections: int) -> Iterator[None]:
    with (
        pgbouncer(connection.settings_dict, connections) as port,
        changed_settings(HOST="127.0.0.1", PORT=str(port), DISABLE_SERVER_SIDE_CURSORS=True),
    ):
        try:
            yield
        finally:
            connection.close()


few = pytest.mark.parametrize("few", [pool_of, pgbouncer_with])


@needs_postgresql
@few
def test_a_run_needs_one_connection_whatever_its_concurrency(
    make_due: MakeDue, ilert: StandIn, few: Few
) -> None:
    make_due(60)
    with few(1):
        result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=50, per_minute=0)
    assert (result.refreshed, result.failures) == (60, {})
    assert lost(ilert) == []


@needs_postgresql
@few
def test_the_command_needs_one_connection(make_due: MakeDue, ilert: StandIn, few: Few) -> None:
    accounts = make_due(20)
    with few(1):
        call_command("refresh_ilert_tokens", concurrency=10, per_minute=0, stdout=StringIO())
    assert refreshed(accounts) == 20
    assert lost(ilert) == []


def view(account: ConnectedAccount) -> str:
    """As with ``ATOMIC_REQUESTS``: "token", or the code of the error."""
    with transaction.atomic():
        assert ConnectedAccount.objects.exists()
        try:
            token = flows.get_access_token(account)
        except IlertUnavailableError as error:
            return error.code
    assert Secret(token) == ConnectedAccount.objects.get(pk=account.pk).access_token
    return "token"


@needs_postgresql
@few
@pytest.mark.parametrize("is_shared", [False, True], ids=["each its own account", "all the same"])
def test_eight_views_on_four_connections_get_their_token_or_busy(
    make_due: MakeDue, ilert: StandIn, few: Few, is_shared: bool
) -> None:
    accounts = make_due(8)
    ilert.options.latency = 0.1
    with few(4):
        started = time.monotonic()
        results = at_once(8, lambda number: view(accounts[0 if is_shared else number]))
        seconds = time.monotonic() - started
    assert set(map(str, results)) <= {"token", "busy"}
    assert seconds < 8
    assert lost(ilert) == []


@needs_postgresql
@few
def test_eight_views_on_four_connections_use_tokens_that_are_still_good(
    make_due: MakeDue, ilert: StandIn, few: Few
) -> None:
    make_due(8)
    soon = timezone.now() + timedelta(minutes=1)
    ConnectedAccount.objects.update(access_token_expires_at=soon)
    accounts = list(ConnectedAccount.objects.order_by("pk"))
    with few(4):
        results = at_once(8, lambda number: view(accounts[number]))
    assert results == ["token"] * 8
    assert lost(ilert) == []


@needs_postgresql
def test_a_view_that_waits_for_another_caller_waits_no_longer_for_a_connection(
    make_due: MakeDue, ilert: StandIn
) -> None:
    """Its second connection is given back meanwhile, and others take it."""
    [account] = make_due(1)
    ConnectedAccount.objects.update(lease_id="held", lease_ends_ms=2**53)
    has_begun = Barrier(4)

    def get() -> tuple[str, bool]:
        with transaction.atomic():
            assert ConnectedAccount.objects.exists()
            has_begun.wait()
            started = time.monotonic()
            with pytest.raises(IlertUnavailableError) as raised:
                flows.get_access_token(account)
            return raised.value.code, time.monotonic() - started < 4

    def take_connection() -> None:
        has_begun.wait()
        time.sleep(0.3)
        with transaction.atomic():
            assert ConnectedAccount.objects.exists()
            time.sleep(3)

    with pool_of(4, timeout=1):
        results = at_once(4, lambda number: get() if number == 0 else take_connection())
    assert results == [("busy", True), None, None, None]
    assert ilert.token_requests == []


def test_a_process_that_may_open_few_files_loses_nothing(make_due: MakeDue, ilert: StandIn) -> None:
    accounts = make_due(300)
    with site_process(refresh_all_with_few_files, 50, 64) as process:
        process.go()
        result = process.result()
    assert result.refreshed == refreshed(accounts) > 0
    assert set(result.failures.values()) <= {"unreachable"}
    assert lost(ilert) == []
