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
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_refreshed
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import Acting, stored

pytestmark = pytest.mark.django_db(transaction=True)


def answer(**body: Any) -> Fault:
    return Fault(status=200, body=json.dumps({"access_token": "new-access", **body}))


def test_a_fresh_token_costs_no_query_and_no_request(
    account: ConnectedAccount, ilert: StandIn, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        token = flows.get_access_token(account)
    assert token == account.access_token
    assert ilert.requests == []


def test_an_expired_token_is_refreshed(expired_account: ConnectedAccount, ilert: StandIn) -> None:
    old = expired_account.access_token
    token = flows.get_access_token(expired_account)
    assert token != old
    assert ConnectedAccount.objects.get().access_token == token
    assert len(ilert.token_requests) == 1


def test_a_refresh_sends_what_ilert_wants(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    sent = expired_account.refresh_token.reveal()
    flows.refresh(expired_account)
    assert ilert.token_requests[0].form == {
        "client_id": "the-client",
        "client_secret": "the-client-secret",
        "grant_type": "refresh_token",
        "refresh_token": sent,
    }


@pytest.mark.parametrize(
    ("left", "margin", "asked"),
    [
        (timedelta(minutes=1), None, 1),
        (timedelta(minutes=3), None, 0),
        (timedelta(minutes=3), timedelta(minutes=5), 1),
        (timedelta(minutes=1), timedelta(0), 0),
    ],
)
def test_the_margin_decides_what_is_fresh(
    make_account: AccountFactory,
    ilert: StandIn,
    left: timedelta,
    margin: timedelta | None,
    asked: int,
) -> None:
    account = make_account(access_token_expires_at=timezone.now() + left)
    flows.get_access_token(account, margin=margin)
    assert len(ilert.token_requests) == asked


def test_a_token_of_unknown_expiry_is_refreshed_when_asked_for(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    flows.get_access_token(make_account(access_token_expires_at=None))
    assert len(ilert.token_requests) == 1


def test_what_another_process_refreshed_is_used_without_a_request(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    other = ConnectedAccount.objects.get()
    flows.refresh(other)
    assert flows.get_access_token(expired_account) == other.access_token
    assert len(ilert.token_requests) == 1


def test_a_token_is_not_refreshed_twice_within_five_minutes(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.refresh(account)
    flows.refresh(account)
    assert len(ilert.token_requests) == 1
    flows.refresh(account, force=True)
    assert len(ilert.token_requests) == 2


def test_the_setting_moves_the_five_minutes(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_MIN_REFRESH_INTERVAL = timedelta(0)
    flows.refresh(account)
    flows.refresh(account)
    assert len(ilert.token_requests) == 2


def test_an_object_that_remembers_a_refresh_takes_the_token_that_was_stored_since(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.refresh(account)
    stale = ConnectedAccount.objects.get()
    flows.refresh(account, force=True)
    stale.access_token_expires_at = timezone.now()
    assert flows.get_access_token(stale) == account.access_token
    assert len(ilert.token_requests) == 2


def test_receivers_get_the_callers_own_object_with_the_new_token(
    expired_account: ConnectedAccount,
) -> None:
    seen: list[tuple[bool, bool]] = []

    def note(account: ConnectedAccount, **kwargs: Any) -> None:
        seen.append((account is expired_account, expired_account.is_fresh()))

    account_refreshed.connect(note)
    try:
        flows.refresh(expired_account)
    finally:
        account_refreshed.disconnect(note)
    assert seen == [(True, True)]


def test_a_token_that_expires_too_soon_to_refresh_is_returned_as_it_is(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", answer(expires_in=0))
    assert flows.get_access_token(expired_account) == "new-access"
    assert flows.get_access_token(expired_account) == "new-access"
    assert len(ilert.token_requests) == 1


def test_a_rotated_refresh_token_replaces_the_old(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    old = account.refresh_token
    flows.refresh(account)
    flows.refresh(account, force=True)
    assert ConnectedAccount.objects.get().refresh_token != old


@pytest.mark.parametrize("absent", [{}, {"refresh_token": None}, {"refresh_token": ""}])
def test_an_answer_without_refresh_token_keeps_the_old_and_its_end(
    make_account: AccountFactory, ilert: StandIn, absent: dict[str, Any]
) -> None:
    ends_at = timezone.now() + timedelta(days=100)
    account = make_account(refresh_token_expires_at=ends_at)
    kept = stored(account)["refresh_token_ciphertext"]
    ilert.add_fault("token", answer(refresh_token_expires_in=5, **absent))
    flows.refresh(account)
    assert stored(account)["refresh_token_ciphertext"] == kept
    assert stored(account)["refresh_token_expires_at"] == ends_at


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [("3600", 3600), (0, 0), (-5, 0), (None, None), (3600.5, 3600), ("soon", None), ([], None)],
)
def test_odd_lifetimes_never_raise(
    account: ConnectedAccount, ilert: StandIn, expires_in: Any, seconds: int | None
) -> None:
    ilert.add_fault("token", answer(expires_in=expires_in))
    flows.refresh(account)
    expires_at = stored(account)["access_token_expires_at"]
    if seconds is None:
        assert expires_at is None
    else:
        assert (expires_at - timezone.now()).total_seconds() == pytest.approx(seconds, abs=5)


def test_a_lifetime_beyond_the_calendar_is_cut(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.add_fault("token", answer(expires_in=10**30))
    flows.refresh(account)
    assert stored(account)["access_token_expires_at"].year < 9999


def test_the_scope_of_the_answer_counts_and_an_absent_one_changes_nothing(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", answer(scope="profile"))
    flows.refresh(account)
    assert ConnectedAccount.objects.get().granted_scope == "profile"
    ilert.add_fault("token", answer())
    flows.refresh(account, force=True)
    assert ConnectedAccount.objects.get().granted_scope == "profile"


def test_a_refresh_is_announced(account: ConnectedAccount, sent: list[Any]) -> None:
    flows.refresh(account)
    assert sent == [("account_refreshed", {"account": account})]
    assert account.refreshed_at is not None


def test_invalid_grant_ends_the_grant_once(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.revoke_app("acme", "grace")
    for _ in range(3):
        with pytest.raises(ReconnectRequiredError):
            flows.refresh(account)
    assert len(ilert.token_requests) == 1
    assert [name for name, _ in sent] == ["account_revoked"]
    assert sent[0][1]["reason"] == Reason.REVOKED_AT_ILERT
    account = ConnectedAccount.objects.get()
    assert (account.status, account.reason) == (
        Status.RECONNECT_REQUIRED,
        Reason.REVOKED_AT_ILERT,
    )
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


def test_a_dead_grant_gives_no_token_although_it_has_one(account: ConnectedAccount) -> None:
    account.status = Status.RECONNECT_REQUIRED
    account.save()
    with pytest.raises(ReconnectRequiredError):
        flows.get_access_token(account)


def test_ilert_being_down_does_not_spoil_a_token_that_is_still_good(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(access_token_expires_at=timezone.now() + timedelta(minutes=1))
    ilert.add_fault("token", Fault(status=500))
    assert flows.get_access_token(account) == account.access_token


def test_ilert_being_down_is_told_once_the_token_has_expired(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token", Fault(status=503, headers={"Retry-After": "7"}))
    with pytest.raises(IlertUnavailableError) as caught:
        flows.get_access_token(expired_account)
    assert caught.value.retry_after == 7


@pytest.fixture
def slow_ilert(ilert: StandIn, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Any:
    """Acts between ilert's answer and its arrival."""

    def slow(act: Callable[[], object]) -> None:
        adapter = Acting(after=act)
        monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, adapter)

    return slow


def store_newer_tokens() -> None:
    newer = ConnectedAccount.objects.get()
    newer.access_token, newer.refresh_token = "newer-access", "newer-refresh"
    newer.access_token_expires_at = timezone.now() + timedelta(hours=1)
    newer.save()


def test_a_late_answer_does_not_overwrite_newer_tokens(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any], slow_ilert: Any
) -> None:
    slow_ilert(store_newer_tokens)
    assert flows.get_access_token(expired_account) == "newer-access"
    row = ConnectedAccount.objects.get()
    assert row.refresh_token == "newer-refresh"
    assert row.lease_id == ""
    assert sent == []


def test_the_invalid_grant_of_a_loser_does_not_harm_the_winner(
    expired_account: ConnectedAccount, ilert: StandIn, sent: list[Any], slow_ilert: Any
) -> None:
    ilert.revoke_app("acme", "grace")
    slow_ilert(store_newer_tokens)
    assert flows.get_access_token(expired_account) == "newer-access"
    row = ConnectedAccount.objects.get()
    assert (row.status, row.lease_id) == (Status.CONNECTED, "")
    assert sent == []


def disconnect() -> None:
    ended = {"access_token_ciphertext": "", "refresh_token_ciphertext": ""}
    ConnectedAccount.objects.update(status=Status.DISCONNECTED, **ended)


def delete() -> None:
    ConnectedAccount.objects.all()._raw_delete("default")


@pytest.mark.parametrize("end", [disconnect, delete])
def test_what_ilert_gives_to_an_account_that_has_ended_meanwhile_is_revoked(
    expired_account: ConnectedAccount, ilert: StandIn, slow_ilert: Any, end: Callable[[], None]
) -> None:
    ilert.options.rotate = True
    slow_ilert(end)
    with pytest.raises(ReconnectRequiredError):
        flows.get_access_token(expired_account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert not ConnectedAccount.objects.exclude(refresh_token_ciphertext="").exists()


def test_the_grant_that_a_reconnect_has_replaced_meanwhile_is_ended_though_it_was_just_refreshed(
    expired_account: ConnectedAccount, ilert: StandIn, slow_ilert: Any
) -> None:
    def reconnect() -> None:
        row = ConnectedAccount.objects.get()
        tokens: Any = ilert.issue_tokens("acme", "grace", "profile")
        row.access_token, row.refresh_token = tokens["access_token"], tokens["refresh_token"]
        row.access_token_expires_at = timezone.now() + timedelta(hours=1)
        row.connected_at, row.lease_ends_ms = timezone.now(), 0
        row.save()

    ilert.options.rotate = True
    slow_ilert(reconnect)
    assert flows.get_access_token(expired_account) == ConnectedAccount.objects.get().access_token
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert flows.refresh(expired_account, force=True).status == Status.CONNECTED


def test_an_account_deleted_meanwhile_needs_a_new_connection(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ConnectedAccount.objects.get().delete()
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account)
    assert ilert.token_requests == []


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
    ConnectedAccount.objects.update(access_token_expires_at=timezone.now())
    account.refresh_from_db()
    with pytest.raises(ReconnectRequiredError):
        flows.refresh(account)
    assert ConnectedAccount.objects.get().reason == Reason.EXPIRED
    assert ilert.token_requests == []


def test_a_receiver_that_raises_loses_nothing(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**kwargs: Any) -> None:
        raise RuntimeError("a receiver of the site")

    account_refreshed.connect(fail)
    try:
        flows.refresh(account)
    finally:
        account_refreshed.disconnect(fail)
    assert "a receiver of the site" in caplog.text
    assert ConnectedAccount.objects.get().refreshed_at is not None


def test_columns_that_the_caller_changed_are_left_to_the_caller(
    account: ConnectedAccount, user: User
) -> None:
    account.display_name = "not saved"
    flows.refresh(account)
    assert account.display_name == "not saved"
    assert ConnectedAccount.objects.get().display_name == ""
