from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, connection

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.internal.db import DatabaseTime
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.support.other_callers import beside, lapse_leases, stored, stored_tokens
from tests.support.programs.caller import callers
from tests.support.site_processes import SiteProcess

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_lease(settings: Any) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 10)


def stop_under_way(process: SiteProcess, ilert: StandIn) -> None:
    """Its request has arrived and has no response yet."""
    ilert.add_fault("token", Fault(delay=1))
    process.go()
    deadline = time.monotonic() + 30
    while not ilert.token_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [request.status for request in ilert.token_requests] == [0]


def stop_before(process: SiteProcess, _ilert: StandIn) -> None:
    process.go()
    process.until("before")


def stop_after(process: SiteProcess, _ilert: StandIn) -> None:
    process.go()
    process.until("after")


STOPS = [
    pytest.param("before", stop_before, id="before"),
    pytest.param("", stop_under_way, id="during"),
    pytest.param("after", stop_after, id="after"),
]


@pytest.mark.parametrize(("hold", "stop"), STOPS)
def test_a_killed_holder_leaves_an_account_that_the_next_caller_refreshes(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    hold: str,
    stop: Callable[[SiteProcess, StandIn], None],
) -> None:
    with callers(expired_account, hold=hold) as [holder]:
        stop(holder, ilert)
        holder.kill()
    assert is_leased(expired_account)
    lapse_leases()
    token = flows.get_access_token(expired_account)
    assert token == stored_tokens(expired_account)[0]
    assert not is_leased(expired_account)
    assert stored(expired_account, "status") == {"status": Status.CONNECTED}


def test_a_caller_that_waits_for_a_killed_holder_carries_on_within_the_lease_time(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    with callers(expired_account, hold="before") as [holder]:
        stop_before(holder, ilert)
        holder.kill()
    assert is_leased(expired_account)
    ConnectedAccount.objects.update(lease_ends_ms=DatabaseTime(300))
    token = flows.get_access_token(expired_account)
    assert token == stored_tokens(expired_account)[0]
    assert len(ilert.token_requests) == 1


def test_a_holder_that_slept_through_its_lease_before_the_request_writes_nothing(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    with callers(expired_account, hold="before") as [sleeper]:
        stop_before(sleeper, ilert)
        assert_writes_nothing_on_waking(sleeper, expired_account)
    assert [request.status for request in ilert.token_requests] == [200, 401]


def assert_writes_nothing_on_waking(sleeper: SiteProcess, account: ConnectedAccount) -> None:
    sleeper.signal(signal.SIGSTOP)
    lapse_leases()
    token = flows.get_access_token(account)
    everything = ConnectedAccount.objects.values().get()
    sleeper.go()
    sleeper.signal(signal.SIGCONT)
    result = sleeper.result()
    assert ConnectedAccount.objects.values().get() == everything
    assert (result.token, result.signals) == (token, ())


def test_a_holder_that_slept_through_its_lease_with_its_response_stores_it_on_waking(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    """The token that it sent is worth nothing any more, and the grant seemed to have ended."""
    ilert.options.rotate = True
    with callers(expired_account, hold="after") as [sleeper]:
        stop_after(sleeper, ilert)
        sleeper.signal(signal.SIGSTOP)
        lapse_leases()
        with pytest.raises(ReconnectRequiredError):
            flows.get_access_token(expired_account)
        sleeper.go()
        sleeper.signal(signal.SIGCONT)
        token = sleeper.result().token
    assert token == stored_tokens(expired_account)[0]
    assert stored(expired_account, "status", "reason") == {"status": "connected", "reason": ""}
    assert ilert.lost_grants == []


def test_a_caller_that_is_interrupted_during_its_request_stores_what_comes_of_it(
    expired_account: ConnectedAccount, during_request: Any
) -> None:
    before = stored_tokens(expired_account)
    main = threading.main_thread().ident or 0
    during_request(after=lambda: signal.pthread_kill(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        flows.get_access_token(expired_account)
    assert stored_tokens(expired_account) != before
    assert not is_leased(expired_account)


def is_leased(account: ConnectedAccount) -> bool:
    return not ConnectedAccount.objects.unleased().filter(pk=account.pk).exists()


@pytest.fixture
def break_connection() -> Callable[[], None]:
    """Breaks this thread's connection, from another one, as the database itself does it."""
    ways = {"postgresql": end_backend, "mysql": end_backend, "sqlite": hold_the_only_lock}
    return ways[connection.vendor]()


def end_backend() -> Callable[[], None]:
    own = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    end = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}
    with connection.cursor() as cursor:
        cursor.execute(own[connection.vendor])
        [number] = cursor.fetchone()
    return lambda: execute(end[connection.vendor], [number])


def hold_the_only_lock() -> Callable[[], None]:
    execute("PRAGMA busy_timeout = 0")
    other = connection.copy()
    other.inc_thread_sharing()

    def hold() -> None:
        other.cursor().execute("BEGIN IMMEDIATE")
        threading.Timer(0.1, other.close).start()

    return hold


def execute(sql: str, params: list[Any] | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def test_a_connection_that_breaks_during_the_request_loses_no_token(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    during_request: Any,
    break_connection: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ilert.options.rotate = True
    during_request(after=break_connection)
    token = flows.get_access_token(expired_account)
    assert "The database failed; trying again" in caplog.text
    assert len(ilert.token_requests) == 1
    assert token == stored_tokens(expired_account)[0]


def test_a_connection_that_was_cut_fails_one_call_and_no_more(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        connection.connection.close()
        monkeypatch.setattr(connection, "is_usable", lambda: False)
    else:
        beside(end_backend())
    with pytest.raises((DatabaseError, InterfaceError)):
        flows.refresh(account)
    flows.refresh(account)
    assert account.access_token == stored_tokens(account)[0]
