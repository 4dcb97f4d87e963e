from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, transaction
from django.db.models.signals import pre_delete
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.flows._disconnect import end_grant_of_deleted
from django_ilert_oauth.flows._transactions import MAX_ATTEMPTS
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import beside, revocations_sent, stored, without_autocommit
from tests.support.statements import before_statements, failing_statements

pytestmark = pytest.mark.django_db(transaction=True)


def refresh_beside() -> None:
    beside(lambda: flows.refresh(ConnectedAccount.objects.get(), force=True))


def test_disconnecting_revokes_the_grant_at_ilert_and_wipes_both_tokens(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(
        refresh_token_expires_at=timezone.now(), lease_id="held", lease_ends_ms=2**53
    )
    refresh_token = account.refresh_token.reveal()
    flows.disconnect(account)
    assert revocations_sent(ilert) == [refresh_token]
    assert not PendingRevocation.objects.exists()
    for row in (account, ConnectedAccount.objects.get()):
        assert (row.status, row.reason) == (Status.DISCONNECTED, Reason.USER)
        assert row.access_token_ciphertext == row.refresh_token_ciphertext == ""
        assert (row.access_token_expires_at, row.refresh_token_expires_at) == (None, None)
    assert (row.lease_id, row.lease_ends_ms) == ("", 0)
    with pytest.raises(ReconnectRequiredError):
        flows.get_access_token(account)


def test_while_ilert_is_down_the_revocation_waits_for_the_next_run_and_knows_when_the_grant_ends(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ends_at = timezone.now() + timedelta(days=300)
    account = make_account(refresh_token_expires_at=ends_at)
    ilert.add_fault("revoke", Fault(status=500))
    flows.disconnect(account)
    assert account.status == Status.DISCONNECTED
    pending = PendingRevocation.objects.get()
    assert (pending.grant_ends_at, pending.account_uuid) == (ends_at, account.uuid)
    assert flows.revoke_pending() == flows.RevocationResult(revoked=1)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_disconnecting_sends_one_signal_however_often_it_is_done(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    stale = ConnectedAccount.objects.get()
    flows.disconnect(account, reason=Reason.ADMIN)
    flows.disconnect(account)
    flows.disconnect(stale)
    facts = {"account": account, "reason": Reason.ADMIN, "request": None}
    assert sent == [("account_revoked", facts)]
    account.delete()
    assert (len(sent), len(revocations_sent(ilert))) == (1, 1)


def test_a_caller_that_commits_by_hand_is_sent_the_signal_at_once(
    account: ConnectedAccount, sent: list[Any]
) -> None:
    with without_autocommit():
        flows.disconnect(account)
        assert [name for name, _ in sent] == ["account_revoked"]


def test_for_a_caller_that_commits_by_hand_nothing_is_repeated(account: ConnectedAccount) -> None:
    """What failed may have rolled back what the caller had not committed."""
    fails_once = failing_statements("UPDATE", error=OperationalError, times=1)
    with without_autocommit(), fails_once, pytest.raises(OperationalError):
        flows.disconnect(account)


def test_a_row_with_the_same_key_that_is_another_account_is_not_touched(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    other = ConnectedAccount(pk=account.pk, user=account.user, uuid=uuid.uuid4())
    flows.disconnect(other)
    with transaction.atomic():
        end_grant_of_deleted(other)
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert (revocations_sent(ilert), sent) == ([], [])


# What is stored at that moment


@pytest.mark.parametrize("end", [flows.disconnect, ConnectedAccount.delete])
def test_what_another_process_refreshed_is_what_is_revoked(
    account: ConnectedAccount, ilert: StandIn, end: Callable[[ConnectedAccount], object]
) -> None:
    ilert.options.rotate = True
    flows.refresh(ConnectedAccount.objects.get())
    end(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_refresh_that_lands_in_between_is_revoked_too(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    with before_statements(refresh_beside, "UPDATE"):
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
    is_locked, goes_on = threading.Event(), threading.Event()

    def change_and_hold() -> None:
        with transaction.atomic():
            ConnectedAccount.objects.update(display_name="Grace")
            is_locked.set()
            goes_on.wait(0.3)

    with before_statements(is_locked.wait, "UPDATE"):
        holder = threading.Thread(target=lambda: beside(change_and_hold))
        holder.start()
        flows.disconnect(account)
    holder.join()
    assert ConnectedAccount.objects.get().status == Status.DISCONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 0


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("is_committed", [True, False])
def test_a_row_that_changed_since_the_snapshot_of_the_caller_is_disconnected_with_its_commit_only(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any], is_committed: bool
) -> None:
    ilert.options.rotate = True
    with transaction.atomic():
        ConnectedAccount.objects.get()
        refresh_beside()
        sent.clear()
        flows.disconnect(account)
        assert (account.status, account.refresh_token_ciphertext) == (Status.DISCONNECTED, "")
        assert revocations_sent(ilert) == []
        transaction.set_rollback(not is_committed)
    row = ConnectedAccount.objects.get()
    assert (row.status == Status.DISCONNECTED) == (not row.refresh_token) == is_committed
    assert ilert.live_refresh_tokens("acme", "grace") == (not is_committed)
    assert [name for name, _facts in sent] == ["account_revoked"] * is_committed


def test_a_database_that_keeps_failing_is_not_tried_for_ever(account: ConnectedAccount) -> None:
    failing = partial(failing_statements, "UPDATE", error=OperationalError)
    with failing(times=MAX_ATTEMPTS), pytest.raises(OperationalError):
        flows.disconnect(account)
    assert stored(account, "status") == {"status": Status.CONNECTED}
    with failing(times=MAX_ATTEMPTS - 1):
        flows.disconnect(account)
    assert stored(account, "status") == {"status": Status.DISCONNECTED}


def test_an_account_without_refresh_token_has_nothing_to_revoke(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    flows.disconnect(make_account(refresh_token=""))
    assert revocations_sent(ilert) == []


def test_a_transaction_that_is_lost_is_not_hidden(account: ConnectedAccount) -> None:
    lost = failing_statements("ROLLBACK TO SAVEPOINT", error=OperationalError)
    failing = failing_statements("UPDATE", error=OperationalError)
    with pytest.raises(OperationalError), transaction.atomic(), lost, failing:
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
    assert revocations_sent(ilert) == sent == []
    assert not PendingRevocation.objects.exists()


def test_ilert_being_down_never_blocks_a_delete(user: User, make_account: AccountFactory) -> None:
    make_account(api_url="http://127.0.0.1:1")
    user.delete()
    assert not ConnectedAccount.objects.exists()
    assert PendingRevocation.objects.exists()


def test_a_site_may_keep_grants_when_rows_are_deleted(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_REVOKE_ON_DELETE = False
    account.delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 1


class OurAccount(ConnectedAccount):
    """As a site has for methods of its own."""

    class Meta:
        proxy = True
        app_label = "site"


@pytest.mark.parametrize(
    "delete",
    [lambda: OurAccount.objects.get().delete(), lambda: OurAccount.objects.all().delete()],
    ids=["one", "all"],
)
def test_deleting_by_a_proxy_revokes_the_grant(
    account: ConnectedAccount, ilert: StandIn, delete: Callable[[], object]
) -> None:
    delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_deleting_a_copy_in_another_database_leaves_the_grant_alone(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    """Such as what was left in the database that a site has moved from."""
    pre_delete.send(ConnectedAccount, instance=account, using="the former one", origin=account)
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert not PendingRevocation.objects.exists()
    assert sent == []


def test_deleting_revokes_what_a_row_holds_whatever_status_the_site_has_set(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ConnectedAccount.objects.update(status=Status.DISCONNECTED)
    ConnectedAccount.objects.get().delete()
    assert ilert.live_refresh_tokens("acme", "grace") == 0
