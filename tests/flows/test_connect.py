from __future__ import annotations

import base64
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.db import (
    DatabaseError,
    DataError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.http import HttpRequest
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
from django_ilert_oauth.flows._grant import store_names
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.oauth import client
from django_ilert_oauth.oauth.responses import CurrentUser
from ilert_standin import Fault, StandIn
from ilert_standin.browser import authorize
from tests.conftest import CALLBACK, AccountFactory
from tests.flows.conftest import RequestMaker
from tests.support.connect_steps import query_of
from tests.support.other_callers import revocations_sent, without_autocommit
from tests.support.statements import failing_statements

pytestmark = pytest.mark.django_db(transaction=True)

Connect = Callable[..., ConnectedAccount]
DOWN = Fault(status=500)


@pytest.fixture
def connect(make_request: RequestMaker) -> Connect:
    """The user goes through ilert."""

    def walk(username: str = "grace", **options: Any) -> ConnectedAccount:
        url = flows.start_connect(make_request(), **options)
        return flows.finish_connect(make_request(authorize(url, username=username)))

    return walk


def test_the_url_asks_for_a_code_with_s256(make_request: RequestMaker) -> None:
    url = flows.start_connect(make_request())
    asked = query_of(url)
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


def test_the_exchange_sends_the_verifier_of_the_challenge_and_no_redirect_uri(
    ilert: StandIn, make_request: RequestMaker
) -> None:
    url = flows.start_connect(make_request())
    flows.finish_connect(make_request(authorize(url)))
    form = ilert.token_requests[0].form
    assert set(form) == {"client_id", "client_secret", "grant_type", "code", "code_verifier"}
    digest = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
    assert query_of(url)["code_challenge"] == digest.decode().rstrip("=")
    assert 43 <= len(form["code_verifier"]) <= 128


def test_every_request_has_a_state_and_a_challenge_of_its_own(make_request: RequestMaker) -> None:
    asked = [query_of(flows.start_connect(make_request())) for _ in range(5)]
    assert len({a["state"] for a in asked}) == len({a["code_challenge"] for a in asked}) == 5
    assert all(len(a["state"]) >= 22 for a in asked)


def test_scopes_of_the_caller_are_asked_for_beside_those_of_the_site(
    make_request: RequestMaker,
) -> None:
    url = flows.start_connect(make_request(), scopes=["source:w", "schedule"])
    assert query_of(url)["scope"] == "profile source:w schedule"


def test_reconnecting_asks_again_for_what_the_account_had(
    make_request: RequestMaker, make_account: AccountFactory
) -> None:
    account = make_account(requested_scope="profile alert", granted_scope="profile source:w")
    url = flows.start_connect(make_request(), account=account)
    assert set(query_of(url)["scope"].split()) == {"profile", "alert", "source:w"}


def test_a_tenant_that_is_no_host_label_is_refused(make_request: RequestMaker) -> None:
    with pytest.raises(ValueError, match="host name"):
        flows.start_connect(make_request(), tenant="evil.example/")


def test_a_known_tenant_gets_the_user_straight_there(
    make_request: RequestMaker, settings: Any
) -> None:
    settings.ILERT_OAUTH_TENANT = "globex"
    assert "/t/globex/api/" in flows.start_connect(make_request())
    assert "/t/acme/api/" in flows.start_connect(make_request(), tenant="acme")


def test_a_stored_tenant_that_is_no_host_label_is_never_put_into_a_url(
    make_request: RequestMaker, make_account: AccountFactory
) -> None:
    url = flows.start_connect(make_request(), account=make_account(tenant_id="evil.example/"))
    assert "evil" not in url
    assert urlsplit(url).path == "/api/developers/oauth2/authorize"


def test_neither_a_visitor_nor_another_user_than_the_accounts_can_begin(
    make_request: RequestMaker, account: ConnectedAccount
) -> None:
    with pytest.raises(PermissionDenied):
        flows.start_connect(make_request(user=AnonymousUser()))
    with pytest.raises(PermissionDenied):
        flows.start_connect(make_request(user=User.objects.create_user("other")), account=account)


def test_a_new_account_holds_what_ilert_said(connect: Connect, user: User, settings: Any) -> None:
    settings.ILERT_OAUTH_SCOPES = ["profile", "source:w"]
    account = connect()
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


def test_a_grant_that_never_ends_has_no_end(ilert: StandIn, connect: Connect) -> None:
    ilert.options.refresh_token_lifetime = None
    assert connect().refresh_token_expires_at is None


def test_the_same_person_reconnects_in_place_and_each_connect_sends_one_signal(
    connect: Connect, sent: list[Any]
) -> None:
    first, second = connect(), connect()
    assert ConnectedAccount.objects.get() == first == second
    told = [(name, facts["account"], facts["created"]) for name, facts in sent]
    assert told == [("account_connected", first, True), ("account_connected", first, False)]
    assert isinstance(sent[0][1]["request"], HttpRequest)


def test_reconnecting_revokes_the_superseded_grant_and_keeps_the_new_one(
    ilert: StandIn, connect: Connect
) -> None:
    first, second = connect(), connect()
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    assert revocations_sent(ilert) == [first.refresh_token]
    flows.refresh(second)


def given_again(account: ConnectedAccount, *names: str) -> Fault:
    """A response of ilert with these tokens."""
    body = {name: getattr(account, name).reveal() for name in names}
    return Fault(200, json.dumps(body))


def test_reconnecting_with_the_same_refresh_token_revokes_nothing(
    ilert: StandIn, connect: Connect
) -> None:
    ilert.add_fault("token", given_again(connect(), "access_token", "refresh_token"))
    connect()
    assert revocations_sent(ilert) == []


def test_reconnecting_an_account_whose_key_is_lost_makes_it_readable(connect: Connect) -> None:
    first = connect()
    ConnectedAccount.objects.update(refresh_token_ciphertext="gAAAA-of-a-lost-key")
    second = connect()
    assert second.pk == first.pk
    assert second.refresh_token


def test_an_account_whose_grant_was_gone_is_connected_again(
    ilert: StandIn, connect: Connect
) -> None:
    account = connect()
    ilert.revoke_app("acme", "grace")
    with pytest.raises(IlertRejectedError):
        flows.refresh(account)
    reconnected = connect(account=account)
    assert (reconnected.pk, reconnected.status) == (account.pk, Status.CONNECTED)
    assert reconnected.reason == reconnected.last_error == ""
    assert flows.get_access_token(reconnected) == reconnected.access_token


def test_the_times_of_a_connection_are_those_of_the_database(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(days=365))
    account = connect()
    assert account.access_token_expires_at is not None
    issued_at = account.access_token_expires_at - timedelta(hours=1)
    for moment in (issued_at, account.connected_at, account.status_changed_at):
        assert abs(moment - now) < timedelta(minutes=1)


# Servers that end the complete grant with a superseded token of it


@pytest.fixture
def grant_ends_completely(ilert: StandIn, during_request: Any) -> None:
    def end() -> None:
        ilert.revoke_app("acme", "grace")
        ilert.expire_access_tokens()

    during_request(after=end, path=client.REVOKE_PATH, every_time=True)


def questions(ilert: StandIn) -> int:
    """How often ilert was asked what a token is good for."""
    return len([r for r in ilert.requests if r.path == client.TOKEN_INFO_PATH])


@pytest.mark.usefixtures("grant_ends_completely")
def test_who_reconnects_learns_at_once_that_the_new_grant_has_ended_too_and_can_connect_once_more(
    ilert: StandIn, connect: Connect, sent: list[Any]
) -> None:
    connect()
    with pytest.raises(ReconnectRequiredError):
        connect()
    account = ConnectedAccount.objects.get()
    assert (account.status, account.reason) == (Status.RECONNECT_REQUIRED, Reason.REVOKED_AT_ILERT)
    assert account.last_error == "invalid_grant"
    [_connected, (name, facts)] = sent
    assert (name, facts["account"].status) == ("account_revoked", Status.RECONNECT_REQUIRED)
    assert facts["reason"] == Reason.REVOKED_AT_ILERT
    assert connect().status == Status.CONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_ilert_is_asked_about_a_new_grant_again_only_where_an_old_one_was_revoked_just_now(
    ilert: StandIn, connect: Connect
) -> None:
    connect()
    assert questions(ilert) == 1
    connect()
    assert questions(ilert) == 3
    ilert.add_fault("revoke", DOWN)
    connect()
    assert questions(ilert) == 4
    with transaction.atomic():
        connect()
        assert questions(ilert) == 5


def test_a_question_without_a_response_costs_no_connect(
    ilert: StandIn, connect: Connect, during_request: Any
) -> None:
    connect()
    during_request(after=lambda: ilert.add_fault("token_info", DOWN), path=client.REVOKE_PATH)
    assert (connect().status, questions(ilert)) == (Status.CONNECTED, 3)


def test_what_another_caller_has_made_of_the_account_meanwhile_stands(
    ilert: StandIn, connect: Connect, during_request: Any, sent: list[Any]
) -> None:
    def end_and_refresh_elsewhere() -> None:
        ilert.add_fault("token_info", Fault(200, '{"active": false}'))
        ConnectedAccount.objects.update(access_token_ciphertext="of-another-caller")

    connect()
    during_request(after=end_and_refresh_elsewhere, path=client.REVOKE_PATH)
    with pytest.raises(ReconnectRequiredError):
        connect()
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert [name for name, _facts in sent] == ["account_connected"]


def test_a_response_without_refresh_token_leaves_no_old_one_behind(
    ilert: StandIn, connect: Connect
) -> None:
    first = connect()
    ilert.add_fault("token", given_again(first, "access_token"))
    second = connect()
    assert (second.pk, second.refresh_token_ciphertext) == (first.pk, "")
    assert second.refresh_token_expires_at is None


def test_two_people_of_ilert_are_two_accounts(connect: Connect) -> None:
    assert connect() != connect("ada")


def test_an_error_code_that_is_not_documented_is_not_repeated(make_request: RequestMaker) -> None:
    state = query_of(flows.start_connect(make_request()))["state"]
    with pytest.raises(AuthorizationDeniedError) as caught:
        flows.finish_connect(make_request(f"/?error=%3Cb%3E&state={state}"))
    assert caught.value.code == "unknown_error"


each_fault = pytest.mark.parametrize("fault", [DOWN, Fault(401, '{"code": "invalid_request"}')])


@each_fault
def test_a_profile_that_cannot_be_read_costs_only_the_profile(
    ilert: StandIn, connect: Connect, fault: Fault
) -> None:
    first = connect()
    ilert.add_fault("users/current", fault, times=None)
    second = connect()
    second.refresh_from_db()
    assert second.refresh_token != first.refresh_token
    assert (second.ilert_user_id, second.display_name) == (101, "Grace Demo")
    assert second.email == "grace@acme.example"
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_a_database_that_cannot_keep_a_name_keeps_the_rest(
    callback: HttpRequest, caplog: pytest.LogCaptureFixture
) -> None:
    with failing_statements("Grace Demo", error=DataError):
        account = flows.finish_connect(callback)
    account.refresh_from_db()
    assert (account.status, account.ilert_user_id) == (Status.CONNECTED, 101)
    assert account.display_name == account.email == ""
    assert "names of account" in caplog.text
    assert "the words" not in caplog.text


def test_names_are_not_stored_in_another_row_with_the_same_key(account: ConnectedAccount) -> None:
    other = ConnectedAccount(pk=account.pk, user=account.user)
    store_names(other, CurrentUser(101, "Somebody Else", "else@example.com"))
    account.refresh_from_db()
    assert account.display_name == account.email == ""


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


@pytest.mark.usefixtures("three_byte_names")
def test_a_name_of_four_byte_characters_stops_no_connect(ilert: StandIn, connect: Connect) -> None:
    person = {"id": 101, "firstName": "Grace \U0001f600", "email": "grace@acme.example"}
    ilert.add_fault("users/current", Fault(200, json.dumps(person)))
    account = connect()
    account.refresh_from_db()
    assert (account.status, account.display_name) == (Status.CONNECTED, "")


@pytest.mark.parametrize(("requested", "is_read"), [("profile", True), ("source", False)])
def test_without_scope_in_the_responses_the_requested_one_decides_whether_the_user_is_asked_for(
    ilert: StandIn, connect: Connect, settings: Any, requested: str, is_read: bool
) -> None:
    settings.ILERT_OAUTH_SCOPES = [requested]
    first = connect()
    ConnectedAccount.objects.all()._raw_delete("default")
    info = {"active": True, "tenant_id": "acme", "username": "grace"}
    ilert.add_fault("token", given_again(first, "access_token", "refresh_token"))
    ilert.add_fault("token_info", Fault(200, json.dumps(info)))
    account = connect()
    assert account.granted_scope == requested
    assert account.ilert_user_id == (101 if is_read else None)
    assert (ilert.requests[-1].path == "/api/users/current") == is_read


@each_fault
def test_a_failure_after_the_exchange_revokes_the_new_grant_and_leaves_an_existing_one_alone(
    ilert: StandIn, connect: Connect, fault: Fault
) -> None:
    connect()
    before = ConnectedAccount.objects.values().get()
    for username, left in [("grace", 1), ("ada", 0)]:
        ilert.add_fault("token_info", fault)
        with pytest.raises(IlertOAuthError):
            connect(username)
        assert ilert.live_refresh_tokens("acme", username) == left
    assert ConnectedAccount.objects.values().get() == before


def test_a_failure_revokes_no_token_that_an_account_has_and_ilert_gives_once_more(
    ilert: StandIn, connect: Connect
) -> None:
    ilert.add_fault("token", given_again(connect(), "access_token", "refresh_token"))
    ilert.add_fault("token_info", DOWN)
    with pytest.raises(IlertUnavailableError):
        connect()
    assert revocations_sent(ilert) == []


def test_a_database_that_fails_leaves_no_grant_behind(
    ilert: StandIn, callback: HttpRequest
) -> None:
    with failing_statements("INSERT INTO", "connectedaccount"), pytest.raises(DatabaseError):
        flows.finish_connect(callback)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


@pytest.mark.parametrize(
    ("path", "faults"),
    [(client.TOKEN_PATH, []), (client.TOKEN_PATH, [DOWN]), (client.TOKEN_INFO_PATH, [])],
)
def test_an_interrupt_while_ilert_is_waited_for_leaves_no_grant_behind(
    callback: HttpRequest, ilert: StandIn, during_request: Any, path: str, faults: list[Fault]
) -> None:
    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)

    for fault in faults:
        ilert.add_fault("token", fault)
    during_request(path=path, after=interrupt)
    with pytest.raises(KeyboardInterrupt):
        flows.finish_connect(callback)
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert not ConnectedAccount.objects.exists()


def test_a_deadlock_costs_no_connect(ilert: StandIn, callback: HttpRequest) -> None:
    with failing_statements("INSERT INTO", "connectedaccount", error=OperationalError, times=4):
        account = flows.finish_connect(callback)
    assert list(ilert.ledger().values()) == [account.refresh_token.reveal()]


def test_a_new_grant_that_cannot_be_revoked_either_is_only_logged(
    ilert: StandIn, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    ilert.add_fault("token_info", DOWN)
    ilert.add_fault("revoke", DOWN)
    with pytest.raises(IlertUnavailableError):
        connect()
    assert "still valid: server_error" in caplog.text


def test_a_failure_without_a_refresh_token_has_nothing_to_revoke(
    ilert: StandIn, connect: Connect
) -> None:
    ilert.add_fault("token", Fault(status=200, body='{"access_token": "unknown"}'))
    with pytest.raises(IlertRejectedError) as caught:
        connect()
    assert caught.value.code == "inactive_token"
    assert revocations_sent(ilert) == []


# The request of the callback


def test_the_callback_leaves_no_code_in_the_request_nor_in_headers_that_were_read_before(
    callback: HttpRequest,
) -> None:
    copies = ("REQUEST_URI", "RAW_URI", "HTTP_REFERER", "HTTP_X_ORIGINAL_URI")
    for name in (*copies, "HTTP_X_MS_ORIGINAL_URL"):
        callback.META[name] = callback.get_full_path()
    callback.META["HTTP_COOKIE"] = "state=of-another-app"
    assert "code=" in callback.headers["Referer"]
    flows.finish_connect(callback)
    assert "code=" not in repr(callback) + str(callback.META) + str(callback.GET)
    assert callback.headers["Referer"] == ""
    assert callback.headers["Cookie"] == "state=of-another-app"


def test_a_query_that_was_encoded_in_one_piece_leaves_no_code_in_the_names_of_parameters(
    callback: HttpRequest, make_request: RequestMaker
) -> None:
    request = make_request(f"/?{quote(callback.META['QUERY_STRING'])}")
    with pytest.raises(StateError):
        flows.finish_connect(request)
    assert callback.GET["code"] not in str(vars(request))


def test_under_asgi_the_callback_leaves_no_code_in_the_scope(callback: HttpRequest) -> None:
    query = callback.META["QUERY_STRING"].encode()
    kept = [(b"host", b"testserver"), (b"cookie", b"state=of-another-app")]
    addresses = [(b"x-original-uri", b"/?" + query), (b"Referer", b"/?" + query)]
    scope = {"query_string": query, "headers": [*kept, *addresses]}
    vars(callback)["scope"] = scope
    flows.finish_connect(callback)
    blank = [(b"x-original-uri", b""), (b"Referer", b"")]
    assert scope == {"query_string": b"", "headers": [*kept, *blank]}


def test_the_query_alone_is_taken_out_of_the_event_of_a_function(callback: HttpRequest) -> None:
    """Zappa, apig-wsgi, serverless-wsgi and Mangum hand on what AWS Lambda was called with."""
    kept = {"requestContext": {"authorizer": "grace"}}
    query = callback.META["QUERY_STRING"]
    event = {"rawQueryString": query, "queryStringParameters": callback.GET.dict(), **kept}
    scope = {"query_string": query.encode(), "aws.event": event}
    callback.META |= {"lambda.event": event, "apig_wsgi.full_event": event}
    vars(callback)["scope"] = scope
    flows.finish_connect(callback)
    assert callback.META["lambda.event"] == callback.META["apig_wsgi.full_event"] == kept
    assert scope["aws.event"] == kept


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


# Beside others


def test_an_account_can_be_connected_inside_a_transaction_of_the_caller(
    ilert: StandIn, callback: HttpRequest
) -> None:
    with transaction.atomic():
        account = flows.finish_connect(callback)
        assert flows.finish_connect(callback) == account
    assert flows.finish_connect(callback) == account
    assert len(ilert.token_requests) == 1


def test_an_account_can_be_connected_by_a_caller_that_commits_by_hand(
    ilert: StandIn, callback: HttpRequest
) -> None:
    with without_autocommit():
        account = flows.finish_connect(callback)
        connection.commit()
    assert ConnectedAccount.objects.get() == account
    assert list(ilert.ledger().values()) == [account.refresh_token.reveal()]


def test_a_callback_again_after_a_rollback_is_left_to_ilert_to_refuse(
    callback: HttpRequest,
) -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        flows.finish_connect(callback)
        raise ZeroDivisionError
    with pytest.raises(IlertRejectedError) as caught:
        flows.finish_connect(callback)
    assert caught.value.code == "invalid_grant"
    assert not ConnectedAccount.objects.exists()


def test_settings_that_change_while_a_code_is_exchanged_count_from_the_next_request(
    ilert: StandIn, callback: HttpRequest, settings: Any, during_request: Any
) -> None:
    before = settings.ILERT_OAUTH_API_URL

    def change() -> None:
        settings.ILERT_OAUTH_API_URL = "http://127.0.0.1:1"
        settings.ILERT_OAUTH_CLIENT_ID = "another-client"

    during_request(before=change)
    account = flows.finish_connect(callback)
    assert (account.api_url, account.client_id) == (before, "the-client")
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def lose_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the commit that stores an account."""
    wrapper = connections["default"]
    commit = wrapper.commit

    def commit_and_fail() -> None:
        is_last = ConnectedAccount.objects.exists()
        commit()
        if is_last:
            monkeypatch.setattr(wrapper, "commit", commit)
            raise OperationalError("the server closed the connection")

    monkeypatch.setattr(wrapper, "commit", commit_and_fail)


def fail_in_a_hook_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    def enqueue() -> None:
        raise OSError("the broker is down")

    save = ConnectedAccount.save

    def save_and_hook(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        transaction.on_commit(enqueue)

    monkeypatch.setattr(ConnectedAccount, "save", save_and_hook)


@pytest.mark.parametrize(
    ("fail", "raises"),
    [
        (lose_the_response, nullcontext()),
        (fail_in_a_hook_of_the_site, pytest.raises(OSError, match="the broker is down")),
    ],
)
def test_a_failure_after_the_commit_ends_no_grant_that_is_stored(
    ilert: StandIn, callback: HttpRequest, monkeypatch: pytest.MonkeyPatch, fail: Any, raises: Any
) -> None:
    fail(monkeypatch)
    with raises:
        flows.finish_connect(callback)
    assert ConnectedAccount.objects.get().status == Status.CONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_while_the_database_cannot_tell_whether_a_grant_is_stored_it_is_not_revoked(
    ilert: StandIn, callback: HttpRequest
) -> None:
    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if "connectedaccount" in sql or "connected_uuid" in sql.partition(" WHERE ")[2]:
            raise OperationalError("away")
        return execute(sql, *args)

    with connection.execute_wrapper(refuse), pytest.raises(OperationalError):
        flows.finish_connect(callback)
    assert ilert.live_refresh_tokens("acme", "grace") == 1


@pytest.mark.parametrize("was_deleted", [False, True])
def test_a_token_that_ilert_gives_once_more_is_not_revoked_for_its_first_grant(
    ilert: StandIn, connect: Connect, was_deleted: bool
) -> None:
    account = connect()
    same = given_again(account, "access_token", "refresh_token")
    ilert.add_fault("revoke", DOWN)
    if was_deleted:
        account.delete()
    else:
        flows.disconnect(account)
    ilert.add_fault("token", same)
    connect()
    flows.revoke_pending()
    assert ilert.live_refresh_tokens("acme", "grace") == 1
