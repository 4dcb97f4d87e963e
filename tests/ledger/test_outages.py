"""The database goes away, or takes nothing, while ilert gives new tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from io import StringIO
from itertools import count
from threading import Timer
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows import _storing
from django_ilert_oauth.flows._bulk import runner
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.secret import Secret
from ilert_standin import Fault, StandIn
from tests.support.databases import (
    READ_ONLY,
    TOO_MANY_CONNECTIONS,
    before_statement,
    fail_over,
    needs_server,
    with_options,
)
from tests.support.other_callers import Acting, beside
from tests.support.proxy import TcpProxy
from tests.support.request_monitor import RequestMonitor

from .conftest import MakeDue, lost

pytestmark = [needs_server, pytest.mark.django_db(transaction=True)]


def when_number(number: int, act: Callable[[], Any]) -> Callable[[int], None]:
    def on_arrival(count: int) -> None:
        if count == number:
            act()

    return on_arrival


def run(concurrency: int) -> flows.BulkResult:
    due = ConnectedAccount.objects.all()
    return flows.refresh_many(due, concurrency=concurrency, per_minute=0)


# Out for a time


def test_a_database_that_is_out_for_ten_seconds_costs_a_run_nothing(
    proxy: TcpProxy, monitor: RequestMonitor, make_due: MakeDue, ilert: StandIn
) -> None:
    make_due(60)
    monitor.on_arrival = when_number(20, lambda: proxy.go_down(10))
    result = run(8)
    assert (result.refreshed, result.failures, result.stopped) == (60, {}, "")
    assert lost(ilert) == []


def test_a_database_without_a_free_connection_costs_a_run_nothing(
    proxy: TcpProxy, monitor: RequestMonitor, make_due: MakeDue, ilert: StandIn
) -> None:
    make_due(60)
    rejection = TOO_MANY_CONNECTIONS[connection.vendor]
    monitor.on_arrival = when_number(20, lambda: proxy.go_down(3, rejection))
    result = run(8)
    assert (result.refreshed, result.failures, result.stopped) == (60, {}, "")
    assert lost(ilert) == []


# Cut once


Cut = Callable[[TcpProxy], None]


def before_it(proxy: TcpProxy) -> None:
    proxy.cut()


def after_it(proxy: TcpProxy) -> None:
    """It is carried out, and nobody hears of it."""
    proxy.loses_response = True


at_any_statement = pytest.mark.parametrize("cut", [before_it, after_it])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_storing, "PAUSE", 0.01)
    monkeypatch.setattr(runner, "PAUSE", 0.01)


@pytest.mark.usefixtures("quick")
@at_any_statement
def test_a_connection_cut_at_any_statement_costs_a_run_nothing(
    proxy: TcpProxy, make_due: MakeDue, ilert: StandIn, cut: Cut
) -> None:
    for number in count(1):
        dead, *_living = make_due(5)
        ilert.revoke_app("acme", "user-0")
        with before_statement(number, lambda: cut(proxy)) as statements:
            result = run(2)
        if len(statements) < number:
            break
        assert (result.refreshed, result.failures) == (4, {dead.pk: "invalid_grant"})
        assert result.stopped == ""
        dead.refresh_from_db()
        assert dead.needs_reconnect
        assert lost(ilert) == [dead]
        ConnectedAccount.objects.all().delete()


@pytest.mark.usefixtures("quick")
@at_any_statement
def test_a_connection_cut_at_any_statement_leaves_no_grant_of_one_who_has_disconnected(
    proxy: TcpProxy,
    make_due: MakeDue,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    cut: Cut,
) -> None:
    def disconnect_all() -> None:
        for account in ConnectedAccount.objects.all():
            flows.disconnect(account)

    for number in count(1):
        make_due(1)
        disconnecting = Acting(after=lambda: beside(disconnect_all))
        monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, disconnecting)
        with before_statement(number, lambda: cut(proxy)) as statements:
            run(1)
        if len(statements) < number:
            break
        flows.revoke_pending()
        assert ilert.live_refresh_tokens("acme", "user-0") == 0
        ConnectedAccount.objects.all().delete()


def test_a_connection_cut_during_the_command_costs_no_summary_and_no_revocation(
    proxy: TcpProxy, monitor: RequestMonitor, make_due: MakeDue, ilert: StandIn, user: User
) -> None:
    [leaving] = make_due(1, first=30)
    ilert.add_fault("revoke", Fault(status=503))
    flows.disconnect(leaving)
    make_due(30)
    monitor.on_arrival = when_number(len(monitor.arrivals) + 15, proxy.cut)
    output = StringIO()
    call_command("refresh_ilert_tokens", json=True, per_minute=0, stdout=output)
    summary = json.loads(output.getvalue())
    assert (summary["refreshed"], summary["failed"], summary["stopped"]) == (30, 0, "")
    assert (summary["grants_revoked"], summary["revocations_pending"]) == (1, 0)
    assert lost(ilert) == []


def leave(make_due: MakeDue, ilert: StandIn) -> dict[str, Any]:
    for account in make_due(2):
        ilert.add_fault("revoke", Fault(status=503))
        flows.disconnect(account)
    return {}


def be_stolen(make_due: MakeDue, ilert: StandIn) -> dict[str, Any]:
    make_due(2)
    return {"all": True, "interactive": False}


@pytest.mark.usefixtures("quick")
@at_any_statement
@pytest.mark.parametrize(
    ("command", "prepare", "count_of_grants"),
    [
        ("refresh_ilert_tokens", leave, "grants_revoked"),
        ("disconnect_ilert_accounts", be_stolen, "disconnected"),
    ],
)
def test_a_connection_cut_at_any_statement_of_a_command_costs_no_summary_and_no_revocation(
    proxy: TcpProxy,
    make_due: MakeDue,
    ilert: StandIn,
    cut: Cut,
    command: str,
    prepare: Callable[[MakeDue, StandIn], dict[str, Any]],
    count_of_grants: str,
) -> None:
    for number in count(1):
        options, output = prepare(make_due, ilert), StringIO()
        with before_statement(number, lambda: cut(proxy)) as statements:
            call_command(command, json=True, per_minute=0, stdout=output, **options)
        if len(statements) < number:
            break
        assert json.loads(output.getvalue())[count_of_grants] == 2
        assert not PendingRevocation.objects.exists()
        assert [ilert.live_refresh_tokens("acme", f"user-{n}") for n in range(2)] == [0, 0]
        ConnectedAccount.objects.all().delete()


# A process that lives long


def by_the_token(account: ConnectedAccount) -> Secret:
    return Secret(flows.get_access_token(account))


def by_force(account: ConnectedAccount) -> Secret:
    return flows.refresh(account, force=True).access_token


def by_a_check(account: ConnectedAccount) -> Secret:
    return flows.check(account).access_token


@pytest.mark.parametrize("get", [by_the_token, by_force, by_a_check])
def test_after_a_cut_at_most_one_call_fails(
    proxy: TcpProxy, make_due: MakeDue, ilert: StandIn, get: Callable[[ConnectedAccount], Secret]
) -> None:
    first, second, third = make_due(3)
    get(first)
    proxy.cut()
    with suppress(DatabaseError, InterfaceError):
        get(second)
    assert get(third) == ConnectedAccount.objects.get(pk=third.pk).access_token
    assert lost(ilert) == []


@pytest.mark.usefixtures("quick")
@at_any_statement
@pytest.mark.parametrize("block", [nullcontext, transaction.atomic])
def test_a_cut_at_any_statement_of_a_refresh_loses_nothing(
    proxy: TcpProxy, make_due: MakeDue, ilert: StandIn, cut: Cut, block: Callable[[], Any]
) -> None:
    for number in count(1):
        account, other = make_due(2)
        with (
            before_statement(number, lambda: cut(proxy)) as statements,
            suppress(DatabaseError, InterfaceError, IlertUnavailableError),
            block(),
        ):
            flows.refresh(account)
        if len(statements) < number:
            break
        connection.close_if_unusable_or_obsolete()
        assert lost(ilert) == []
        assert flows.refresh(other).is_fresh()
        ConnectedAccount.objects.all().delete()


# No second connection


def test_a_transaction_without_a_second_connection_gets_what_is_still_good_or_busy(
    proxy: TcpProxy, make_due: MakeDue, ilert: StandIn
) -> None:
    account, good = make_due(2)
    ConnectedAccount.objects.filter(pk=good.pk).update(
        access_token_expires_at=timezone.now() + timedelta(minutes=1)
    )
    good.refresh_from_db()
    with transaction.atomic():
        assert ConnectedAccount.objects.exists()
        proxy.rejection = TOO_MANY_CONNECTIONS[connection.vendor]
        started = time.monotonic()
        with pytest.raises(IlertUnavailableError) as raised:
            flows.get_access_token(account)
        assert Secret(flows.get_access_token(good)) == good.access_token
    assert raised.value.code == "busy"
    assert time.monotonic() - started < 6
    assert ilert.token_requests == []


def test_a_second_connection_that_comes_late_is_not_waited_for_and_sends_nothing(
    proxy: TcpProxy, make_due: MakeDue, ilert: StandIn
) -> None:
    [account] = make_due(1)
    with transaction.atomic():
        assert ConnectedAccount.objects.exists()
        proxy.delay = 3
        with pytest.raises(IlertUnavailableError) as raised:
            flows.get_access_token(account)
    assert raised.value.code == "busy"
    time.sleep(1.5)
    assert ilert.token_requests == []
    assert flows.refresh(account).is_fresh()


def test_a_second_connection_that_is_free_again_soon_is_used(
    proxy: TcpProxy, make_due: MakeDue, ilert: StandIn
) -> None:
    [account] = make_due(1)
    with transaction.atomic():
        assert ConnectedAccount.objects.exists()
        proxy.rejection = TOO_MANY_CONNECTIONS[connection.vendor]
        Timer(1, proxy.come_back).start()
        flows.get_access_token(account)
    assert lost(ilert) == []


# Read-only


def test_a_failover_to_a_read_only_server_loses_nothing_and_nothing_is_asked_for_meanwhile(
    proxy: TcpProxy, monitor: RequestMonitor, make_due: MakeDue, ilert: StandIn
) -> None:
    make_due(40)
    asked: list[int] = []
    monitor.on_arrival = when_number(15, lambda: fail_over(proxy, 3))
    Timer(2, lambda: asked.append(len(monitor.arrivals))).start()
    result = run(5)
    assert (result.refreshed, result.failures, result.stopped) == (40, {}, "")
    assert asked[0] <= 15 + 5
    assert lost(ilert) == []


@pytest.mark.usefixtures("impatient")
def test_a_database_that_stays_read_only_after_a_failover_ends_the_run(
    proxy: TcpProxy, monitor: RequestMonitor, make_due: MakeDue
) -> None:
    make_due(40)
    monitor.on_arrival = when_number(15, lambda: fail_over(proxy, 10))
    result = run(5)
    assert result.stopped == "database"
    assert 1 <= list(result.failures.values()).count("not_stored") <= 5
    assert len(monitor.arrivals) <= 15 + 5


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_read_only_from_the_start_is_told_by_the_command(
    make_due: MakeDue, ilert: StandIn
) -> None:
    make_due(10)
    with (
        with_options(READ_ONLY[connection.vendor]),
        pytest.raises(CommandError, match="database") as raised,
    ):
        call_command("refresh_ilert_tokens", per_minute=0, stdout=StringIO())
    assert raised.value.returncode == 2
    assert ilert.token_requests == []
    assert lost(ilert) == []


def test_a_call_while_the_database_is_read_only_asks_for_nothing(
    make_due: MakeDue, ilert: StandIn
) -> None:
    [account] = make_due(1)
    with with_options(READ_ONLY[connection.vendor]), pytest.raises(DatabaseError):
        flows.get_access_token(account)
    assert ilert.token_requests == []
    assert flows.refresh(account).is_fresh()
