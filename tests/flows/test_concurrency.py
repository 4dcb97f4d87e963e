from __future__ import annotations

import time
from datetime import timedelta
from io import StringIO
from threading import Thread
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows import _refresh
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.support.other_callers import at_once, copies, lapse_leases, stored, stored_tokens
from tests.support.programs.caller import callers

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def rotating(ilert: StandIn) -> None:
    """The old refresh token is dead at once."""
    ilert.options.rotate = True


@pytest.fixture
def slow(ilert: StandIn) -> None:
    """Time for all to ask while the request is under way."""
    ilert.options.latency = 0.5


@pytest.mark.usefixtures("slow")
def test_fifty_threads_and_commands_make_one_request_and_all_get_the_new_token(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    accounts = copies(expired_account, 50)

    def call(number: int) -> str:
        if number < 50:
            return flows.get_access_token(accounts[number])
        call_command("refresh_ilert_tokens", stdout=StringIO())
        return ""

    tokens = at_once(52, call)
    assert len(ilert.token_requests) == 1
    assert set(tokens) == {"", stored_tokens(expired_account)[0]}
    assert [name for name, _ in sent] == ["account_refreshed"]


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("is_beside_command", [False, True])
def test_eight_processes_make_one_request_and_all_get_the_new_token(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any], is_beside_command: bool
) -> None:
    with callers(expired_account, 8) as processes:
        for process in processes:
            process.go()
        if is_beside_command:
            call_command("refresh_ilert_tokens", stdout=StringIO())
        results = [process.result() for process in processes]
    assert len(ilert.token_requests) == 1
    assert {result.token for result in results} == {stored_tokens(expired_account)[0]}
    told = [name for result in results for name in result.signals] + [name for name, _ in sent]
    assert told == ["account_refreshed"]


@pytest.mark.usefixtures("slow")
def test_many_that_force_at_once_make_one_request(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    accounts = copies(account, 10)
    at_once(10, lambda number: flows.refresh(accounts[number], force=True))
    assert len(ilert.token_requests) == 1
    assert {each.access_token for each in accounts} == {stored_tokens(account)[0]}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=500), "server_error"),
        (Fault(status=400, body='{"code": "invalid_client"}'), "invalid_client"),
    ],
)
def test_where_the_request_fails_all_that_wait_are_told_without_one_of_their_own(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any], fault: Fault, code: str
) -> None:
    ilert.add_fault("token", fault)
    accounts = copies(expired_account, 10)
    errors = at_once(10, lambda number: flows.get_access_token(accounts[number]))
    assert {getattr(error, "code", None) for error in errors} == {code}
    assert len(ilert.token_requests) == 1
    assert [name for name, _ in sent] == ["account_refresh_failed"]


@pytest.mark.usefixtures("slow")
def test_where_the_grant_has_ended_all_that_wait_are_told_without_a_request_of_their_own(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.revoke_app("acme", "grace")
    accounts = copies(expired_account, 10)
    errors = at_once(10, lambda number: flows.get_access_token(accounts[number]))
    assert {type(error).__name__ for error in errors} == {"ReconnectRequiredError"}
    assert len(ilert.token_requests) == 1
    assert [name for name, _ in sent] == ["account_revoked"]


@pytest.mark.usefixtures("slow")
def test_a_failure_of_before_is_no_failure_of_now(expired_account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(last_error="server_error", last_error_at=timezone.now())
    accounts = copies(expired_account, 5)
    tokens = at_once(5, lambda number: flows.get_access_token(accounts[number]))
    assert set(tokens) == {stored_tokens(expired_account)[0]}


def test_a_loser_that_gets_invalid_grant_returns_the_token_of_the_winner(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any], during_request: Any
) -> None:
    def win() -> None:
        lapse_leases()
        flows.refresh(ConnectedAccount.objects.get())

    during_request(before=win)
    token = flows.get_access_token(expired_account)
    assert [request.status for request in ilert.token_requests] == [200, 401]
    assert token == stored_tokens(expired_account)[0]
    assert stored(expired_account, "status", "last_error") == {
        "status": Status.CONNECTED,
        "last_error": "",
    }
    assert [name for name, _ in sent] == ["account_refreshed"]


def take_over(after: float) -> Thread:
    """Another caller takes the lease now, and stores its tokens later."""
    lapse_leases()
    winner = ConnectedAccount.objects.get()
    ConnectedAccount.objects.update(lease_id="of-the-winner", lease_ends_ms=2**53)

    def store() -> None:
        time.sleep(after)
        winner.access_token, winner.refresh_token = "winner-access", "winner-refresh"
        winner.access_token_expires_at = timezone.now() + timedelta(hours=1)
        winner.lease_id, winner.lease_ends_ms = "", 0
        winner.save()
        connection.close()

    thread = Thread(target=store)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=401, body='{"code": "invalid_grant"}')]
)
def test_a_holder_that_has_lost_its_lease_waits_for_the_tokens_of_the_one_that_has_it(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    sent: list[Any],
    during_request: Any,
    fault: Fault,
) -> None:
    ilert.add_fault("token", fault)
    threads: list[Thread] = []
    during_request(after=lambda: threads.append(take_over(0.5)))
    try:
        token = flows.get_access_token(expired_account)
    finally:
        threads[0].join()
    assert token == "winner-access"
    assert sent == []


def test_what_a_response_does_not_name_stays_as_another_caller_has_stored_it(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ends_at = timezone.now() + timedelta(days=7)
    stored_meanwhile = {"granted_scope": "profile source:d", "refresh_token_expires_at": ends_at}
    ConnectedAccount.objects.update(**stored_meanwhile)
    ilert.add_fault("token", Fault(status=200, body='{"access_token": "new-access"}'))
    assert flows.get_access_token(expired_account) == "new-access"
    assert stored(expired_account, *stored_meanwhile) == stored_meanwhile


def test_a_caller_waits_no_longer_than_a_dead_holder_can_hold(
    expired_account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refresh, "lease_seconds", lambda: -5)
    ConnectedAccount.objects.update(lease_id="held", lease_ends_ms=2**53)
    with pytest.raises(IlertUnavailableError) as caught:
        flows.get_access_token(expired_account)
    assert caught.value.code == "busy"
    assert ilert.token_requests == []
