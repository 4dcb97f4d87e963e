"""The second connection by itself, on SQLite as well: its write-ahead log lets one look past a
transaction that has not written yet. What only a server can show is in ``test_transactions``.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows import apart
from django_ilert_oauth.flows.apart import (
    Side,
    committing_apart,
    must_commit_apart,
    warn_of_rollback,
)
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.flows.beside import beside, stored, stored_tokens

pytestmark = pytest.mark.django_db(transaction=True)


class LockedFor:
    """Keeps the row locked against the second connection for so many tries."""

    def __init__(self, tries: int) -> None:
        self._left = tries

    def watch(self, connection: Any, **_kwargs: Any) -> None:
        connection.execute_wrappers.append(self)

    def __call__(self, execute: Any, sql: str, params: Any, *args: Any) -> Any:
        is_the_lock = connection.in_atomic_block and sql.startswith("SELECT")
        if is_the_lock and self._left:
            self._left -= 1
            raise OperationalError("the row is locked")
        return execute(sql, params, *args)


@pytest.fixture
def locked_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    monkeypatch.setattr(apart, "LOCK_PATIENCE", 0.3)
    locks: list[LockedFor] = []

    def lock(tries: int) -> None:
        locks.append(LockedFor(tries))
        connection_created.connect(locks[-1].watch)

    yield lock
    for each in locks:
        connection_created.disconnect(each.watch)


def rename(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk).update(display_name="renamed")


def name_of(account: ConnectedAccount) -> str:
    return str(stored(account, "display_name")["display_name"])


def test_what_is_written_apart_outlives_the_caller_s_rollback(
    account: ConnectedAccount, opened: list[BaseDatabaseWrapper]
) -> None:
    own = connections["default"]
    with transaction.atomic():
        with committing_apart(account) as may_try:
            rename(account)
        assert connections["default"] is own
        transaction.set_rollback(True)
    assert may_try
    assert name_of(account) == "renamed"
    assert [each.connection for each in opened] == [None]


def test_the_connection_is_closed_where_something_goes_wrong(
    account: ConnectedAccount, opened: list[BaseDatabaseWrapper]
) -> None:
    own = connections["default"]
    with transaction.atomic():
        with pytest.raises(KeyboardInterrupt), committing_apart(account):
            raise KeyboardInterrupt
        assert connections["default"] is own
    assert [each.connection for each in opened] == [None]


def test_one_of_a_process_is_enough_for_an_account(
    account: ConnectedAccount, make_account: AccountFactory
) -> None:
    other = make_account(username="ada")

    def may_try(which: ConnectedAccount) -> bool:
        with transaction.atomic(), committing_apart(which) as answer:
            return answer is not Side.TAKEN

    with transaction.atomic(), committing_apart(account):
        assert not beside(lambda: may_try(account))
        assert not beside(lambda: may_try(account))
        assert beside(lambda: may_try(other))
    assert beside(lambda: may_try(account))


def test_a_row_that_only_the_caller_can_see_is_left_to_the_caller_s_connection(
    make_account: AccountFactory, opened: list[BaseDatabaseWrapper]
) -> None:
    own = connections["default"]
    with transaction.atomic():
        account = make_account()
        with committing_apart(account):
            assert connections["default"] is own
            rename(account)
        assert connections["default"] is own
        transaction.set_rollback(True)
    assert not ConnectedAccount.objects.exists()
    assert [each.connection for each in opened] == [None]


def test_a_locked_row_is_told_in_bounded_time(
    account: ConnectedAccount,
    locked_for: Callable[[int], None],
    opened: list[BaseDatabaseWrapper],
) -> None:
    locked_for(1000)
    own = connections["default"]
    with transaction.atomic():
        with pytest.raises(IlertUnavailableError) as caught, committing_apart(account):
            pytest.fail("not to be reached")
        assert connections["default"] is own
    assert caught.value.code == "row_locked"
    assert [each.connection for each in opened] == [None]


def test_a_row_that_is_let_go_in_time_is_waited_for(
    account: ConnectedAccount, locked_for: Callable[[int], None]
) -> None:
    locked_for(1)
    with transaction.atomic(), committing_apart(account):
        rename(account)
    assert name_of(account) == "renamed"


@pytest.fixture
def looking_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any database a refresh does as on those that can."""
    module = importlib.import_module("django_ilert_oauth.flows.refresh")
    monkeypatch.setattr(module, "must_commit_apart", lambda: True)


@pytest.mark.usefixtures("looking_past")
def test_a_refresh_apart_outlives_the_rollback_and_is_announced(
    account: ConnectedAccount, sent: list[Any]
) -> None:
    with transaction.atomic():
        flows.refresh(account)
        transaction.set_rollback(True)
    assert stored_tokens(account)[0] == account.access_token
    assert [name for name, _ in sent] == ["account_refreshed"]


@pytest.mark.usefixtures("looking_past")
def test_a_refresh_apart_sees_what_the_caller_s_transaction_cannot(
    expired_account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.1)
    with transaction.atomic():
        account = ConnectedAccount.objects.get()
        token = beside(lambda: flows.get_access_token(expired_account))
        assert flows.get_access_token(account) == token
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize("vendor", ["postgresql", "mysql", "oracle"])
def test_any_database_but_sqlite_can_look_past_a_transaction(
    monkeypatch: pytest.MonkeyPatch, vendor: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "vendor", vendor)
    with transaction.atomic():
        assert must_commit_apart()
    assert not must_commit_apart()
    assert caplog.text == ""


def test_sqlite_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "vendor", "sqlite")
    with transaction.atomic():
        assert not must_commit_apart()


def test_the_log_warns_of_a_rollback_only_where_it_would_lose_the_token(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, transaction.atomic():
        patch.setattr(connection, "vendor", "postgresql")
        warn_of_rollback()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "vendor", "sqlite")
        warn_of_rollback()
        assert caplog.text == ""
        with transaction.atomic():
            warn_of_rollback()
    assert "a rollback would lose the new token" in caplog.text


@pytest.mark.django_db(transaction=False)
def test_the_transaction_of_a_test_case_is_no_caller_s(caplog: pytest.LogCaptureFixture) -> None:
    with transaction.atomic():
        assert not must_commit_apart()
    assert caplog.text == ""


def test_a_caller_waits_while_another_thread_has_the_second_connection(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("django_ilert_oauth.flows.refresh")
    monkeypatch.setattr(module, "must_commit_apart", lambda: True)
    has_it, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(), committing_apart(ConnectedAccount(pk=account.pk)):
            has_it.set()
            may_go.wait(20)
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    has_it.wait(20)
    threading.Timer(0.2, may_go.set).start()
    with transaction.atomic():
        flows.refresh(account)
    holder.join()
    assert may_go.is_set()
    assert len(ilert.token_requests) == 1
