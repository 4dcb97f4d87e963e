from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.flows._disconnect import MAX_ATTEMPTS, end_grant_of_deleted
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import beside, stored

pytestmark = pytest.mark.django_db(transaction=True)


def revoked(ilert: StandIn) -> list[str]:
    return [r.form["token"] for r in ilert.requests if r.path.endswith("/revoke")]


def refresh_beside() -> None:
    beside(lambda: flows.refresh(ConnectedAccount.objects.get(), force=True))


def test_disconnecting_revokes_the_grant_at_ilert(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    refresh_token = account.refresh_token.reveal()
    flows.disconnect(account)
    assert revoked(ilert) == [refresh_token]
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert not PendingRevocation.objects.exists()


def test_disconnecting_wipes_both_tokens(account: ConnectedAccount) -> None:
    flows.disconnect(account)
    for row in (account, ConnectedAccount.objects.get()):
        assert (row.status, row.reason) == (Status.DISCONNECTED, Reason.USER)
        assert row.access_token_ciphertext == row.refresh_token_ciphertext == ""
    with pytest.raises(ReconnectRequiredError):
        flows.get_access_token(account)


def test_a_disconnected_account_has_no_expiry(make_account: AccountFactory) -> None:
    account = make_account(refresh_token_expires_at=timezone.now() + timedelta(days=300))
    flows.disconnect(account)
    for row in (account, ConnectedAccount.objects.get()):
        assert (row.access_token_expires_at, row.refresh_token_expires_at) == (None, None)


def test_a_pending_revocation_knows_when_the_grant_ends(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ends_at = timezone.now() + timedelta(days=300)
    account = make_account(refresh_token_expires_at=ends_at)
    ilert.add_fault("revoke", Fault(status=500))
    flows.disconnect(account)
    pending = PendingRevocation.objects.get()
    assert (pending.grant_ends_at, pending.account_uuid) == (ends_at, account.uuid)


def test_disconnecting_is_announced_once_however_often_it_is_done(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    stale = ConnectedAccount.objects.get()
    flows.disconnect(account, reason=Reason.ADMIN)
    flows.disconnect(account)
    flows.disconnect(stale)
    assert sent == [
        ("account_revoked", {"account": account, "reason": Reason.ADMIN, "request": None})
    ]
    assert len(revoked(ilert)) == 1


def test_a_disconnection_ends_the_lease_of_a_refresh_under_way(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(lease_id="held", lease_ends_ms=2**53)
    flows.disconnect(account)
    assert ConnectedAccount.objects.values_list("lease_id", "lease_ends_ms").get() == ("", 0)


def test_an_account_without_refresh_token_has_nothing_to_revoke(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    flows.disconnect(make_account(refresh_token=""))
    assert revoked(ilert) == []


def test_a_row_with_the_same_key_that_is_another_account_is_left_alone(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    other = ConnectedAccount(pk=account.pk, user=account.user, uuid=uuid.uuid4())
    flows.disconnect(other)
    with transaction.atomic():
        end_grant_of_deleted(other)
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert (revoked(ilert), sent) == ([], [])


# What is stored at that moment


def test_what_another_process_refreshed_is_what_is_revoked(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    flows.refresh(ConnectedAccount.objects.get())
    flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


class Before:
    """Acts once, before the statement that begins with this is run."""

    def __init__(self, sql: str, act: Callable[[], object]) -> None:
        self._sql = sql
        self._act: Callable[[], object] | None = act

    def __call__(self, execute: Any, sql: str, *args: Any) -> Any:
        if self._act is not None and sql.startswith(self._sql):
            act, self._act = self._act, None
            act()
        return execute(sql, *args)


def test_a_refresh_that_lands_in_between_is_revoked_too(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    with connection.execute_wrapper(Before("UPDATE", refresh_beside)):
        flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert ConnectedAccount.objects.get().status == Status.DISCONNECTED


# Isolation


LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


# MariaDB repeats reads anyway, and SQLite always.
@pytest.fixture(params=LEVELS if connection.vendor == "postgresql" else ["default"])
def isolation(request: pytest.FixtureRequest, account: ConnectedAccount) -> Iterator[str]:
    if request.param in LEVELS:
        with connection.cursor() as cursor:
            level = f"TRANSACTION ISOLATION LEVEL {request.param}"
            cursor.execute(f"SET SESSION CHARACTERISTICS AS {level}")
    yield request.param
    connection.close()


@pytest.mark.usefixtures("isolation")
def test_a_row_that_changes_meanwhile_is_disconnected_all_the_same(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    is_locked, goes_on = threading.Event(), threading.Event()

    def refresh_and_hold() -> None:
        with transaction.atomic():
            ConnectedAccount.objects.update(display_name="Grace")
            is_locked.set()
            goes_on.wait(0.3)

    with connection.execute_wrapper(Before("UPDATE", is_locked.wait)):
        holder = threading.Thread(target=lambda: beside(refresh_and_hold))
        holder.start()
        flows.disconnect(account)
    holder.join()
    assert ConnectedAccount.objects.get().status == Status.DISCONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 0


@pytest.mark.usefixtures("isolation")
def test_a_row_that_changed_since_the_snapshot_of_the_caller_is_disconnected_with_its_commit(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.options.rotate = True
    with transaction.atomic():
        ConnectedAccount.objects.get()
        refresh_beside()
        sent.clear()
        flows.disconnect(account)
        assert (account.status, account.refresh_token_ciphertext) == (Status.DISCONNECTED, "")
        assert revoked(ilert) == []
    row = ConnectedAccount.objects.get()
    assert (row.status, row.refresh_token_ciphertext) == (Status.DISCONNECTED, "")
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert [name for name, _facts in sent] == ["account_revoked"]


@pytest.mark.usefixtures("isolation")
def test_what_waits_for_a_commit_that_does_not_come_is_not_done(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    with transaction.atomic():
        ConnectedAccount.objects.get()
        refresh_beside()
        flows.disconnect(account)
        transaction.set_rollback(True)
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert revoked(ilert) == []


class Failing:
    """Statements that begin with one of these."""

    def __init__(self, *sql: str) -> None:
        self.count = 0
        self._sql = sql

    def __call__(self, execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith(self._sql):
            self.count += 1
            raise OperationalError("out of order")
        return execute(sql, *args)


def test_a_database_that_keeps_failing_is_not_tried_for_ever(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    failing = Failing("UPDATE")
    with connection.execute_wrapper(failing), pytest.raises(OperationalError):
        flows.disconnect(account)
    assert failing.count == MAX_ATTEMPTS
    assert stored(account, "status") == {"status": Status.CONNECTED}


def test_a_transaction_that_is_lost_is_not_hidden(account: ConnectedAccount) -> None:
    failing = connection.execute_wrapper(Failing("UPDATE", "ROLLBACK TO SAVEPOINT"))
    with pytest.raises(OperationalError), transaction.atomic(), failing:
        flows.disconnect(account)
    assert stored(account, "status") == {"status": Status.CONNECTED}


# Deleting


@pytest.mark.parametrize("what", ["row", "queryset", "user"])
def test_deleting_revokes_the_grant(
    account: ConnectedAccount, user: User, ilert: StandIn, sent: list[Any], what: str
) -> None:
    pk = account.pk
    deletable: dict[str, Any] = {
        "row": account,
        "queryset": ConnectedAccount.objects.all(),
        "user": user,
    }
    deletable[what].delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    [(name, facts)] = sent
    assert (name, facts["reason"], facts["account"].pk) == ("account_revoked", Reason.DELETED, pk)


def test_a_delete_that_is_rolled_back_revokes_nothing(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    with transaction.atomic():
        ConnectedAccount.objects.get().delete()
        transaction.set_rollback(True)
    assert revoked(ilert) == []
    assert sent == []
    assert not PendingRevocation.objects.exists()


def test_ilert_being_down_never_blocks_a_delete(
    account: ConnectedAccount, user: User, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(drop=True))
    user.delete()
    assert not ConnectedAccount.objects.exists()
    assert flows.revoke_pending() == flows.RevocationResult(revoked=1)


def test_deleting_a_stale_row_revokes_the_token_that_is_stored(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    flows.refresh(ConnectedAccount.objects.get())
    account.delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_deleted_account_whose_grant_had_ended_before_is_silent(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    flows.disconnect(account)
    sent.clear()
    account.delete()
    assert sent == []
    assert len(revoked(ilert)) == 1


def test_a_site_may_keep_grants_when_rows_are_deleted(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_REVOKE_ON_DELETE = False
    account.delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 1
