from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory

pytestmark = pytest.mark.django_db(transaction=True)


def revoked(ilert: StandIn) -> list[str]:
    return [r.form["token"] for r in ilert.requests if r.path.endswith("/revoke")]


def forget_the_outage() -> None:
    PendingRevocation.objects.update(last_error_at=timezone.now() - timedelta(hours=1))


def test_disconnecting_ends_the_grant_at_ilert(account: ConnectedAccount, ilert: StandIn) -> None:
    refresh_token = str(account.refresh_token)
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


def test_what_another_process_renewed_is_what_is_revoked(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    flows.refresh(ConnectedAccount.objects.get())
    flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(status=500), Fault(status=429)])
def test_while_ilert_is_down_the_revocation_waits_for_the_next_run(
    account: ConnectedAccount, ilert: StandIn, fault: Fault
) -> None:
    ilert.add_fault("revoke", fault)
    flows.disconnect(account)
    assert account.status == Status.DISCONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert flows.revoke_pending() == flows.RevocationResult(revoked=1, left=0)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_run_stops_at_the_first_sign_that_ilert_is_down(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=500), times=2)
    for name in ("grace", "ada", "linus"):
        flows.disconnect(make_account(username=name))
    before = len(revoked(ilert))
    assert flows.revoke_pending() == flows.RevocationResult(revoked=0, left=3)
    assert len(revoked(ilert)) == before + 1


def test_of_many_deleted_at_once_most_are_left_to_the_next_run(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    for number in range(50):
        make_account(username=f"user-{number}")
    ConnectedAccount.objects.all().delete()
    assert len(revoked(ilert)) == 20
    assert flows.revoke_pending(per_minute=0) == flows.RevocationResult(revoked=30, left=0)


def test_a_disconnection_ends_the_lease_of_a_refresh_under_way(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(lease_id="held", lease_ends_ms=2**53)
    flows.disconnect(account)
    assert ConnectedAccount.objects.values_list("lease_id", "lease_ends_ms").get() == ("", 0)


def test_a_run_ends_as_many_grants_as_it_is_told_to_the_oldest_first(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=500))
    for name in ("grace", "ada", "linus"):
        make_account(username=name)
    ConnectedAccount.objects.order_by("pk").delete()
    oldest = PendingRevocation.objects.order_by("pk")[:2]
    names = [pending.username for pending in oldest]
    assert flows.revoke_pending(limit=2) == flows.RevocationResult(revoked=2, left=1)
    assert [ilert.live_refresh_tokens("acme", name) for name in names] == [0, 0]


def test_a_run_ends_grants_no_faster_than_its_pace(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=500))
    for name in ("grace", "ada", "linus"):
        make_account(username=name)
    ConnectedAccount.objects.all().delete()
    started = time.monotonic()
    assert flows.revoke_pending(per_minute=300).revoked == 3
    assert time.monotonic() - started >= 0.4


def test_a_dead_ilert_is_not_waited_for_again_within_a_minute(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=500))
    for name in ("grace", "ada", "linus"):
        make_account(username=name)
    ConnectedAccount.objects.all().delete()
    assert len(revoked(ilert)) == 1
    assert PendingRevocation.objects.count() == 3
    assert flows.revoke_pending() == flows.RevocationResult(revoked=3, left=0)


def test_after_the_outage_revocations_go_out_at_once_again(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=500))
    flows.disconnect(make_account())
    forget_the_outage()
    flows.disconnect(make_account(username="ada"))
    assert ilert.live_refresh_tokens("acme", "ada") == 0


def test_a_token_that_ilert_refuses_to_revoke_is_done_with(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(status=400, body='{"code": "invalid_request"}'))
    flows.disconnect(account)
    assert not PendingRevocation.objects.exists()


def test_an_account_whose_key_is_lost_can_be_disconnected(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = ["n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="]
    flows.disconnect(account)
    assert account.status == Status.DISCONNECTED
    assert flows.revoke_pending() == flows.RevocationResult(revoked=0, left=1)
    assert PendingRevocation.objects.get().last_error == "token_unreadable"


def test_a_revocation_goes_to_the_ilert_that_issued_the_token(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = "https://other-ilert.invalid"
    flows.disconnect(account)
    assert len(revoked(ilert)) == 1


def test_an_account_without_refresh_token_has_nothing_to_revoke(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    flows.disconnect(make_account(refresh_token=""))
    assert revoked(ilert) == []


def test_a_pending_revocation_holds_only_ciphertext(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    refresh_token = str(account.refresh_token)
    ilert.add_fault("revoke", Fault(status=500))
    flows.disconnect(account)
    pending = PendingRevocation.objects.get()
    assert pending.refresh_token == refresh_token
    assert refresh_token not in str(PendingRevocation.objects.values().get())
    assert str(pending) == "grace @ acme"


@pytest.mark.parametrize("what", ["row", "queryset", "user"])
def test_deleting_ends_the_grant(
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
    assert flows.revoke_pending() == flows.RevocationResult(revoked=1, left=0)


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
