from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import timedelta
from signal import SIGINT, pthread_kill
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
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.flows import _refresh, _transactions
from django_ilert_oauth.flows._lease import Lease, Snapshot, release, take_lease
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.databases import needs_postgresql
from tests.support.other_callers import (
    beside,
    callers_at_once,
    held,
    receiving,
    stored,
    stored_tokens,
    without_autocommit,
)

pytestmark = pytest.mark.django_db(transaction=True)

LOST_AT_ROLLBACK = "a rollback would lose the new token"


@contextmanager
def rolled_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.fixture(autouse=True)
def second_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite, too: its write-ahead log lets one write beside a transaction that only reads."""
    monkeypatch.setattr(_refresh, "has_one_writer", lambda _using: False)


@pytest.fixture(params=[False, True], ids=["second connection", "one writer"])
def one_writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Where there is one, a refresh joins the caller's transaction."""
    is_one: bool = request.param
    monkeypatch.setattr(_refresh, "has_one_writer", lambda _using: is_one)
    return is_one


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


def in_an_own_transaction(account: ConnectedAccount) -> None:
    with transaction.atomic():
        assert ConnectedAccount.objects.count() == 1
        flows.get_access_token(account)


@pytest.mark.parametrize(
    ("refresh", "open_ones"),
    [
        (flows.get_access_token, 0),
        (lambda account: flows.refresh_many(ConnectedAccount.objects.all()), 0),
        (in_an_own_transaction, 1),
    ],
    ids=["get_access_token", "refresh_many", "in a transaction of the caller"],
)
def test_no_further_transaction_and_no_row_lock_is_held_while_a_request_is_under_way(
    expired_account: ConnectedAccount,
    during_request: Any,
    refresh: Callable[[ConnectedAccount], object],
    open_ones: int,
) -> None:
    seen: list[tuple[int, bool]] = []
    during_request(
        after=lambda: seen.append((beside(open_transactions), can_write(expired_account)))
    )
    refresh(expired_account)
    assert seen == [(open_ones, True)]


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
    raise ZeroDivisionError


urlpatterns = [path("refresh/", fails_after_refreshing)]


def in_a_view(account: ConnectedAccount) -> None:
    with mock.patch.dict(connections.settings["default"], ATOMIC_REQUESTS=True):
        response = Client(raise_request_exception=False).get("/refresh/")
    assert response.status_code == 500


def in_a_savepoint(account: ConnectedAccount) -> None:
    with transaction.atomic(), rolled_back():
        flows.refresh(account)


def in_an_outer_block(account: ConnectedAccount) -> None:
    with rolled_back(), transaction.atomic():
        flows.refresh(account)


def committing_by_hand(account: ConnectedAccount) -> None:
    with without_autocommit():
        flows.refresh(account)


def on_a_site_without_autocommit(account: ConnectedAccount) -> None:
    with mock.patch.dict(connection.settings_dict, AUTOCOMMIT=False):
        committing_by_hand(account)


@pytest.mark.parametrize(
    "refresh_and_roll_back",
    [
        in_a_view,
        in_a_savepoint,
        in_an_outer_block,
        committing_by_hand,
        on_a_site_without_autocommit,
    ],
)
def test_the_new_tokens_outlive_a_rollback_and_the_log_says_where_they_do_not(
    account: ConnectedAccount,
    ilert: StandIn,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    one_writer: bool,
    refresh_and_roll_back: Callable[[ConnectedAccount], None],
) -> None:
    ilert.options.rotate = True
    settings.ROOT_URLCONF = __name__
    old = stored_tokens(account)
    refresh_and_roll_back(account)
    assert (stored_tokens(account) == old) == one_writer
    assert (LOST_AT_ROLLBACK in caplog.text) == one_writer
    assert [request.status for request in ilert.token_requests] == [200]


def test_a_transaction_in_which_nothing_is_refreshed_warns_of_nothing(
    account: ConnectedAccount, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    flows.refresh(account)
    with transaction.atomic():
        flows.refresh(account)
    assert len(ilert.token_requests) == 1
    assert LOST_AT_ROLLBACK not in caplog.text


def test_the_transaction_goes_on_with_the_new_tokens(account: ConnectedAccount) -> None:
    with transaction.atomic():
        flows.refresh(account)
        assert stored_tokens(account)[0] == account.access_token
        account.display_name = "Grace"
        account.save()
    row = ConnectedAccount.objects.get()
    assert (row.display_name, row.access_token) == ("Grace", account.access_token)


@pytest.mark.parametrize(
    ("fault", "signal"),
    [
        (Fault(), "account_refreshed"),
        (Fault(status=500), "account_refresh_failed"),
        (Fault(status=401, body='{"code": "invalid_grant"}'), "account_revoked"),
    ],
)
def test_what_was_committed_separately_is_kept_and_signalled_although_the_caller_rolls_back(
    account: ConnectedAccount,
    ilert: StandIn,
    sent: list[Any],
    opened: list[BaseDatabaseWrapper],
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
    assert [each.connection for each in opened] == ([] if one_writer else [None])


def test_a_caller_that_is_interrupted_has_the_second_connection_store_what_comes(
    account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    ilert.options.rotate = True
    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        pthread_kill(main, SIGINT)
        time.sleep(0.2)

    during_request(after=interrupt)
    with pytest.raises(KeyboardInterrupt), transaction.atomic():
        flows.refresh(account)
    assert [stored_tokens(account)[1]] == list(ilert.ledger().values())


# The caller's own rows and locks


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


def test_a_row_that_the_caller_has_just_made_is_signalled_once_others_can_see_it(
    make_account: AccountFactory, sent: list[Any]
) -> None:
    with rolled_back():
        flows.refresh(make_account())
        assert sent == []
    assert sent == []


locks_rows = pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")


@locks_rows
def test_a_caller_that_has_changed_the_row_is_told_so_before_the_request(
    account: ConnectedAccount,
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[BaseDatabaseWrapper],
) -> None:
    monkeypatch.setattr(_refresh, "LOCK_PATIENCE", 0.2)
    with transaction.atomic():
        ConnectedAccount.objects.filter(pk=account.pk).update(display_name="changed")
        with pytest.raises(IlertUnavailableError, match="is locked") as caught:
            flows.refresh(account)
        assert ConnectedAccount.objects.count() == 1
    assert caught.value.code == "row_locked"
    assert ilert.token_requests == []
    assert {each.connection for each in opened} == {None}
    assert stored(account, "lease_id", "last_error") == {"lease_id": "", "last_error": ""}


@locks_rows
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


@pytest.mark.parametrize("attempts", [3, 10_000])
def test_a_row_that_stays_locked_is_told_before_the_request(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    monkeypatch.setattr(_refresh, "LOCK_PATIENCE", 0.3)
    left = iter(range(attempts))

    def try_to_take(snapshot: Snapshot) -> Lease | None:
        return take_lease(snapshot) if next(left, None) is None else None

    monkeypatch.setattr(_refresh, "take_lease", try_to_take)
    told = (
        nullcontext() if attempts == 3 else pytest.raises(IlertUnavailableError, match="is locked")
    )
    with told, transaction.atomic():
        flows.refresh(account)
    assert len(ilert.token_requests) == (attempts == 3)


def test_with_one_writer_nobody_waits_for_another_s_lease_inside_a_transaction(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refresh, "has_one_writer", lambda _using: True)
    held(account)
    with transaction.atomic(), pytest.raises(IlertUnavailableError) as caught:
        flows.refresh(account)
    assert caught.value.code == "busy"
    assert ilert.token_requests == []


# Second connections


def test_many_callers_in_transactions_make_one_request_and_leave_no_second_connection(
    expired_account: ConnectedAccount, ilert: StandIn, opened: list[BaseDatabaseWrapper]
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.3
    tokens = callers_at_once(10, expired_account, transaction.atomic()(flows.get_access_token))
    assert len(ilert.token_requests) == 1
    assert set(tokens) == {stored_tokens(expired_account)[0]}
    assert {each.connection for each in opened} == {None}


def test_the_second_connection_is_given_back_while_another_caller_is_waited_for(
    account: ConnectedAccount, opened: list[BaseDatabaseWrapper], monkeypatch: pytest.MonkeyPatch
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


def test_the_second_connection_is_opened_in_the_caller_s_context(account: ConnectedAccount) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    tenants: list[str] = []

    def note(**_kwargs: Any) -> None:
        tenants.append(tenant.get())

    token = tenant.set("acme")
    with receiving(connection_created, note), transaction.atomic():
        flows.refresh(account)
    tenant.reset(token)
    assert tenants == ["acme"]


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Until this is called, as where a pool or a server has none left."""
    let_in = threading.Event()
    look = _transactions._sees

    def wait_and_look(account: ConnectedAccount, **options: Any) -> bool:
        return let_in.wait(20) and look(account, **options)

    def give_one() -> None:
        let_in.set()
        for thread in threading.enumerate():
            if thread.name == "ilert":
                thread.join()

    monkeypatch.setattr(_transactions, "CONNECTION_PATIENCE", 0.1)
    monkeypatch.setattr(_transactions, "_sees", wait_and_look)
    yield give_one
    give_one()


def test_a_caller_that_gets_no_second_connection_is_told_so_and_no_request_is_made_later(
    expired_account: ConnectedAccount, ilert: StandIn, no_connection: Callable[[], None]
) -> None:
    with transaction.atomic(), pytest.raises(IlertUnavailableError, match="second") as caught:
        flows.get_access_token(expired_account)
    assert caught.value.code == "busy"
    no_connection()
    assert ilert.token_requests == []


@pytest.mark.usefixtures("no_connection")
def test_without_a_second_connection_the_stored_token_does_while_it_is_good(
    make_account: AccountFactory,
) -> None:
    account = make_account(access_token_expires_at=timezone.now() + timedelta(minutes=1))
    with transaction.atomic():
        assert flows.get_access_token(account) == account.access_token


def test_an_account_that_the_same_transaction_has_disconnected_has_no_token(
    account: ConnectedAccount,
) -> None:
    with transaction.atomic():
        flows.disconnect(account)
        with pytest.raises(ReconnectRequiredError):
            flows.get_access_token(account)
        assert account.status == Status.DISCONNECTED


def test_an_object_that_has_not_heard_of_a_reconnect_gets_the_token_in_a_transaction_too(
    account: ConnectedAccount,
) -> None:
    ConnectedAccount.objects.update(status=Status.RECONNECT_REQUIRED)
    stale = ConnectedAccount.objects.get()
    ConnectedAccount.objects.update(status=Status.CONNECTED)
    with transaction.atomic():
        assert flows.get_access_token(stale) == account.access_token


@needs_postgresql
def test_a_caller_that_has_locked_the_table_waits_no_longer_than_for_a_connection(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    """As a migration does that adds a foreign key to the table, and then asks ilert."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE ilert_oauth_connectedaccount IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(IlertUnavailableError, match="locked the table") as caught:
            flows.get_access_token(expired_account)
    assert caught.value.code == "busy"
    assert ilert.token_requests == []


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(1, nullcontext()), (-1, pytest.raises(IlertUnavailableError, match="second"))],
    ids=["good", "expired"],
)
def test_without_a_thread_for_the_second_connection_it_is_the_same(
    make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch, minutes: int, expected: Any
) -> None:
    """As while the interpreter shuts down, or where the system has no further thread."""
    account = make_account(access_token_expires_at=timezone.now() + timedelta(minutes=minutes))
    refuse = mock.Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with transaction.atomic(), expected:
        assert flows.get_access_token(account) == account.access_token
    refuse.assert_called_once()


def test_a_caller_whose_snapshot_is_old_gets_the_new_token(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    level = "TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    commands = {
        "postgresql": f"SET SESSION CHARACTERISTICS AS {level}",
        "mysql": f"SET SESSION {level}",
        "sqlite": "SELECT 1",
    }
    with connection.cursor() as cursor:
        cursor.execute(commands[connection.vendor])
    with transaction.atomic():
        account = ConnectedAccount.objects.get()
        token = beside(lambda: flows.get_access_token(expired_account))
        assert flows.get_access_token(account) == token
    connection.close()
    assert len(ilert.token_requests) == 1


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


@pytest.mark.parametrize(
    ("outcomes", "is_seen"),
    [
        ([ProgrammingError("no such table")], False),
        ([OperationalError("too many connections"), True], True),
        ([OperationalError("too many connections")], False),
    ],
    ids=["no table", "connected later", "given up"],
)
def test_the_second_connection_is_tried_until_it_can_look_or_the_caller_has_given_up(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, outcomes: Any, is_seen: bool
) -> None:
    rows, attempts = mock.MagicMock(), iter(outcomes)
    rows.exists.side_effect = outcomes
    monkeypatch.setattr(_transactions, "row_of", lambda _account: rows)
    monkeypatch.setattr(_transactions, "PAUSE", 0)
    sees = _transactions._sees(account, has_given_up=lambda: next(attempts, None) is None)
    assert sees is is_seen
