from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from threading import Timer
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.db.backends.signals import connection_created

from django_ilert_oauth import flows, transport
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.flows.beside import Acting, beside, lapse_leases, stored, stored_tokens
from tests.processes.caller import Caller, callers

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_lease(settings: Any) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 10)


def stop_under_way(process: Caller, ilert: StandIn) -> None:
    """Its request has arrived and is not answered."""
    ilert.add_fault("token", Fault(delay=1))
    process.go()
    deadline = time.monotonic() + 30
    while not ilert.token_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [request.status for request in ilert.token_requests] == [0]


def stop_before(process: Caller, _ilert: StandIn) -> None:
    process.go()
    process.until("before")


def stop_after(process: Caller, _ilert: StandIn) -> None:
    process.go()
    process.until("after")


STOPS = [
    pytest.param("before", stop_before, id="before"),
    pytest.param("", stop_under_way, id="during"),
    pytest.param("after", stop_after, id="after"),
]


@pytest.mark.parametrize(("hold", "stop"), STOPS)
def test_a_killed_holder_leaves_an_account_that_the_next_caller_renews(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    hold: str,
    stop: Callable[[Caller, StandIn], None],
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
    expired_account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.1)
    ilert.options.rotate = True
    with callers(expired_account, hold="before") as [holder]:
        stop_before(holder, ilert)
        holder.kill()
    assert is_leased(expired_account)
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


def test_a_holder_that_slept_through_its_lease_with_its_answer_writes_nothing(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    with callers(expired_account, hold="after") as [sleeper]:
        stop_after(sleeper, ilert)
        assert_writes_nothing_on_waking(sleeper, expired_account)
    assert [request.status for request in ilert.token_requests] == [200, 200]


def assert_writes_nothing_on_waking(sleeper: Caller, account: ConnectedAccount) -> None:
    sleeper.signal(signal.SIGSTOP)
    lapse_leases()
    token = flows.get_access_token(account)
    everything = ConnectedAccount.objects.values().get()
    sleeper.go()
    sleeper.signal(signal.SIGCONT)
    result = sleeper.result()
    assert ConnectedAccount.objects.values().get() == everything
    assert (result.token, result.signals) == (token, ())


def test_a_holder_that_is_late_writes_its_answer_where_nobody_has_taken_the_lease(
    expired_account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    adapter = Acting(after=lapse_leases)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)
    token = flows.get_access_token(expired_account)
    assert token == stored_tokens(expired_account)[0]


def test_a_caller_that_is_interrupted_gives_the_lease_back(
    expired_account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    adapter = Acting(before=interrupt)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)
    with pytest.raises(KeyboardInterrupt):
        flows.get_access_token(expired_account)
    assert not is_leased(expired_account)


def is_leased(account: ConnectedAccount) -> bool:
    return not ConnectedAccount.objects.unleased().filter(pk=account.pk).exists()


class FailingOnce:
    """Stands between the app and the database, and refuses the first answer to be stored."""

    def __init__(self) -> None:
        self.refusals = 0

    def __call__(self, execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if not self.refusals and sql.startswith("UPDATE") and "granted_scope" in sql:
            self.refusals += 1
            raise OperationalError("the database is away")
        return execute(sql, params, *args)

    def watch(self, connection: Any, **_kwargs: Any) -> None:
        connection.execute_wrappers.append(self)


def test_a_database_that_fails_once_loses_no_token(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    failing = FailingOnce()
    with connection.execute_wrapper(failing):
        token = flows.get_access_token(expired_account)
    assert failing.refusals == 1
    assert len(ilert.token_requests) == 1
    assert token == stored_tokens(expired_account)[0]


def test_a_second_connection_that_fails_once_loses_no_token(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    """Only SQLite has none: there the caller's own transaction has failed."""
    ilert.options.rotate = True
    failing = FailingOnce()
    connection_created.connect(failing.watch)
    expected = pytest.raises(OperationalError) if connection.vendor == "sqlite" else nullcontext()
    try:
        with expected, transaction.atomic(), connection.execute_wrapper(failing):
            flows.get_access_token(expired_account)
    finally:
        connection_created.disconnect(failing.watch)
    assert failing.refusals == 1
    assert len(ilert.token_requests) == 1
    if connection.vendor != "sqlite":
        assert stored_tokens(expired_account)[0] == expired_account.access_token


@pytest.fixture
def lost_connection() -> Callable[[], None]:
    """Breaks the connection that the answer is to be stored on, as the database itself does it."""
    ways = {"postgresql": end_backend, "mysql": end_backend, "sqlite": hold_the_only_lock}
    return ways[connection.vendor]


def end_backend() -> None:
    own = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
    end = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}
    with connection.cursor() as cursor:
        cursor.execute(own[connection.vendor])
        [number] = cursor.fetchone()
    beside(lambda: execute(end[connection.vendor], [number]))


def hold_the_only_lock() -> None:
    execute("PRAGMA busy_timeout = 0")
    other = connection.copy()
    other.inc_thread_sharing()
    other.cursor().execute("BEGIN IMMEDIATE")
    Timer(0.05, other.close).start()


def execute(sql: str, params: list[Any] | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def test_a_connection_that_breaks_during_the_request_loses_no_token(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    lost_connection: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ilert.options.rotate = True
    adapter = Acting(after=lost_connection)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)
    token = flows.get_access_token(expired_account)
    assert "could not be stored; trying again" in caplog.text
    assert len(ilert.token_requests) == 1
    assert token == stored_tokens(expired_account)[0]
