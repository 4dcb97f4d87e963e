"""Each authorization request is used once, by the user and the browser that it was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import login, logout, update_session_auth_hash
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest
from django.utils import timezone

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import StateError, TokenDecryptionError
from django_ilert_oauth.internal import authorization_request
from django_ilert_oauth.internal.authorization_request import BROWSER_KEY, consume, find
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret

STATE, VERIFIER = Secret("the-state-of-this-request"), Secret("the-verifier-of-this-request")


def request_of(user: Any, session: Any = None) -> HttpRequest:
    request = HttpRequest()
    request.user, request.session = user, SessionStore() if session is None else session
    return request


def logged_in(user: User, session: Any = None) -> HttpRequest:
    """A request of a browser in which the user has logged in; its session is stored."""
    request = request_of(AnonymousUser(), session)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.session.save()
    return request


def again(request: HttpRequest) -> HttpRequest:
    """The next request of the same browser: it sees only what was saved."""
    return request_of(request.user, type(request.session)(request.session.session_key))


def store(request: HttpRequest, state: Secret = STATE, **columns: Any) -> AuthorizationRequest:
    columns = {"requested_scope": "profile", "next_url": "/after/", **columns}
    return authorization_request.store(request, state, VERIFIER, conf.client(), **columns)


def age(minutes: float) -> None:
    for row in AuthorizationRequest.objects.all():
        row.expires_at -= timedelta(minutes=minutes)
        row.save()


@pytest.fixture
def request_of_user(user: User) -> HttpRequest:
    return logged_in(user)


def assert_unknown(request: HttpRequest, state: Secret = STATE) -> None:
    with pytest.raises(StateError) as raised:
        find(request, state)
    assert raised.value.code == "invalid_state"


def test_what_was_stored_is_found_by_its_state(request_of_user: HttpRequest) -> None:
    store(request_of_user)
    found = find(again(request_of_user), STATE)
    assert (found.requested_scope, found.next_url) == ("profile", "/after/")
    assert found.code_verifier == VERIFIER


@pytest.mark.parametrize("unknown", ["", "unknown", "\ud800", "\x00", "x" * 100_000])
def test_an_unknown_state_is_refused(request_of_user: HttpRequest, unknown: str) -> None:
    store(request_of_user)
    assert_unknown(request_of_user, Secret(unknown))


def test_the_digest_itself_is_no_state(request_of_user: HttpRequest) -> None:
    assert_unknown(request_of_user, Secret(store(request_of_user).pk))


def test_the_table_holds_digests_and_ciphertext_only(request_of_user: HttpRequest) -> None:
    stored = store(request_of_user)
    assert stored.state_digest == hashlib.sha256(STATE.reveal().encode()).hexdigest()
    shown = f"{AuthorizationRequest.objects.values().get()} {stored} {vars(stored)}"
    for secret in (STATE.reveal(), VERIFIER.reveal(), request_of_user.session[BROWSER_KEY]):
        assert secret not in shown


def test_a_verifier_opens_in_no_other_row(request_of_user: HttpRequest) -> None:
    one, other = store(request_of_user), store(request_of_user, Secret("another-state"))
    other.code_verifier_ciphertext = one.code_verifier_ciphertext
    with pytest.raises(TokenDecryptionError):
        _ = other.code_verifier


# Whose it is


def test_another_user_of_the_same_browser_cannot_use_it(request_of_user: HttpRequest) -> None:
    store(request_of_user)
    for visitor in (User.objects.create_user("other"), AnonymousUser()):
        assert_unknown(request_of(visitor, request_of_user.session))
    assert find(request_of_user, STATE)


def test_another_browser_of_the_user_cannot_use_it(
    request_of_user: HttpRequest, user: User
) -> None:
    store(request_of_user)
    assert_unknown(logged_in(user))
    assert find(request_of_user, STATE)


def test_who_logs_out_and_in_again_cannot_use_it(request_of_user: HttpRequest, user: User) -> None:
    store(request_of_user)
    logout(request_of_user)
    assert_unknown(logged_in(user, request_of_user.session))


def test_who_logs_in_once_more_in_the_same_browser_can_use_it(
    request_of_user: HttpRequest, user: User
) -> None:
    store(request_of_user)
    assert find(again(logged_in(user, request_of_user.session)), STATE)


def test_who_changes_the_password_meanwhile_can_use_it(
    request_of_user: HttpRequest, user: User
) -> None:
    store(request_of_user)
    key = request_of_user.session.session_key
    update_session_auth_hash(request_of_user, user)
    request_of_user.session.save()
    assert request_of_user.session.session_key != key
    assert find(again(request_of_user), STATE)


def test_who_logs_in_without_a_session_gets_none(user: User) -> None:
    anonymous = request_of(AnonymousUser())
    for request in (anonymous, HttpRequest(), None):
        user_logged_in.send(User, request=request, user=user)
    assert anonymous.session.is_empty()


ENGINES = ["cache", "cached_db", "db", "file", "signed_cookies"]
SERIALIZERS = [
    "django.contrib.sessions.serializers.JSONSerializer",
    "tests.test_authorization_request.PickleSerializer",
]


class PickleSerializer:
    """As Django had one until 5.0, and as sites have copied it."""

    def dumps(self, obj: Any) -> bytes:
        import pickle

        return pickle.dumps(obj)

    def loads(self, data: bytes) -> Any:
        import pickle

        return pickle.loads(data)  # noqa: S301


@pytest.fixture(params=ENGINES)
def new_session(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> Callable[[], Any]:
    from importlib import import_module

    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    settings.SESSION_FILE_PATH = tmp_path
    store: Callable[[], Any] = import_module(settings.SESSION_ENGINE).SessionStore
    return store


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_whatever_keeps_the_sessions_a_browser_is_told_from_another(
    user: User, new_session: Callable[[], Any], settings: Any, serializer: str
) -> None:
    settings.SESSION_SERIALIZER = serializer
    browser = logged_in(user, new_session())
    store(browser)
    browser.session["more"] = "of the site"
    browser.session.save()
    assert find(again(browser), STATE)
    assert_unknown(logged_in(user, new_session()))


def test_whatever_keeps_the_sessions_an_older_one_does_as_well(
    user: User, new_session: Callable[[], Any]
) -> None:
    browser = logged_in(user, new_session())
    before = dict(browser.session.items())
    store(browser)
    browser.session.clear()
    browser.session.update(before)
    browser.session.save()
    assert find(again(browser), STATE)


def from_before_the_app(user: User, session: Any) -> HttpRequest:
    request = logged_in(user, session)
    del request.session[BROWSER_KEY]
    request.session.save()
    return request


def test_a_session_from_before_the_app_was_installed_is_known_by_its_key(user: User) -> None:
    browser = from_before_the_app(user, SessionStore())
    store(browser)
    assert find(again(browser), STATE)
    assert_unknown(from_before_the_app(user, SessionStore()))


def test_a_cookie_session_from_before_the_app_was_installed_is_known_by_its_user(
    user: User, settings: Any
) -> None:
    from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore

    browser = from_before_the_app(user, CookieStore())
    store(browser)
    browser.session["more"] = "of the site"
    browser.session.save()
    assert find(again(browser), STATE)


# Consumed once


def test_it_is_consumed_once(request_of_user: HttpRequest) -> None:
    store(request_of_user)
    first, second = (find(request_of_user, STATE) for _ in range(2))
    assert consume(first)
    for late in (second, find(request_of_user, STATE)):
        with pytest.raises(StateError) as raised:
            consume(late)
        assert raised.value.code == "state_used"


def test_one_update_consumes_it_and_wipes_the_verifier(request_of_user: HttpRequest) -> None:
    found = store(request_of_user)
    consumed_at = consume(found)
    row = AuthorizationRequest.objects.get()
    assert (row.consumed_at, row.code_verifier_ciphertext) == (consumed_at, "")
    assert found.code_verifier == VERIFIER


def test_consuming_one_leaves_the_others(request_of_user: HttpRequest) -> None:
    one, other = store(request_of_user), store(request_of_user, Secret("another-state"))
    consume(one)
    assert consume(other)


def test_it_lasts_ten_minutes_by_the_clock_of_the_database(
    request_of_user: HttpRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def long_ago() -> datetime:
        return datetime(1999, 1, 1)  # noqa: DTZ001

    monkeypatch.setattr(timezone, "now", long_ago)
    store(request_of_user)
    age(9.9)
    unused = find(request_of_user, STATE)
    age(0.2)
    with pytest.raises(StateError) as raised:
        consume(find(request_of_user, STATE))
    assert raised.value.code == "invalid_state"
    assert consume(unused)


@pytest.mark.parametrize("name", ["API_URL", "CLIENT_ID"])
def test_it_is_for_the_ilert_and_the_client_it_was_made_for(
    request_of_user: HttpRequest, settings: Any, name: str
) -> None:
    found = store(request_of_user)
    setattr(settings, f"ILERT_OAUTH_{name}", "https://other.example")
    with pytest.raises(StateError, match="Connect again") as raised:
        consume(found)
    assert raised.value.code == "endpoint_mismatch"
    assert consume(store(request_of_user, Secret("another-state")))


@pytest.mark.django_db(transaction=True)
def test_it_is_committed_before_the_caller_goes_on(request_of_user: HttpRequest) -> None:
    consume(store(request_of_user))
    connection.close()
    assert AuthorizationRequest.objects.exclude(consumed_at=None).exists()


def test_in_a_transaction_that_is_rolled_back_it_was_not_consumed(
    request_of_user: HttpRequest,
) -> None:
    found = store(request_of_user)
    with suppress(ZeroDivisionError), transaction.atomic():
        consume(found)
        raise ZeroDivisionError
    again_found = find(request_of_user, STATE)
    assert (again_found.consumed_at, again_found.code_verifier) == (None, VERIFIER)
    assert consume(again_found)


def test_a_second_use_does_not_break_the_transaction_of_the_caller(
    request_of_user: HttpRequest,
) -> None:
    found = store(request_of_user)
    consume(found)
    with transaction.atomic():
        with pytest.raises(StateError):
            consume(found)
        assert AuthorizationRequest.objects.count() == 1


# What is left of it


@pytest.mark.django_db(transaction=True)
def test_old_rows_go_with_the_next_consumption(request_of_user: HttpRequest) -> None:
    for number in range(3):
        store(request_of_user, Secret(f"state-{number}"))
    consume(find(request_of_user, Secret("state-0")))
    age(10.1)
    last = store(request_of_user)
    assert AuthorizationRequest.objects.count() == 4
    consume(last)
    assert AuthorizationRequest.objects.get() == last


@pytest.mark.django_db(transaction=True)
def test_a_table_that_cannot_be_cleared_keeps_nobody_from_connecting(
    request_of_user: HttpRequest,
) -> None:
    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("DELETE"):
            raise DatabaseError("busy")
        return execute(sql, *args)

    found = store(request_of_user)
    with connection.execute_wrapper(refuse):
        assert consume(found)


def test_it_remembers_what_it_has_connected(
    request_of_user: HttpRequest, account: ConnectedAccount
) -> None:
    found = store(request_of_user)
    authorization_request.note_connected(found, account)
    assert find(again(request_of_user), STATE).connected_uuid == account.uuid


def test_it_goes_with_its_user(request_of_user: HttpRequest, user: User) -> None:
    store(request_of_user)
    user.delete()
    assert not AuthorizationRequest.objects.using(database()).exists()
