from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.decorators import login_not_required
from django.db import (
    DatabaseError,
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertOAuthError, IlertUnavailableError
from django_ilert_oauth.flows import _refresh, _transactions
from django_ilert_oauth.flows._lease import Lease, Look, release, take_lease
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import (
    Acting,
    at_once,
    beside,
    copies,
    held,
    stored,
    stored_tokens,
    without_autocommit,
)

LOST_AT_ROLLBACK = "a rollback would lose the new token"

committing = pytest.mark.django_db(transaction=True)


class RollBackError(Exception):
    pass


@contextmanager
def rolled_back() -> Iterator[None]:
    with suppress(RollBackError), transaction.atomic():
        yield
        raise RollBackError


@pytest.fixture
def second_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite, too: its write-ahead log lets one write beside a transaction that only reads."""
    monkeypatch.setattr(_refresh, "has_one_writer", lambda: False)


@pytest.fixture(params=[False, True], ids=["second connection", "one writer"])
def one_writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Where there is one, a refresh joins the caller's transaction."""
    is_one: bool = request.param
    monkeypatch.setattr(_refresh, "has_one_writer", lambda: is_one)
    return is_one


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
    "refresh",
    [
        flows.get_access_token,
        lambda account: flows.refresh(account, force=True),
        lambda account: flows.refresh_many(ConnectedAccount.objects.all()),
    ],
    ids=["get_access_token", "refresh", "refresh_many"],
)
def test_no_transaction_and_no_lock_is_held_while_a_request_is_under_way(
    expired_account: ConnectedAccount,
    during_the_request: Callable[[Callable[[], object]], None],
    refresh: Callable[[ConnectedAccount], object],
) -> None:
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        seen.append((beside(open_transactions), can_write(expired_account)))

    during_the_request(look)
    refresh(expired_account)
    assert seen == [(0, True)]


@committing
@pytest.mark.usefixtures("second_connection")
def test_in_a_transaction_of_the_caller_no_second_one_and_no_row_lock_is_held(
    expired_account: ConnectedAccount,
    during_the_request: Callable[[Callable[[], object]], None],
) -> None:
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        seen.append((beside(open_transactions), can_write(expired_account)))

    during_the_request(look)
    with transaction.atomic():
        assert ConnectedAccount.objects.count() == 1
        flows.get_access_token(expired_account)
    assert seen == [(1, True)]


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


@login_not_required
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


def committing_by_hand(account: ConnectedAccount) -> None:
    with without_autocommit():
        flows.refresh(account)


@committing
@pytest.mark.parametrize(
    "refresh_and_roll_back",
    [in_a_view, in_atomic, in_a_savepoint, in_an_outer_block, committing_by_hand],
)
def test_the_new_tokens_outlive_a_rollback_and_the_log_says_where_they_do_not(
    account: ConnectedAccount,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    one_writer: bool,
    refresh_and_roll_back: Callable[[ConnectedAccount], None],
) -> None:
    ilert.options.rotate = True
    settings.ROOT_URLCONF = __name__
    if refresh_and_roll_back is in_a_view:
        monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    old = stored_tokens(account)
    refresh_and_roll_back(account)
    assert (stored_tokens(account) == old) == one_writer
    assert (LOST_AT_ROLLBACK in caplog.text) == one_writer
    assert [request.status for request in ilert.token_requests] == [200]


@committing
def test_a_transaction_in_which_nothing_is_refreshed_warns_of_nothing(
    account: ConnectedAccount, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    flows.refresh(account)
    with transaction.atomic():
        flows.refresh(account)
    assert len(ilert.token_requests) == 1
    assert LOST_AT_ROLLBACK not in caplog.text


@committing
def test_a_site_without_autocommit_keeps_the_new_tokens_too(
    account: ConnectedAccount,
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    one_writer: bool,
) -> None:
    ilert.options.rotate = True
    old = stored_tokens(account)
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)
    committing_by_hand(account)
    assert (stored_tokens(account) == old) == one_writer


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


GONE = Fault(status=401, body='{"code": "invalid_grant"}')


@committing
@pytest.mark.parametrize(
    ("fault", "signal"),
    [
        (Fault(), "account_refreshed"),
        (Fault(status=500), "account_refresh_failed"),
        (GONE, "account_revoked"),
    ],
)
def test_what_was_committed_apart_is_kept_and_announced_although_the_caller_rolls_back(
    account: ConnectedAccount,
    ilert: StandIn,
    sent: list[Any],
    one_writer: bool,
    fault: Fault,
    signal: str,
) -> None:
    ilert.add_fault("token", fault)
    before = ConnectedAccount.objects.values().get()
    with rolled_back(), suppress(IlertOAuthError):
        flows.refresh(account)
    assert [name for name, _ in sent] == ([] if one_writer else [signal])
    assert (ConnectedAccount.objects.values().get() == before) == one_writer


# The caller's own rows and locks


@committing
@pytest.mark.usefixtures("second_connection")
def test_a_row_that_the_caller_has_just_made_is_refreshed_in_place(
    make_account: AccountFactory,
    ilert: StandIn,
    opened: list[BaseDatabaseWrapper],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with transaction.atomic():
        account = make_account()
        flows.refresh(account)
    assert len(ilert.token_requests) == 1
    assert account.access_token == stored_tokens(account)[0]
    assert [each.connection for each in opened] == [None]
    assert LOST_AT_ROLLBACK in caplog.text


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
    hold: Callable[[ConnectedAccount], None],
) -> None:
    monkeypatch.setattr(_refresh, "LOCK_PATIENCE", 0.2)
    with transaction.atomic():
        hold(account)
        if connection.vendor == "sqlite":
            flows.refresh(account)
            return
        with pytest.raises(IlertUnavailableError, match="is locked") as caught:
            flows.refresh(account)
        assert ConnectedAccount.objects.count() == 1
    assert caught.value.code == "row_locked"
    assert ilert.token_requests == []
    assert {each.connection for each in opened} == {None}
    assert stored(account, "lease_id", "last_error") == {"lease_id": "", "last_error": ""}


@committing
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
def test_a_row_that_another_transaction_lets_go_in_time_is_refreshed(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    others = connection.copy()
    others.inc_thread_sharing()
    with others.cursor() as cursor:
        others.set_autocommit(False)
        cursor.execute("UPDATE ilert_oauth_connectedaccount SET display_name = 'theirs'")
    timer = threading.Timer(0.3, others.close)
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
    monkeypatch.setattr(_refresh, "LOCK_PATIENCE", 0.2)
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


@committing
@pytest.mark.usefixtures("second_connection")
@pytest.mark.parametrize("tries", [3, 10_000])
def test_a_row_that_stays_locked_is_told_before_the_request(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    monkeypatch.setattr(_refresh, "LOCK_PATIENCE", 0.3)
    left = iter(range(tries))

    def try_to_take(look: Look) -> Lease | None:
        return take_lease(look) if next(left, None) is None else None

    monkeypatch.setattr(_refresh, "take_lease", try_to_take)
    told = nullcontext() if tries == 3 else pytest.raises(IlertUnavailableError, match="is locked")
    with told, transaction.atomic():
        flows.refresh(account)
    assert len(ilert.token_requests) == (tries == 3)


@committing
def test_with_one_writer_nobody_waits_for_another_s_lease_inside_a_transaction(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refresh, "has_one_writer", lambda: True)
    held(account)
    with transaction.atomic(), pytest.raises(IlertUnavailableError) as caught:
        flows.refresh(account)
    assert caught.value.code == "busy"
    assert ilert.token_requests == []


# Second connections


@committing
@pytest.mark.usefixtures("second_connection")
def test_many_callers_in_transactions_make_one_request_and_leave_no_second_connection(
    expired_account: ConnectedAccount, ilert: StandIn, opened: list[BaseDatabaseWrapper]
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.5
    accounts = copies(expired_account, 10)

    def call(number: int) -> str:
        with transaction.atomic():
            return flows.get_access_token(accounts[number])

    tokens = at_once(10, call)
    assert len(ilert.token_requests) == 1
    assert set(tokens) == {stored_tokens(expired_account)[0]}
    assert {each.connection for each in opened} == {None}


@committing
@pytest.mark.usefixtures("second_connection")
@pytest.mark.parametrize("fault", [Fault(), Fault(status=500), GONE])
def test_the_second_connection_is_closed_whatever_ilert_says(
    account: ConnectedAccount, ilert: StandIn, opened: list[BaseDatabaseWrapper], fault: Fault
) -> None:
    ilert.add_fault("token", fault)
    with transaction.atomic(), suppress(IlertOAuthError):
        flows.refresh(account)
    assert [each.connection for each in opened] == [None]


@committing
@pytest.mark.usefixtures("second_connection")
def test_the_second_connection_is_given_back_while_another_caller_is_waited_for(
    account: ConnectedAccount,
    opened: list[BaseDatabaseWrapper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lease = held(account)
    left_open: list[set[Any]] = []

    def look(seconds: float) -> None:
        left_open.append({each.connection for each in opened})
        if len(left_open) == 3:
            beside(lambda: release(lease))

    monkeypatch.setattr(time, "sleep", look)
    with transaction.atomic():
        flows.refresh(account)
    assert left_open[:3] == [{None}] * 3


TENANT: ContextVar[str] = ContextVar("tenant", default="")


@committing
@pytest.mark.usefixtures("second_connection")
def test_the_second_connection_is_opened_in_the_caller_s_context(account: ConnectedAccount) -> None:
    tenants: list[str] = []

    def note(**_kwargs: Any) -> None:
        tenants.append(TENANT.get())

    connection_created.connect(note)
    token = TENANT.set("acme")
    try:
        with transaction.atomic():
            flows.refresh(account)
    finally:
        TENANT.reset(token)
        connection_created.disconnect(note)
    assert tenants == ["acme"]


@pytest.fixture
def no_connection(
    second_connection: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[threading.Event]:
    """Until the event is set, as where a pool or a server has none left."""
    let_in = threading.Event()
    look = _transactions._sees

    def wait_and_look(account: ConnectedAccount, **options: Any) -> bool:
        return let_in.wait(20) and look(account, **options)

    monkeypatch.setattr(_transactions, "CONNECTION_PATIENCE", 0.1)
    monkeypatch.setattr(_transactions, "_sees", wait_and_look)
    yield let_in
    let_in.set()
    for thread in threading.enumerate():
        if thread.name == "ilert":
            thread.join()


@committing
def test_a_caller_that_gets_no_second_connection_is_told_so_and_no_request_is_made_later(
    expired_account: ConnectedAccount, ilert: StandIn, no_connection: threading.Event
) -> None:
    with transaction.atomic(), pytest.raises(IlertUnavailableError, match="second") as caught:
        flows.get_access_token(expired_account)
    assert caught.value.code == "busy"
    no_connection.set()
    for thread in threading.enumerate():
        if thread.name == "ilert":
            thread.join()
    assert ilert.token_requests == []


@committing
@pytest.mark.usefixtures("no_connection")
def test_without_a_second_connection_the_stored_token_does_while_it_is_good(
    make_account: AccountFactory,
) -> None:
    account = make_account(access_token_expires_at=timezone.now() + timedelta(minutes=1))
    with transaction.atomic():
        assert flows.get_access_token(account) == account.access_token


@committing
@pytest.mark.usefixtures("second_connection")
def test_a_caller_whose_snapshot_is_old_gets_the_new_token(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    with repeatable_read(), transaction.atomic():
        account = ConnectedAccount.objects.get()
        token = beside(lambda: flows.get_access_token(expired_account))
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
def test_django_marks_the_transaction_of_a_test_case_by_a_name_that_is_no_api() -> None:
    with transaction.atomic():
        marks = [getattr(block, "_from_testcase", None) for block in connection.atomic_blocks]
    assert marks == [True, False]


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
    assert LOST_AT_ROLLBACK not in caplog.text


@pytest.mark.django_db
def test_inside_the_transaction_of_a_test_case_signals_come_with_the_commit(
    account: ConnectedAccount, sent: list[Any], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        flows.refresh(account)
        assert sent == []
    assert [name for name, _ in sent] == ["account_refreshed"]


def having(*answers: bool | Exception) -> Any:
    """Rows that are there, are not, or cannot be asked for, one look after the other."""
    rows = mock.MagicMock()
    rows.filter.return_value.exists.side_effect = answers
    return lambda: rows


@committing
@pytest.mark.parametrize(
    ("answers", "is_seen"),
    [
        ([ProgrammingError("no such table")], False),
        ([OperationalError("too many connections"), True], True),
        ([OperationalError("too many connections"), False], False),
    ],
    ids=["no table", "connected later", "another schema"],
)
def test_the_second_connection_is_tried_until_it_can_look(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, answers: Any, is_seen: bool
) -> None:
    monkeypatch.setattr(_transactions, "account_rows", having(*answers))
    monkeypatch.setattr(_transactions, "PAUSE", 0)
    assert _transactions._sees(account, has_given_up=lambda: False) is is_seen


@committing
def test_a_caller_that_has_given_up_is_looked_for_no_longer(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transactions, "account_rows", having())
    assert not _transactions._sees(account, has_given_up=lambda: True)
