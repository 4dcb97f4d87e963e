from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from django_ilert_oauth import flows, transport
from django_ilert_oauth.exceptions import IlertOAuthError, IlertUnavailableError
from django_ilert_oauth.flows import apart
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.flows.beside import Acting, at_once, beside, copies, stored, stored_tokens

LOST_ON_SQLITE = "a rollback would lose the new token"

committing = pytest.mark.django_db(transaction=True)


class RollBackError(Exception):
    pass


@contextmanager
def rolled_back() -> Iterator[None]:
    with suppress(RollBackError), transaction.atomic():
        yield
        raise RollBackError


@pytest.fixture
def is_sqlite() -> bool:
    """One writer: there a refresh joins the caller's transaction."""
    return connection.vendor == "sqlite"


@pytest.fixture
def during_the_request(
    monkeypatch: pytest.MonkeyPatch, ilert: StandIn, settings: Any
) -> Callable[[Callable[[], object]], None]:
    def mount(act: Callable[[], object]) -> None:
        adapter = Acting(after=act)
        monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)

    return mount


# What is held while ilert is waited for


def open_transactions() -> int:
    """Those of other connections."""
    queries = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND xact_start IS NOT NULL",
        "mysql": "SELECT count(*) FROM information_schema.innodb_trx AS t"
        " JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id"
        " WHERE p.db = DATABASE() AND p.id <> connection_id()",
        # Waits for readers as well as writers; 1 where one is in the way.
        "sqlite": "PRAGMA wal_checkpoint(RESTART)",
    }
    if connection.vendor == "mysql":
        time.sleep(0.2)  # InnoDB shows what it saw up to 0.1 s before.
    with connection.cursor() as cursor:
        no_waiting(cursor)
        cursor.execute(queries[connection.vendor])
        return int(cursor.fetchone()[0])


def no_waiting(cursor: Any) -> None:
    if connection.vendor == "sqlite":
        cursor.execute("PRAGMA busy_timeout = 0")


def can_write(account: ConnectedAccount) -> bool:
    with connection.cursor() as cursor:
        no_waiting(cursor)
    rows = ConnectedAccount.objects.filter(pk=account.pk)
    try:
        with transaction.atomic():
            rows.select_for_update(nowait=True).get()
            return rows.update(display_name="written") == 1
    except DatabaseError:
        return False


@committing
@pytest.mark.parametrize(
    "renew",
    [
        flows.get_access_token,
        lambda account: flows.refresh(account, force=True),
        lambda account: flows.refresh_many(ConnectedAccount.objects.all(), concurrency=1),
        lambda account: flows.refresh_many(ConnectedAccount.objects.all(), concurrency=2),
    ],
    ids=["get_access_token", "refresh", "refresh_many", "refresh_many on threads"],
)
def test_no_transaction_and_no_lock_is_held_while_a_request_is_under_way(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    during_the_request: Callable[[Callable[[], object]], None],
    renew: Callable[[ConnectedAccount], object],
) -> None:
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        seen.append((beside(open_transactions), beside(lambda: can_write(expired_account))))

    during_the_request(look)
    renew(expired_account)
    assert seen == [(0, True)]


@committing
def test_in_a_transaction_of_the_caller_no_second_one_and_no_row_lock_is_held(
    expired_account: ConnectedAccount,
    is_sqlite: bool,
    during_the_request: Callable[[Callable[[], object]], None],
) -> None:
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        seen.append((beside(open_transactions), beside(lambda: can_write(expired_account))))

    during_the_request(look)
    with transaction.atomic():
        assert ConnectedAccount.objects.count() == 1
        flows.get_access_token(expired_account)
    assert seen == [(1, not is_sqlite)]


@committing
def test_a_fresh_token_costs_nothing_inside_a_transaction_either(
    account: ConnectedAccount,
    ilert: StandIn,
    django_assert_num_queries: Any,
    opened: list[BaseDatabaseWrapper],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic(), django_assert_num_queries(0):
        flows.get_access_token(account)
    assert ilert.requests == []
    assert opened == []
    assert caplog.text == ""


# What outlives a rollback


def fails_after_refreshing(request: HttpRequest) -> HttpResponse:
    flows.refresh(ConnectedAccount.objects.get())
    raise RollBackError


urlpatterns = [path("refresh/", fails_after_refreshing)]


def in_a_view(account: ConnectedAccount) -> None:
    response = Client(raise_request_exception=False).get("/refresh/")
    assert response.status_code == 500


def in_atomic(account: ConnectedAccount) -> None:
    with rolled_back():
        flows.refresh(account)


def in_a_savepoint(account: ConnectedAccount) -> None:
    with transaction.atomic(), rolled_back():
        flows.refresh(account)


def in_an_outer_block(account: ConnectedAccount) -> None:
    with rolled_back(), transaction.atomic():
        flows.refresh(account)


def without_autocommit(account: ConnectedAccount) -> None:
    connection.set_autocommit(False)
    try:
        flows.refresh(account)
    finally:
        connection.rollback()
        connection.set_autocommit(True)


@committing
@pytest.mark.parametrize(
    "refresh_and_roll_back",
    [in_a_view, in_atomic, in_a_savepoint, in_an_outer_block, without_autocommit],
)
def test_the_new_tokens_outlive_a_rollback_and_the_log_of_sqlite_says_that_they_do_not(
    account: ConnectedAccount,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_sqlite: bool,
    refresh_and_roll_back: Callable[[ConnectedAccount], None],
) -> None:
    ilert.options.rotate = True
    settings.ROOT_URLCONF = __name__
    if refresh_and_roll_back is in_a_view:
        monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    old = stored_tokens(account)
    refresh_and_roll_back(account)
    assert (stored_tokens(account) == old) == is_sqlite
    assert (LOST_ON_SQLITE in caplog.text) == is_sqlite
    assert [request.status for request in ilert.token_requests] == [200]


@committing
def test_a_transaction_in_which_nothing_is_renewed_warns_of_nothing(
    account: ConnectedAccount, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    flows.refresh(account)
    with transaction.atomic():
        flows.refresh(account)
    assert len(ilert.token_requests) == 1
    assert LOST_ON_SQLITE not in caplog.text


@committing
def test_a_site_without_autocommit_keeps_the_new_tokens_too(
    account: ConnectedAccount,
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    is_sqlite: bool,
) -> None:
    ilert.options.rotate = True
    old = stored_tokens(account)
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    without_autocommit(account)
    assert (stored_tokens(account) == old) == is_sqlite


@committing
def test_the_end_of_a_grant_outlives_a_rollback(
    account: ConnectedAccount, ilert: StandIn, is_sqlite: bool
) -> None:
    ilert.revoke_app("acme", "grace")
    with rolled_back(), suppress(IlertOAuthError):
        flows.refresh(account)
    assert ConnectedAccount.objects.get().needs_reconnect != is_sqlite


@committing
def test_the_transaction_goes_on_with_the_new_tokens(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    with transaction.atomic():
        flows.refresh(account)
        assert stored_tokens(account)[0] == account.access_token
        account.display_name = "Grace"
        account.save()
    row = ConnectedAccount.objects.get()
    assert (row.display_name, row.access_token) == ("Grace", account.access_token)


@committing
def test_what_was_committed_apart_is_announced_although_the_caller_rolls_back(
    account: ConnectedAccount, sent: list[Any], is_sqlite: bool
) -> None:
    with rolled_back():
        flows.refresh(account)
    assert [name for name, _ in sent] == ([] if is_sqlite else ["account_refreshed"])


@committing
def test_a_failure_that_was_committed_apart_is_announced_and_kept(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any], is_sqlite: bool
) -> None:
    ilert.add_fault("token", Fault(status=500))
    with rolled_back(), suppress(IlertUnavailableError):
        flows.refresh(account)
    assert [name for name, _ in sent] == ([] if is_sqlite else ["account_refresh_failed"])
    assert ConnectedAccount.objects.get().last_error == ("" if is_sqlite else "server_error")


# The caller's own rows and locks


@committing
def test_a_row_that_the_caller_has_just_made_is_renewed_in_place(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    with transaction.atomic():
        account = make_account()
        token = flows.refresh(account).access_token
    assert len(ilert.token_requests) == 1
    assert stored_tokens(account)[0] == token


@committing
def test_a_row_that_the_caller_has_just_made_is_announced_once_others_can_see_it(
    make_account: AccountFactory, sent: list[Any]
) -> None:
    with rolled_back():
        flows.refresh(make_account())
        assert sent == []
    assert sent == []


def lock(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.select_for_update().get(pk=account.pk)


def change(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk).update(display_name="changed")


@committing
@pytest.mark.parametrize("hold", [lock, change])
def test_a_caller_that_has_locked_the_row_is_told_so_before_the_request(
    account: ConnectedAccount,
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[BaseDatabaseWrapper],
    is_sqlite: bool,
    hold: Callable[[ConnectedAccount], None],
) -> None:
    monkeypatch.setattr(apart, "LOCK_PATIENCE", 0.2)
    with transaction.atomic():
        hold(account)
        if is_sqlite:
            flows.refresh(account)
            return
        with pytest.raises(IlertUnavailableError, match="is locked") as caught:
            flows.refresh(account)
        assert ConnectedAccount.objects.count() == 1
    assert caught.value.code == "row_locked"
    assert ilert.token_requests == []
    assert [each.connection for each in opened] == [None]
    assert stored(account, "lease_id", "last_error") == {"lease_id": "", "last_error": ""}


@committing
def test_a_row_that_another_transaction_lets_go_in_time_is_renewed(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    others = connection.copy()
    others.inc_thread_sharing()
    with others.cursor() as cursor:
        others.set_autocommit(False)
        cursor.execute("UPDATE ilert_oauth_connectedaccount SET display_name = 'theirs'")
    timer = Timer(0.3, others.close)
    timer.start()
    try:
        with transaction.atomic():
            flows.refresh(account)
    finally:
        timer.join()
    assert len(ilert.token_requests) == 1


@committing
def test_a_row_that_a_foreign_key_of_the_caller_points_to_is_not_in_the_way(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL locks just the key then; MariaDB's lock keeps every other writer out."""
    monkeypatch.setattr(apart, "LOCK_PATIENCE", 0.2)
    locking = {
        "postgresql": "SELECT * FROM ilert_oauth_connectedaccount WHERE id = %s FOR KEY SHARE",
        "mysql": "SELECT * FROM ilert_oauth_connectedaccount WHERE id = %s LOCK IN SHARE MODE",
        "sqlite": "SELECT * FROM ilert_oauth_connectedaccount WHERE id = %s",
    }
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(locking[connection.vendor], [account.pk])
            cursor.fetchall()
        with suppress(IlertUnavailableError):
            flows.refresh(account)
    assert len(ilert.token_requests) == (0 if connection.vendor == "mysql" else 1)


# Second connections


@committing
def test_of_many_callers_in_transactions_only_the_one_that_asks_opens_a_second_connection(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    opened: list[BaseDatabaseWrapper],
    is_sqlite: bool,
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.5
    accounts = copies(expired_account, 10)

    first: list[BaseDatabaseWrapper] = []

    def call(number: int) -> str:
        with transaction.atomic():
            first.append(connections["default"])
            return flows.get_access_token(accounts[number])

    tokens = at_once(10, call)
    assert len(ilert.token_requests) == 1
    assert set(tokens) == {stored_tokens(expired_account)[0]}
    second = [each for each in opened if each not in first]
    assert [each.connection for each in second] == ([] if is_sqlite else [None])


@committing
@pytest.mark.parametrize(
    "fault", [Fault(), Fault(status=500), Fault(status=401, body='{"code": "invalid_grant"}')]
)
def test_the_second_connection_is_closed_whatever_ilert_says(
    account: ConnectedAccount,
    ilert: StandIn,
    opened: list[BaseDatabaseWrapper],
    is_sqlite: bool,
    fault: Fault,
) -> None:
    ilert.add_fault("token", fault)
    own = connections["default"]
    with transaction.atomic(), suppress(IlertOAuthError):
        flows.refresh(account)
    assert connections["default"] is own
    assert [each.connection for each in opened] == ([] if is_sqlite else [None])


@committing
def test_what_another_has_renewed_is_used_without_a_second_connection(
    expired_account: ConnectedAccount, opened: list[BaseDatabaseWrapper]
) -> None:
    token = flows.get_access_token(ConnectedAccount.objects.get())
    with transaction.atomic():
        assert flows.get_access_token(expired_account) == token
    assert opened == []


@committing
def test_a_caller_whose_snapshot_is_old_gets_the_new_token(
    expired_account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.1)
    with repeatable_read(), transaction.atomic():
        account = ConnectedAccount.objects.get()
        token = beside(lambda: flows.get_access_token(expired_account))
        if connection.vendor == "sqlite":
            with pytest.raises(OperationalError, match="locked"):
                flows.get_access_token(account)
        else:
            assert flows.get_access_token(account) == token
    assert len(ilert.token_requests) == 1


@contextmanager
def repeatable_read() -> Iterator[None]:
    level = "TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    commands = {
        "postgresql": f"SET SESSION CHARACTERISTICS AS {level}",
        "mysql": f"SET SESSION {level}",
        "sqlite": "SELECT 1",
    }
    with connection.cursor() as cursor:
        cursor.execute(commands[connection.vendor])
    try:
        yield
    finally:
        connection.close()


# Where no second connection is to be opened


@pytest.mark.django_db
def test_inside_the_transaction_of_a_test_case_a_refresh_just_works(
    expired_account: ConnectedAccount,
    ilert: StandIn,
    opened: list[BaseDatabaseWrapper],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic():
        token = flows.get_access_token(expired_account)
    assert stored_tokens(expired_account)[0] == token
    assert len(ilert.token_requests) == 1
    assert opened == []
    assert LOST_ON_SQLITE not in caplog.text


@pytest.mark.django_db
def test_inside_the_transaction_of_a_test_case_signals_come_with_the_commit(
    account: ConnectedAccount, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        flows.refresh(account)
        assert sent == []
    assert [name for name, _ in sent] == ["account_refreshed"]


@committing
def test_many_are_not_renewed_inside_a_transaction(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    refused = pytest.raises(transaction.TransactionManagementError, match="inside a transaction")
    with transaction.atomic(), refused:
        flows.refresh_many(ConnectedAccount.objects.all())
    assert ilert.token_requests == []
