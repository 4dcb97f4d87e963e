from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import F
from django.utils import timezone

from django_ilert_oauth import background, flows
from django_ilert_oauth.flows import _schedule
from django_ilert_oauth.flows._lease import reload, take_lease
from django_ilert_oauth.internal.db import DatabaseTime
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import LEASE_MS, at_once, copies, held, lapse_leases, stored_tokens

pytestmark = pytest.mark.django_db(transaction=True)

TWO_MINUTES = timedelta(minutes=2)

either_way = pytest.mark.parametrize(
    "wrong_by", [TWO_MINUTES, -TWO_MINUTES], ids=["ahead", "behind"]
)


class Clocks(threading.local):
    """Each thread is a host whose clock is wrong by so much."""

    wrong_by = timedelta(0)

    @contextmanager
    def on_a_host(self, wrong_by: timedelta) -> Iterator[None]:
        self.wrong_by = wrong_by
        try:
            yield
        finally:
            self.wrong_by = timedelta(0)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks, right = Clocks(), timezone.now

    def now() -> datetime:
        return right() + clocks.wrong_by

    monkeypatch.setattr(timezone, "now", now)
    return clocks


@either_way
def test_a_lease_holds_on_a_host_whose_clock_is_wrong(
    account: ConnectedAccount, clocks: Clocks, wrong_by: timedelta
) -> None:
    held(account)
    with clocks.on_a_host(wrong_by):
        assert not take_lease(reload(account))


@either_way
def test_a_lease_taken_on_a_host_whose_clock_is_wrong_lasts_no_longer_and_no_less(
    account: ConnectedAccount, clocks: Clocks, wrong_by: timedelta
) -> None:
    with clocks.on_a_host(wrong_by):
        held(account)
    [left] = ConnectedAccount.objects.values_list(F("lease_ends_ms") - DatabaseTime(), flat=True)
    assert 0 <= left <= LEASE_MS
    assert not take_lease(reload(account))
    lapse_leases()
    held(account)


def test_hosts_that_disagree_make_one_request_and_get_the_same_token(
    expired_account: ConnectedAccount, ilert: StandIn, clocks: Clocks
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.3
    accounts = copies(expired_account, 6)
    ConnectedAccount.objects.update(access_token_expires_at=timezone.now() - 2 * TWO_MINUTES)
    for each in accounts:
        each.refresh_from_db()

    def call(number: int) -> str:
        with clocks.on_a_host((number % 3 - 1) * TWO_MINUTES):
            return flows.get_access_token(accounts[number])

    tokens = at_once(6, call)
    assert len(ilert.token_requests) == 1
    assert set(tokens) == {stored_tokens(expired_account)[0]}


@either_way
def test_hosts_that_disagree_do_not_refresh_for_each_other_again_and_again(
    expired_account: ConnectedAccount, ilert: StandIn, clocks: Clocks, wrong_by: timedelta
) -> None:
    flows.get_access_token(expired_account)
    for _ in range(2):
        with clocks.on_a_host(wrong_by):
            flows.get_access_token(ConnectedAccount.objects.get())
        flows.get_access_token(ConnectedAccount.objects.get())
    assert len(ilert.token_requests) == 1


@either_way
def test_the_times_that_are_stored_are_those_of_the_database_s_clock(
    expired_account: ConnectedAccount, clocks: Clocks, wrong_by: timedelta
) -> None:
    with clocks.on_a_host(wrong_by):
        flows.refresh(expired_account)
    left = (expired_account.access_token_expires_at or timezone.now()) - timezone.now()
    assert left.total_seconds() == pytest.approx(3600, abs=10)
    assert expired_account.was_refreshed_within(timedelta(seconds=10))


def test_the_time_zone_of_a_request_moves_no_time_of_a_site_without_time_zones(
    account: ConnectedAccount, settings: Any
) -> None:
    settings.USE_TZ = False
    with timezone.override("Asia/Tokyo"):
        flows.refresh(ConnectedAccount.objects.get())
    expires_at = ConnectedAccount.objects.get().access_token_expires_at or timezone.now()
    assert (expires_at - timezone.now()).total_seconds() == pytest.approx(3600, abs=10)


@either_way
def test_a_host_whose_clock_is_wrong_hands_out_no_expired_token(
    make_account: AccountFactory, ilert: StandIn, clocks: Clocks, wrong_by: timedelta
) -> None:
    account = make_account(access_token_expires_at=timezone.now() - timedelta(seconds=1))
    with clocks.on_a_host(wrong_by):
        flows.get_access_token(account)
    assert len(ilert.token_requests) == 1


@either_way
def test_a_wrong_clock_ends_no_grant(
    make_account: AccountFactory, ilert: StandIn, clocks: Clocks, wrong_by: timedelta
) -> None:
    account = make_account(refresh_token_expires_at=timezone.now() + timedelta(minutes=1))
    with clocks.on_a_host(wrong_by):
        flows.refresh(account)
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert len(ilert.token_requests) == 1


def the_command() -> None:
    call_command("refresh_ilert_tokens", stdout=StringIO())


def the_task() -> None:
    background.refresh_expiring_tokens.enqueue()


def each_slot() -> None:
    """As workers do with the messages of a queue."""
    for slot in _schedule.slots():
        _schedule.refresh(slot.pk, 0)


@pytest.mark.parametrize("wrong_by", [timedelta(days=365), timedelta(hours=-2)])
@pytest.mark.parametrize("run", [the_command, the_task, each_slot])
def test_a_run_on_a_host_whose_clock_is_wrong_refreshes_what_is_due_and_nothing_else(
    make_account: AccountFactory, clocks: Clocks, wrong_by: timedelta, run: Callable[[], object]
) -> None:
    now = timezone.now()
    due = make_account(username="due", access_token_expires_at=now - timedelta(minutes=1))
    make_account(username="fresh", access_token_expires_at=now + timedelta(hours=1))
    make_account(username="long", refresh_token_expires_at=now + timedelta(days=100))
    with clocks.on_a_host(wrong_by):
        run()
    assert list(ConnectedAccount.objects.exclude(refreshed_at=None)) == [due]


@pytest.mark.parametrize(
    "refresh",
    [flows.get_access_token, lambda _account: call_command("refresh_ilert_tokens", verbosity=0)],
    ids=["get_access_token", "command"],
)
@pytest.mark.parametrize("when", ["refreshed_at", "connected_at"])
def test_a_token_that_was_dated_a_year_ahead_is_refreshed_once_the_clock_is_right(
    make_account: AccountFactory,
    ilert: StandIn,
    when: str,
    refresh: Callable[[ConnectedAccount], object],
) -> None:
    in_a_year = timezone.now() + timedelta(days=365)
    times = {when: in_a_year, "access_token_expires_at": in_a_year + timedelta(hours=1)}
    account = make_account(**times)
    for _ in range(2):
        refresh(account)
    assert len(ilert.token_requests) == 1
