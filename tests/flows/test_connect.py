from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, DataError, connection, transaction
from django.http import HttpRequest
from django.test import Client, RequestFactory
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import (
    AuthorizationDeniedError,
    IlertOAuthError,
    IlertRejectedError,
    IlertUnavailableError,
    ReconnectRequiredError,
    StateError,
)
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth import client, transport
from ilert_standin import Fault, StandIn
from ilert_standin.browser import authorize
from tests.conftest import CALLBACK, AccountFactory
from tests.support.other_callers import Acting

pytestmark = pytest.mark.django_db(transaction=True)

RequestMaker = Callable[..., HttpRequest]


@pytest.fixture
def make_request(user: User) -> RequestMaker:
    """Requests of one session."""
    session = SessionStore()

    def make(url: str = "/", user: Any = user) -> HttpRequest:
        request = RequestFactory().get(url)
        request.user = user
        request.session = session
        return request

    return make


def parameters(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def finish(make_request: RequestMaker, url: str, **person: Any) -> ConnectedAccount:
    return flows.finish_connect(make_request(authorize(url, **person)))


def test_the_url_asks_for_a_code_with_s256(ilert: StandIn, make_request: RequestMaker) -> None:
    url = flows.start_connect(make_request())
    asked = parameters(url)
    assert urlsplit(url).path == "/api/developers/oauth2/authorize"
    assert asked.pop("state")
    assert asked.pop("code_challenge")
    assert asked == {
        "client_id": "the-client",
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": "profile",
        "code_challenge_method": "S256",
    }


def test_the_challenge_is_that_of_the_verifier_sent_later(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    url = flows.start_connect(make_request())
    finish(make_request, url)
    verifier = ilert.token_requests[0].form["code_verifier"]
    digest = hashlib.sha256(verifier.encode()).digest()
    assert parameters(url)["code_challenge"] == base64.urlsafe_b64encode(digest).decode().rstrip(
        "="
    )
    assert 43 <= len(verifier) <= 128


def test_the_exchange_sends_secret_and_verifier_and_no_redirect_uri(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    assert set(ilert.token_requests[0].form) == {
        "client_id",
        "client_secret",
        "grant_type",
        "code",
        "code_verifier",
    }


def test_every_request_has_a_state_and_a_challenge_of_its_own(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    asked = [parameters(flows.start_connect(make_request())) for _ in range(5)]
    assert len({a["state"] for a in asked}) == len({a["code_challenge"] for a in asked}) == 5
    assert all(len(a["state"]) >= 22 for a in asked)


def test_scopes_of_the_caller_are_asked_for_beside_those_of_the_site(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    url = flows.start_connect(make_request(), scopes=["source:w", "schedule"])
    assert parameters(url)["scope"] == "profile source:w schedule"


def test_reconnecting_asks_again_for_what_the_account_had(
    make_request: RequestMaker, make_account: AccountFactory
) -> None:
    account = make_account(requested_scope="profile alert", granted_scope="profile source:w")
    url = flows.start_connect(make_request(), account=account)
    assert set(parameters(url)["scope"].split()) == {"profile", "alert", "source:w"}


@pytest.mark.parametrize("tenant", ["evil.example/", "a.b", "-x", "а", "a" * 64, "a_b", "a b"])
def test_a_tenant_that_is_no_host_label_is_refused(
    ilert: StandIn, make_request: RequestMaker, tenant: str
) -> None:
    with pytest.raises(ValueError, match="host name"):
        flows.start_connect(make_request(), tenant=tenant)


def test_a_known_tenant_gets_the_user_straight_there(
    ilert: StandIn, make_request: RequestMaker, settings: Any
) -> None:
    settings.ILERT_OAUTH_TENANT = "globex"
    assert "/t/globex/api/" in flows.start_connect(make_request())
    assert "/t/acme/api/" in flows.start_connect(make_request(), tenant="acme")


def test_a_stored_tenant_that_is_no_host_label_is_never_put_into_a_url(
    make_request: RequestMaker, make_account: AccountFactory
) -> None:
    account = make_account(tenant_id="evil.example/")
    url = flows.start_connect(make_request(), account=account)
    assert "evil" not in url
    assert urlsplit(url).path == "/api/developers/oauth2/authorize"


def test_a_visitor_who_is_not_logged_in_cannot_begin(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    with pytest.raises(PermissionDenied):
        flows.start_connect(make_request(user=AnonymousUser()))


def test_a_new_account_holds_what_ilert_said(
    ilert: StandIn, make_request: RequestMaker, user: User, settings: Any
) -> None:
    settings.ILERT_OAUTH_SCOPES = ["profile", "source:w"]
    account = finish(make_request, flows.start_connect(make_request()))
    account.refresh_from_db()
    assert (account.user, account.status) == (user, Status.CONNECTED)
    assert (account.tenant_id, account.username) == ("acme", "grace")
    assert account.api_url == settings.ILERT_OAUTH_API_URL
    assert (account.ilert_user_id, account.display_name) == (101, "Grace Demo")
    assert account.email == "grace@acme.example"
    assert account.requested_scope == account.granted_scope == "profile source:w"
    assert account.access_token.reveal().startswith("ey")
    assert account.refresh_token.reveal().startswith("ey")
    assert account.access_token_expires_at is not None
    assert (account.access_token_expires_at - account.connected_at).total_seconds() == (
        pytest.approx(3600, abs=5)
    )
    assert account.refresh_token_expires_at is not None
    assert (account.refresh_token_expires_at - account.connected_at).days >= 364


def test_a_grant_that_never_ends_has_no_end(ilert: StandIn, make_request: RequestMaker) -> None:
    ilert.options.refresh_token_lifetime = None
    account = finish(make_request, flows.start_connect(make_request()))
    assert account.refresh_token_expires_at is None


def test_without_profile_the_user_is_not_asked_for(
    ilert: StandIn, make_request: RequestMaker, settings: Any
) -> None:
    settings.ILERT_OAUTH_SCOPES = ["source"]
    account = finish(make_request, flows.start_connect(make_request()))
    assert account.ilert_user_id is None
    assert not [r for r in ilert.requests if r.path == "/api/users/current"]


def test_connecting_is_announced_once(
    ilert: StandIn, make_request: RequestMaker, sent: list[Any]
) -> None:
    account = finish(make_request, flows.start_connect(make_request()))
    [(name, facts)] = sent
    assert (name, facts["account"], facts["created"]) == ("account_connected", account, True)
    assert isinstance(facts["request"], HttpRequest)


def test_the_same_person_reconnects_in_place(
    ilert: StandIn, make_request: RequestMaker, sent: list[Any]
) -> None:
    first = finish(make_request, flows.start_connect(make_request()))
    second = finish(make_request, flows.start_connect(make_request()))
    assert first.pk == second.pk
    assert ConnectedAccount.objects.count() == 1
    assert [facts["created"] for _name, facts in sent] == [True, False]


def test_reconnecting_revokes_the_superseded_grant_and_keeps_the_new_one(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    first = finish(make_request, flows.start_connect(make_request()))
    old = first.refresh_token
    second = finish(make_request, flows.start_connect(make_request()))
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    [revoked] = [r.form["token"] for r in ilert.requests if r.path.endswith("/revoke")]
    assert revoked == old
    flows.refresh(second)


def tokens_of(account: ConnectedAccount, *names: str) -> str:
    """As a response of ilert would give them once more."""
    names = names or ("access_token", "refresh_token")
    return json.dumps({name: getattr(account, name).reveal() for name in names})


def test_reconnecting_with_the_same_refresh_token_revokes_nothing(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    first = finish(make_request, flows.start_connect(make_request()))
    ilert.add_fault("token", Fault(status=200, body=tokens_of(first)))
    finish(make_request, flows.start_connect(make_request()))
    assert not [r for r in ilert.requests if r.path.endswith("/revoke")]


def test_reconnecting_an_account_whose_key_is_lost_makes_it_readable(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    first = finish(make_request, flows.start_connect(make_request()))
    ConnectedAccount.objects.update(refresh_token_ciphertext="gAAAA-of-a-lost-key")
    second = finish(make_request, flows.start_connect(make_request()))
    assert second.pk == first.pk
    assert second.refresh_token


def test_an_account_whose_grant_was_gone_is_connected_again(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    account = finish(make_request, flows.start_connect(make_request()))
    ilert.revoke_app("acme", "grace")
    with pytest.raises(IlertRejectedError):
        flows.refresh(account)
    reconnected = finish(make_request, flows.start_connect(make_request(), account=account))
    assert (reconnected.pk, reconnected.status) == (account.pk, Status.CONNECTED)
    assert reconnected.reason == reconnected.last_error == ""
    assert flows.get_access_token(reconnected) == reconnected.access_token


def test_the_times_of_a_connection_are_those_of_the_database(
    ilert: StandIn, make_request: RequestMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(days=365))
    account = finish(make_request, flows.start_connect(make_request()))
    assert account.access_token_expires_at is not None
    issued_at = account.access_token_expires_at - timedelta(hours=1)
    for moment in (issued_at, account.connected_at, account.status_changed_at):
        assert abs(moment - now) < timedelta(minutes=1)


# Servers that end the whole grant with a superseded token of it


@pytest.fixture
def grant_ends_as_a_whole(
    ilert: StandIn, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> StandIn:
    def end() -> None:
        ilert.revoke_app("acme", "grace")
        ilert.expire_access_tokens()

    late = Acting(after=end, path=client.REVOKE_PATH, every_time=True)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, late)
    return ilert


def questions(ilert: StandIn) -> int:
    """How often ilert was asked what a token is good for."""
    return len([r for r in ilert.requests if r.path == client.TOKEN_INFO_PATH])


def test_who_reconnects_learns_at_once_that_the_new_grant_has_ended_too(
    grant_ends_as_a_whole: StandIn, make_request: RequestMaker, sent: list[Any]
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    with pytest.raises(ReconnectRequiredError):
        finish(make_request, flows.start_connect(make_request()))
    account = ConnectedAccount.objects.get()
    assert (account.status, account.reason) == (Status.RECONNECT_REQUIRED, Reason.REVOKED_AT_ILERT)
    assert account.last_error == "invalid_grant"
    [_connected, (name, facts)] = sent
    assert (name, facts["account"].status) == ("account_revoked", Status.RECONNECT_REQUIRED)
    assert facts["reason"] == Reason.REVOKED_AT_ILERT


def test_who_connects_once_more_then_stays_connected(
    grant_ends_as_a_whole: StandIn, make_request: RequestMaker
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    with suppress(ReconnectRequiredError):
        finish(make_request, flows.start_connect(make_request()))
    account = finish(make_request, flows.start_connect(make_request()))
    assert account.status == Status.CONNECTED
    assert grant_ends_as_a_whole.live_refresh_tokens("acme", "grace") == 1


def test_ilert_is_asked_about_a_new_grant_again_only_where_an_old_one_was_revoked_just_now(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    assert questions(ilert) == 1
    finish(make_request, flows.start_connect(make_request()))
    assert questions(ilert) == 3
    ilert.add_fault("revoke", Fault(status=500))
    finish(make_request, flows.start_connect(make_request()))
    assert questions(ilert) == 4


def test_in_a_transaction_of_the_caller_nothing_was_revoked_yet(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    with transaction.atomic():
        finish(make_request, flows.start_connect(make_request()))
        assert questions(ilert) == 2


def test_a_question_without_a_response_costs_no_connect(
    ilert: StandIn, make_request: RequestMaker, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    late = Acting(
        after=lambda: ilert.add_fault("token_info", Fault(status=500)), path=client.REVOKE_PATH
    )
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, late)
    account = finish(make_request, flows.start_connect(make_request()))
    assert (account.status, questions(ilert)) == (Status.CONNECTED, 3)


def test_what_another_caller_has_made_of_the_account_meanwhile_stands(
    ilert: StandIn,
    make_request: RequestMaker,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    sent: list[Any],
) -> None:
    def end_and_refresh_elsewhere() -> None:
        ilert.add_fault("token_info", Fault(200, '{"active": false}'))
        ConnectedAccount.objects.update(access_token_ciphertext="of-another-caller")

    finish(make_request, flows.start_connect(make_request()))
    late = Acting(after=end_and_refresh_elsewhere, path=client.REVOKE_PATH)
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, late)
    with pytest.raises(ReconnectRequiredError):
        finish(make_request, flows.start_connect(make_request()))
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert [name for name, _facts in sent] == ["account_connected"]


def test_a_response_without_refresh_token_leaves_no_old_one_behind(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    first = finish(make_request, flows.start_connect(make_request()))
    ilert.add_fault("token", Fault(status=200, body=tokens_of(first, "access_token")))
    second = finish(make_request, flows.start_connect(make_request()))
    assert (second.pk, second.refresh_token_ciphertext) == (first.pk, "")
    assert second.refresh_token_expires_at is None


def test_two_people_of_ilert_are_two_accounts(ilert: StandIn, make_request: RequestMaker) -> None:
    finish(make_request, flows.start_connect(make_request()), username="grace")
    finish(make_request, flows.start_connect(make_request()), username="ada")
    assert ConnectedAccount.objects.count() == 2


def test_an_error_code_that_is_not_documented_is_not_repeated(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    state = parameters(flows.start_connect(make_request()))["state"]
    with pytest.raises(AuthorizationDeniedError) as caught:
        flows.finish_connect(make_request(f"/?error=%3Cb%3E&state={state}"))
    assert caught.value.code == "unknown_error"


each_fault = pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=200, body="<html>"),
        Fault(status=200, body='["not an object"]'),
        Fault(drop=True),
        Fault(status=401, body='{"code": "invalid_request"}'),
    ],
)


@each_fault
def test_a_profile_that_cannot_be_read_costs_only_the_profile(
    ilert: StandIn, make_request: RequestMaker, fault: Fault
) -> None:
    first = finish(make_request, flows.start_connect(make_request()))
    ilert.add_fault("users/current", fault, times=None)
    second = finish(make_request, flows.start_connect(make_request()))
    second.refresh_from_db()
    assert second.refresh_token != first.refresh_token
    assert (second.ilert_user_id, second.display_name) == (101, "Grace Demo")
    assert second.email == "grace@acme.example"
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_a_database_that_cannot_keep_a_name_keeps_the_rest(
    ilert: StandIn, make_request: RequestMaker, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(execute: Any, sql: str, parameters: Any, *args: Any) -> Any:
        if "Grace Demo" in (parameters or ()):
            raise DataError("Incorrect string value: 'Grace Demo'")
        return execute(sql, parameters, *args)

    callback = authorize(flows.start_connect(make_request()))
    with connection.execute_wrapper(refuse):
        account = flows.finish_connect(make_request(callback))
    account.refresh_from_db()
    assert (account.status, account.ilert_user_id) == (Status.CONNECTED, 101)
    assert account.display_name == account.email == ""
    assert "names of account" in caplog.text
    assert "Grace Demo" not in caplog.text


@pytest.fixture
def three_byte_names(db: None) -> Iterator[None]:
    """As in a database of MariaDB or MySQL whose character set is utf8mb3."""
    if connection.vendor != "mysql":
        pytest.skip("Other databases keep every character.")
    for charset in ("utf8mb3", "utf8mb4"):
        with connection.cursor() as cursor:
            cursor.execute(
                "ALTER TABLE ilert_oauth_connectedaccount"
                f" MODIFY display_name varchar(255) CHARACTER SET {charset} NOT NULL"
            )
        if charset == "utf8mb3":
            yield


def test_a_name_of_four_byte_characters_stops_no_connect(
    ilert: StandIn, make_request: RequestMaker, three_byte_names: None
) -> None:
    person = {"id": 101, "firstName": "Grace \U0001f600", "email": "grace@acme.example"}
    ilert.add_fault("users/current", Fault(200, json.dumps(person)))
    account = finish(make_request, flows.start_connect(make_request()))
    account.refresh_from_db()
    assert (account.status, account.display_name) == (Status.CONNECTED, "")


@pytest.mark.parametrize(("requested", "is_read"), [("profile", True), ("source", False)])
def test_without_scope_in_the_responses_the_requested_one_decides(
    ilert: StandIn, make_request: RequestMaker, settings: Any, requested: str, is_read: bool
) -> None:
    settings.ILERT_OAUTH_SCOPES = [requested]
    first = finish(make_request, flows.start_connect(make_request()))
    url = flows.start_connect(make_request())
    ConnectedAccount.objects.all().delete()
    info = {"active": True, "tenant_id": "acme", "username": "grace"}
    ilert.add_fault("token", Fault(200, tokens_of(first)))
    ilert.add_fault("token_info", Fault(200, json.dumps(info)))
    account = finish(make_request, url)
    assert account.granted_scope == requested
    assert (ilert.requests[-1].path == "/api/users/current") == is_read


@each_fault
def test_a_failure_after_the_exchange_revokes_the_new_grant(
    ilert: StandIn, make_request: RequestMaker, fault: Fault
) -> None:
    ilert.add_fault("token_info", fault)
    with pytest.raises(IlertOAuthError):
        finish(make_request, flows.start_connect(make_request()))
    assert not ConnectedAccount.objects.exists()
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_failure_after_the_exchange_leaves_an_existing_connection_alone(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    finish(make_request, flows.start_connect(make_request()))
    before = ConnectedAccount.objects.values().get()
    ilert.add_fault("token_info", Fault(status=500))
    with pytest.raises(IlertUnavailableError):
        finish(make_request, flows.start_connect(make_request()))
    assert ConnectedAccount.objects.values().get() == before
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_a_database_that_fails_leaves_no_grant_behind(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("INSERT INTO") and "connectedaccount" in sql:
            raise DatabaseError("disk full")
        return execute(sql, *args)

    callback = authorize(flows.start_connect(make_request()))
    with connection.execute_wrapper(refuse), pytest.raises(DatabaseError):
        flows.finish_connect(make_request(callback))
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_new_grant_that_cannot_be_revoked_either_is_only_logged(
    ilert: StandIn, make_request: RequestMaker, caplog: pytest.LogCaptureFixture
) -> None:
    ilert.add_fault("token_info", Fault(status=500))
    ilert.add_fault("revoke", Fault(status=500))
    with pytest.raises(IlertUnavailableError):
        finish(make_request, flows.start_connect(make_request()))
    assert "still alive: server_error" in caplog.text


def test_a_failure_without_a_refresh_token_has_nothing_to_revoke(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    ilert.add_fault("token", Fault(status=200, body='{"access_token": "unknown"}'))
    with pytest.raises(IlertRejectedError) as caught:
        finish(make_request, flows.start_connect(make_request()))
    assert caught.value.code == "inactive_token"
    assert not [r for r in ilert.requests if r.path.endswith("/revoke")]


ADDRESS_NAMES = ["REQUEST_URI", "RAW_URI", "HTTP_REFERER", "HTTP_X_ORIGINAL_URI"]


@pytest.mark.parametrize("name", ADDRESS_NAMES)
def test_the_callback_leaves_no_code_in_the_request(
    ilert: StandIn, make_request: RequestMaker, name: str
) -> None:
    request = make_request(authorize(flows.start_connect(make_request())))
    request.META[name] = request.get_full_path()
    flows.finish_connect(request)
    assert "code=" not in repr(request) + str(request.META) + str(request.GET)


def test_a_next_url_that_leads_off_the_site_is_dropped(browser: Client, connect: Any) -> None:
    assert connect(next="https://evil.example/").url == "/ilert/"
    assert connect(next="/on/this/site/").url == "/on/this/site/"


def test_under_asgi_the_callback_leaves_no_code_in_the_scope(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    request = make_request(authorize(flows.start_connect(make_request())))
    query = request.META["QUERY_STRING"].encode()
    kept = [(b"host", b"testserver"), (b"cookie", b"state=of-another-app")]
    addresses = [(b"x-original-uri", b"/?" + query), (b"Referer", b"/?" + query)]
    scope = {"query_string": query, "headers": [*kept, *addresses]}
    vars(request)["scope"] = scope
    flows.finish_connect(request)
    blank = [(b"x-original-uri", b""), (b"Referer", b"")]
    assert scope == {"query_string": b"", "headers": [*kept, *blank]}


def test_the_callback_leaves_no_code_in_headers_that_were_read_before(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    request = make_request(authorize(flows.start_connect(make_request())))
    request.META["HTTP_REFERER"] = request.build_absolute_uri()
    request.META["HTTP_COOKIE"] = "state=of-another-app"
    assert "code=" in request.headers["Referer"]
    flows.finish_connect(request)
    assert request.headers["Referer"] == ""
    assert request.headers["Cookie"] == "state=of-another-app"


def test_a_made_up_code_takes_nothing_else_away(make_request: RequestMaker) -> None:
    request = make_request("/?code=127.0.0.1&state=testserver")
    before = {**request.META, "QUERY_STRING": ""}
    with pytest.raises(StateError):
        flows.finish_connect(request)
    assert before == request.META


def test_headers_full_of_percent_signs_cost_no_time(make_request: RequestMaker) -> None:
    request = make_request("/?code=" + "x" * 8000 + "&state=s")
    request.META.update({f"HTTP_X_{number}": "%25" * 2700 for number in range(95)})
    began = time.process_time()
    with pytest.raises(StateError):
        flows.finish_connect(request)
    assert time.process_time() - began < 0.1


def test_an_account_can_be_connected_inside_a_transaction_of_the_caller(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    callback = authorize(flows.start_connect(make_request()))
    with transaction.atomic():
        account = flows.finish_connect(make_request(callback))
        assert flows.finish_connect(make_request(callback)) == account
    assert flows.finish_connect(make_request(callback)) == account
    assert len(ilert.token_requests) == 1


def test_a_callback_again_after_a_rollback_is_left_to_ilert_to_refuse(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    callback = authorize(flows.start_connect(make_request()))
    with suppress(ZeroDivisionError), transaction.atomic():
        flows.finish_connect(make_request(callback))
        raise ZeroDivisionError
    with pytest.raises(IlertRejectedError) as caught:
        flows.finish_connect(make_request(callback))
    assert caught.value.code == "invalid_grant"
    assert not ConnectedAccount.objects.exists()


def test_settings_that_change_while_a_code_is_exchanged_count_from_the_next_request(
    ilert: StandIn, make_request: RequestMaker, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback, before = authorize(flows.start_connect(make_request())), settings.ILERT_OAUTH_API_URL

    def change() -> None:
        settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:1"
        settings.ILERT_OAUTH_CLIENT_ID = "another-client"

    monkeypatch.setitem(transport.adapters, before, Acting(before=change))
    account = flows.finish_connect(make_request(callback))
    assert (account.api_url, account.client_id) == (before, "the-client")
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_the_account_of_somebody_else_cannot_be_reconnected(
    make_request: RequestMaker, account: ConnectedAccount
) -> None:
    other = User.objects.create_user("other")
    with pytest.raises(PermissionDenied):
        flows.start_connect(make_request(user=other), account=account)
