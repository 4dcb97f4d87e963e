from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    EndpointMismatchError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
    TokenDecryptionError,
)
from django_ilert_oauth.flows._refresh import refresh_refused
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth.responses import MAX_LIFETIME
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_refreshed
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import receiving, stored, stored_tokens

pytestmark = pytest.mark.django_db(transaction=True)


def response(**body: Any) -> Fault:
    return Fault(status=200, body=json.dumps({"access_token": "new-access", **body}))


def test_a_fresh_token_costs_no_query_and_no_request(
    account: ConnectedAccount, ilert: StandIn, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        token = flows.get_access_token(account)
    assert token == account.access_token
    assert ilert.requests == []


def test_an_expired_token_is_refreshed_by_what_ilert_wants_and_a_signal_is_sent(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    before, refresh_token = stored_tokens(expired_account)
    token = flows.get_access_token(expired_account)
    assert before != token == stored_tokens(expired_account)[0]
    [request] = ilert.token_requests
    assert request.form == {
        "client_id": "the-client",
        "client_secret": "the-client-secret",
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
    }
    assert sent == [("account_refreshed", {"account": expired_account})]
    assert expired_account.refreshed_at is not None


@pytest.mark.parametrize(
    ("left", "margin", "asked"),
    [
        (timedelta(minutes=1), None, 1),
        (timedelta(minutes=3), None, 0),
        (timedelta(minutes=3), timedelta(minutes=5), 1),
        (timedelta(minutes=1), timedelta(0), 0),
        (None, None, 1),
    ],
)
def test_the_margin_decides_what_is_fresh_and_an_unknown_expiry_is_not(
    make_account: AccountFactory,
    ilert: StandIn,
    left: timedelta | None,
    margin: timedelta | None,
    asked: int,
) -> None:
    account = make_account(access_token_expires_at=left and timezone.now() + left)
    flows.get_access_token(account, margin=margin)
    assert len(ilert.token_requests) == asked


def test_what_another_process_refreshed_is_used_without_a_request(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    other = ConnectedAccount.objects.get()
    flows.refresh(other)
    assert flows.get_access_token(expired_account) == other.access_token
    assert len(ilert.token_requests) == 1


def test_a_token_is_not_refreshed_twice_within_the_five_minutes_of_the_setting(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    flows.refresh(account)
    flows.refresh(account)
    assert len(ilert.token_requests) == 1
    flows.refresh(account, force=True)
    assert len(ilert.token_requests) == 2
    settings.ILERT_OAUTH_MIN_REFRESH_INTERVAL = timedelta(0)
    flows.refresh(account)
    assert len(ilert.token_requests) == 3


def test_an_object_that_remembers_a_refresh_takes_the_token_that_was_stored_since(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.refresh(account)
    stale = ConnectedAccount.objects.get()
    flows.refresh(account, force=True)
    stale.access_token_expires_at = timezone.now() - timedelta(seconds=1)
    assert flows.get_access_token(stale) == account.access_token
    assert len(ilert.token_requests) == 2


def test_receivers_get_the_callers_own_object_with_the_new_token(
    expired_account: ConnectedAccount,
) -> None:
    seen: list[tuple[bool, bool]] = []

    def note(account: ConnectedAccount, **kwargs: Any) -> None:
        seen.append((account is expired_account, expired_account.is_fresh()))

    with receiving(account_refreshed, note):
        flows.refresh(expired_account)
    assert seen == [(True, True)]


def test_a_token_that_expires_too_soon_to_refresh_is_returned_as_it_is(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", response(expires_in=0))
    assert flows.get_access_token(expired_account) == "new-access"
    assert flows.get_access_token(expired_account) == "new-access"
    assert len(ilert.token_requests) == 1


def test_a_response_without_refresh_token_keeps_the_old_and_its_end(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(refresh_token_expires_at=timezone.now() + timedelta(days=100))
    names = ("refresh_token_ciphertext", "refresh_token_expires_at")
    kept = stored(account, *names)
    ilert.add_fault("token", response(refresh_token_expires_in=5, refresh_token=None))
    flows.refresh(account)
    assert stored(account, *names) == kept


@pytest.mark.parametrize(("expires_in", "seconds"), [(None, None), (10**30, MAX_LIFETIME)])
def test_odd_lifetimes_never_raise(
    account: ConnectedAccount, ilert: StandIn, expires_in: Any, seconds: int | None
) -> None:
    ilert.add_fault("token", response(expires_in=expires_in))
    flows.refresh(account)
    expires_at = stored(account)["access_token_expires_at"]
    left = expires_at and (expires_at - timezone.now()).total_seconds()
    assert left == (seconds if seconds is None else pytest.approx(seconds, abs=5))


def test_the_scope_of_the_response_counts_and_an_absent_one_changes_nothing(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    for scope in ({"scope": "profile"}, {}):
        ilert.add_fault("token", response(**scope))
        flows.refresh(account, force=True)
        assert ConnectedAccount.objects.get().granted_scope == "profile"


def test_invalid_grant_ends_the_grant_once(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.revoke_app("acme", "grace")
    for use in (flows.refresh, flows.refresh, flows.get_access_token):
        with pytest.raises(ReconnectRequiredError):
            use(account)
    assert len(ilert.token_requests) == 1
    [(name, facts)] = sent
    assert (name, facts["reason"]) == ("account_revoked", Reason.REVOKED_AT_ILERT)
    account = ConnectedAccount.objects.get()
    assert (account.status, account.reason) == (Status.RECONNECT_REQUIRED, Reason.REVOKED_AT_ILERT)
    assert account.needs_reconnect
    assert account.refresh_token


def test_a_grant_past_its_end_is_called_expired(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(refresh_token_expires_at=timezone.now() - timedelta(days=1))
    ilert.revoke_app("acme", "grace")
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account)
    assert ConnectedAccount.objects.get().reason == Reason.EXPIRED


def test_ilert_being_down_is_told_once_the_token_has_expired(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(access_token_expires_at=timezone.now() + timedelta(minutes=1))
    ilert.add_fault("token", Fault(status=503, headers={"Retry-After": "7"}), times=2)
    assert flows.get_access_token(account) == account.access_token
    account.access_token_expires_at = timezone.now() - timedelta(seconds=1)
    account.save()
    with pytest.raises(IlertUnavailableError) as caught:
        flows.get_access_token(account)
    assert caught.value.retry_after == 7


def store_newer_tokens() -> None:
    newer = ConnectedAccount.objects.get()
    newer.access_token, newer.refresh_token = "newer-access", "newer-refresh"
    newer.access_token_expires_at = timezone.now() + timedelta(hours=1)
    newer.save()


def test_an_account_that_was_deleted_has_no_token_however_good_it_still_is(
    make_account: AccountFactory,
) -> None:
    account = make_account(access_token_expires_at=timezone.now() + timedelta(minutes=1))
    ConnectedAccount.objects.get().delete()
    with pytest.raises(ReconnectRequiredError):
        flows.get_access_token(account)


@pytest.mark.parametrize("name", ["access_token_ciphertext", "access_token_expires_at"])
def test_an_object_with_some_columns_only_gets_the_others_of_the_same_token(
    expired_account: ConnectedAccount, name: str
) -> None:
    account = ConnectedAccount.objects.only(name).get()
    flows.refresh(expired_account)
    assert flows.get_access_token(account) == expired_account.access_token


def test_a_refresh_leaves_no_column_to_be_read_later(account: ConnectedAccount) -> None:
    some = ConnectedAccount.objects.only("username").get()
    flows.refresh(some)
    assert "status" not in some.get_deferred_fields()


def test_a_late_response_does_not_overwrite_newer_tokens(
    expired_account: ConnectedAccount, sent: list[Any], during_request: Any
) -> None:
    during_request(after=store_newer_tokens)
    assert flows.get_access_token(expired_account) == "newer-access"
    row = ConnectedAccount.objects.get()
    assert row.refresh_token == "newer-refresh"
    assert row.lease_id == ""
    assert sent == []


def disconnect() -> None:
    ended = {"access_token_ciphertext": "", "refresh_token_ciphertext": ""}
    ConnectedAccount.objects.update(status=Status.DISCONNECTED, **ended)


def delete() -> None:
    ConnectedAccount.objects.all()._raw_delete("default")


@pytest.mark.parametrize("end", [disconnect, delete])
def test_what_ilert_gives_to_an_account_that_has_ended_meanwhile_is_revoked(
    expired_account: ConnectedAccount, ilert: StandIn, during_request: Any, end: Callable[[], None]
) -> None:
    ilert.options.rotate = True
    during_request(after=end)
    with pytest.raises(ReconnectRequiredError):
        flows.get_access_token(expired_account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert not ConnectedAccount.objects.exclude(refresh_token_ciphertext="").exists()


def test_the_grant_that_a_reconnect_has_replaced_meanwhile_is_ended_though_it_was_just_refreshed(
    expired_account: ConnectedAccount, ilert: StandIn, during_request: Any
) -> None:
    def reconnect() -> None:
        row = ConnectedAccount.objects.get()
        tokens: Any = ilert.issue_tokens("acme", "grace", "profile")
        row.access_token, row.refresh_token = tokens["access_token"], tokens["refresh_token"]
        row.access_token_expires_at = timezone.now() + timedelta(hours=1)
        row.connected_at, row.lease_ends_ms = timezone.now(), 0
        row.save()

    ilert.options.rotate = True
    during_request(after=reconnect)
    assert flows.get_access_token(expired_account) == ConnectedAccount.objects.get().access_token
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert flows.refresh(expired_account, force=True).status == Status.CONNECTED


@pytest.mark.parametrize("name", ["API_URL", "CLIENT_ID"])
def test_the_tokens_of_another_ilert_or_client_go_nowhere(
    account: ConnectedAccount, ilert: StandIn, settings: Any, name: str
) -> None:
    setattr(settings, f"ILERT_OAUTH_{name}", "http://localhost/another")
    for use in (flows.get_access_token, flows.refresh, flows.check):
        with pytest.raises(EndpointMismatchError):
            use(account)
    assert ilert.requests == []


@pytest.mark.parametrize(("refused", "asked"), [(True, 1), (False, 0)])
def test_after_a_401_ilert_is_asked_unless_another_token_is_stored(
    account: ConnectedAccount, ilert: StandIn, refused: bool, asked: int
) -> None:
    ConnectedAccount.objects.update(refreshed_at=timezone.now())
    token = account.access_token if refused else Secret("older")
    assert refresh_refused(account, token).access_token != token
    assert len(ilert.token_requests) == asked


def test_an_unreadable_token_is_told_and_kept(account: ConnectedAccount, ilert: StandIn) -> None:
    ConnectedAccount.objects.update(refresh_token_ciphertext="gAAAA-of-a-lost-key")
    before = stored(account)
    with pytest.raises(TokenDecryptionError):
        flows.refresh(account)
    assert stored(account) == before
    assert ilert.token_requests == []
    assert ConnectedAccount.objects.get().last_error == "token_unreadable"


def test_a_grant_without_refresh_token_ends_with_its_access_token(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(refresh_token="")
    with pytest.raises(IlertRejectedError) as caught:
        flows.refresh(account)
    assert caught.value.code == "no_refresh_token"
    assert flows.get_access_token(account, margin=timedelta(hours=2)) == account.access_token
    ConnectedAccount.objects.update(access_token_expires_at=timezone.now() - timedelta(seconds=1))
    account.refresh_from_db()
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account)
    assert ConnectedAccount.objects.get().reason == Reason.EXPIRED
    assert ilert.token_requests == []


def test_a_token_with_neither_expiry_nor_refresh_token_is_used_until_a_401(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(access_token_expires_at=None, refresh_token="")
    token = Secret(flows.get_access_token(account, margin=timedelta(hours=2)))
    assert not ConnectedAccount.objects.expiring(within=timedelta(hours=2)).exists()
    with pytest.raises(IlertRejectedError, match="no refresh token"):
        flows.refresh(account)
    assert flows.get_access_token(ConnectedAccount.objects.get()) == token
    with pytest.raises(ReconnectRequiredError):
        refresh_refused(account, token)
    ended = ConnectedAccount.objects.get()
    assert (ended.status, ended.reason) == (Status.RECONNECT_REQUIRED, Reason.EXPIRED)
    assert ilert.token_requests == []


def test_a_401_says_nothing_of_a_token_without_expiry_that_was_stored_since(
    make_account: AccountFactory,
) -> None:
    account = make_account(access_token_expires_at=None, refresh_token="")
    assert refresh_refused(account, Secret("an earlier one")).is_fresh()
    assert ConnectedAccount.objects.get().status == Status.CONNECTED


def test_a_receiver_that_raises_loses_nothing(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("a receiver of the site")

    with receiving(account_refreshed, fail):
        flows.refresh(account)
    assert "a receiver of the site" in caplog.text
    assert ConnectedAccount.objects.get().refreshed_at is not None


def test_columns_that_the_caller_changed_are_left_to_the_caller(
    account: ConnectedAccount, user: User
) -> None:
    account.display_name = "not saved"
    flows.refresh(account)
    assert account.display_name == "not saved"
    assert ConnectedAccount.objects.get().display_name == ""
