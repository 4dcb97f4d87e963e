from __future__ import annotations

import json
from copy import copy
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth import client
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import stored_tokens

pytestmark = pytest.mark.django_db(transaction=True)

#: Names that come with a token that is not active are nobody's.
INACTIVE = Fault(status=200, body='{"active": false, "tenant_id": "evil", "username": "mallory"}')


def named(tenant: str = "acme", username: str = "grace", scope: str = "profile source:w") -> Fault:
    info = {"active": True, "tenant_id": tenant, "username": username, "scope": scope}
    return Fault(status=200, body=json.dumps(info))


def row() -> dict[str, Any]:
    return dict(ConnectedAccount.objects.values().get())


def test_a_check_asks_with_the_access_token_only_and_stores_the_scope_that_ilert_names(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ConnectedAccount.objects.update(granted_scope="wildcard:d")
    flows.check(account)
    assert account.granted_scope == row()["granted_scope"] == "profile source:w"
    [request] = ilert.requests
    assert request.path.endswith("/token_info")
    assert request.form == {"token": account.access_token.reveal()}


def test_a_check_that_finds_nothing_new_writes_nothing(account: ConnectedAccount) -> None:
    before = row()
    flows.check(account)
    assert row() == before


def test_a_response_without_scope_changes_nothing(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token_info", named(scope=""))
    flows.check(account)
    assert row()["granted_scope"] == "profile source:w"


# A new name


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (named(username="hopper"), "hopper @ acme"),
        (named(tenant="globex"), "grace @ globex"),
        (named(tenant="globex", username="hopper", scope="source"), "hopper @ globex"),
    ],
)
def test_a_new_name_is_stored_and_the_tokens_can_be_read_under_it(
    account: ConnectedAccount, ilert: StandIn, fault: Fault, name: str
) -> None:
    before = stored_tokens(account)
    ilert.add_fault("token_info", fault)
    flows.check(account)
    assert str(account) == str(ConnectedAccount.objects.get()) == name
    assert stored_tokens(account) == before


def test_who_read_the_account_before_it_was_renamed_can_go_on(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    earlier = copy(expired_account)
    ilert.add_fault("token_info", named(username="hopper"))
    flows.check(expired_account)
    flows.refresh(earlier, force=True)
    assert str(earlier) == "hopper @ acme"
    assert earlier.access_token == stored_tokens(earlier)[0]


def test_a_new_name_that_another_account_of_the_user_has_is_refused(
    account: ConnectedAccount, make_account: AccountFactory, ilert: StandIn
) -> None:
    other = make_account(username="hopper")
    before = stored_tokens(account), stored_tokens(other)
    ilert.add_fault("token_info", named(username="hopper"))
    with pytest.raises(IlertRejectedError) as caught:
        flows.check(account)
    assert caught.value.code == "identity_taken"
    assert (stored_tokens(account), stored_tokens(other)) == before
    stored = ConnectedAccount.objects.get(pk=account.pk)
    assert (str(stored), stored.status) == ("grace @ acme", Status.CONNECTED)
    assert (stored.last_error, stored.last_error_at) == ("identity_taken", account.last_error_at)
    assert account.last_error_at is not None


@pytest.mark.parametrize(("noted", "kept"), [("identity_taken", ""), ("timeout", "timeout")])
def test_a_check_takes_back_what_only_a_check_had_noted(
    make_account: AccountFactory, noted: str, kept: str
) -> None:
    account = make_account(last_error=noted, last_error_at=timezone.now())
    flows.check(account)
    for each in (account, ConnectedAccount.objects.get()):
        assert (each.last_error, each.last_error_at is not None) == (kept, bool(kept))


def test_another_user_may_have_an_account_of_the_same_name(
    account: ConnectedAccount, make_account: AccountFactory, ilert: StandIn
) -> None:
    make_account(username="hopper", user=User.objects.create_user("other"))
    ilert.add_fault("token_info", named(username="hopper"))
    flows.check(account)
    assert ConnectedAccount.objects.filter(username="hopper").count() == 2


def test_a_token_that_cannot_be_read_is_told_and_nothing_is_stored(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ConnectedAccount.objects.update(access_token_ciphertext="broken")
    before = row()
    with pytest.raises(TokenDecryptionError):
        flows.check(account)
    assert row() == before
    assert ilert.requests == []


def test_a_rollback_undoes_a_new_name_and_costs_no_token(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    before = stored_tokens(account)
    ilert.add_fault("token_info", named(username="hopper"))
    with transaction.atomic():
        flows.check(account)
        transaction.set_rollback(True)
    assert str(ConnectedAccount.objects.get()) == "grace @ acme"
    assert stored_tokens(account) == before


# Beside others


def test_a_refresh_in_between_loses_nothing(
    account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    ilert.options.rotate = True
    ilert.add_fault("token_info", named(username="hopper"), times=2)

    def refresh() -> None:
        flows.refresh(ConnectedAccount.objects.get(), force=True)
        newest.append(stored_tokens(account))

    newest: list[tuple[str, str]] = []
    during_request(after=refresh)
    flows.check(account)
    assert stored_tokens(account) == newest[0]
    assert str(ConnectedAccount.objects.get()) == "hopper @ acme"


def test_a_refresh_under_way_is_not_in_the_way(
    expired_account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    """What the check has found is kept, and so are the tokens."""

    def check_meanwhile() -> None:
        row = ConnectedAccount.objects.get()
        row.access_token_expires_at = timezone.now() + timedelta(minutes=1)
        row.save()
        flows.check(row)

    ilert.options.rotate = True
    ilert.add_fault("token_info", named(username="hopper"))
    during_request(before=check_meanwhile)
    token = flows.get_access_token(expired_account)
    assert token == stored_tokens(expired_account)[0]
    assert str(ConnectedAccount.objects.get()) == "hopper @ acme"


def test_an_account_that_keeps_changing_is_given_up_for_now(
    account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    def refresh() -> None:
        flows.refresh(ConnectedAccount.objects.get(), force=True)

    during_request(after=refresh, path=client.TOKEN_INFO_PATH, every_time=True)
    ilert.add_fault("token_info", named(username="hopper"), times=None)
    with pytest.raises(IlertUnavailableError) as caught:
        flows.check(account)
    assert caught.value.code == "busy"
    assert str(ConnectedAccount.objects.get()) == "grace @ acme"
    assert len(ilert.token_requests) == 3


def test_an_account_that_is_disconnected_meanwhile_stays_so(
    account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    during_request(after=lambda: flows.disconnect(ConnectedAccount.objects.get()))
    ilert.add_fault("token_info", named(username="hopper"))
    with pytest.raises(ReconnectRequiredError):
        flows.check(account)
    stored = ConnectedAccount.objects.get()
    assert (str(stored), stored.status) == ("grace @ acme", Status.DISCONNECTED)
    assert stored.access_token_ciphertext == stored.refresh_token_ciphertext == ""


@pytest.mark.parametrize("status", [Status.RECONNECT_REQUIRED, Status.DISCONNECTED])
def test_an_account_that_is_not_connected_is_not_asked_about(
    account: ConnectedAccount, ilert: StandIn, status: Status
) -> None:
    ConnectedAccount.objects.update(status=status)
    with pytest.raises(ReconnectRequiredError):
        flows.check(account)
    assert ilert.requests == []


# Tokens that are not good any more


def test_a_token_that_has_expired_is_refreshed_first(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.check(expired_account)
    paths = [made.path.rpartition("/")[2] for made in ilert.requests]
    assert paths == ["token", "token_info"]


def test_an_inactive_token_is_refreshed(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.expire_access_tokens()
    flows.check(account)
    assert len(ilert.token_requests) == 1
    assert account.status == Status.CONNECTED


def test_a_check_notices_a_revoked_grant_once_the_token_is_dead(
    account: ConnectedAccount, ilert: StandIn, sent: list[tuple[str, dict[str, Any]]]
) -> None:
    ilert.revoke_app("acme", "grace")
    flows.check(account)
    assert sent == []
    ilert.expire_access_tokens()
    with pytest.raises(ReconnectRequiredError):
        flows.check(account)
    assert ConnectedAccount.objects.get().needs_reconnect
    assert [name for name, _ in sent] == ["account_revoked"]


def test_a_token_that_stays_inactive_is_told(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.add_fault("token_info", INACTIVE, times=2)
    with pytest.raises(IlertRejectedError) as caught:
        flows.check(account)
    assert caught.value.code == "inactive_token"
    stored = ConnectedAccount.objects.get()
    assert (stored.last_error, stored.status) == ("inactive_token", Status.CONNECTED)
    assert str(stored) == "grace @ acme"


def test_an_account_that_has_changed_meanwhile_is_not_called_inactive(
    account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    def refresh() -> None:
        flows.refresh(ConnectedAccount.objects.get(), force=True)

    during_request(after=refresh, path=client.TOKEN_INFO_PATH, every_time=True)
    ilert.add_fault("token_info", INACTIVE, times=2)
    with pytest.raises(IlertRejectedError):
        flows.check(account)
    assert row()["last_error"] == ""


def test_an_inactive_token_is_not_refreshed_more_often_than_ilert_allows(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(refreshed_at=timezone.now() - timedelta(minutes=4))
    ilert.add_fault("token_info", INACTIVE, times=2)
    with pytest.raises(IlertRejectedError):
        flows.check(account)
    assert ilert.token_requests == []


@pytest.mark.parametrize(
    "fault", [Fault(503), Fault(429), Fault(drop=True), Fault(200, "{}"), Fault(400, '{"code": 1}')]
)
def test_any_failure_leaves_the_account_as_it_was(
    account: ConnectedAccount, ilert: StandIn, fault: Fault
) -> None:
    before = row()
    ilert.add_fault("token_info", fault)
    with pytest.raises(IlertOAuthError):
        flows.check(account)
    assert row() == before
