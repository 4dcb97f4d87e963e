from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest
from django.utils import timezone

from django_ilert_oauth import state
from django_ilert_oauth.exceptions import StateError
from django_ilert_oauth.models import UsedAttempt
from django_ilert_oauth.state import SESSION_KEY, Attempt


@pytest.fixture
def request_of_user(user: User) -> HttpRequest:
    store = SessionStore()
    store.create()
    return make_request(user, store.session_key)


def make_request(user: Any, session_key: str | None) -> HttpRequest:
    request = HttpRequest()
    request.user = user
    request.session = SessionStore(session_key)
    return request


def again(request: HttpRequest) -> HttpRequest:
    """The next request of the same browser: it sees only what was saved."""
    return make_request(request.user, request.session.session_key)


def begin(request: HttpRequest, next_url: str = "/after/") -> Attempt:
    return state.begin(request, requested_scope="profile source:w", next_url=next_url)


def stored(request: HttpRequest) -> dict[str, Any]:
    return dict(again(request).session[SESSION_KEY])


def age(request: HttpRequest, seconds: float) -> None:
    for entry in request.session[SESSION_KEY].values():
        entry["begun_at"] -= seconds
    request.session.save()


def wished_next_url(request: HttpRequest, attempt: Attempt) -> str | None:
    wishes = state.wishes(request, attempt.state)
    return wishes.next_url if wishes else None


def test_an_attempt_is_saved_at_once(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    found = state.consume(again(request_of_user), attempt.state)
    assert found == attempt
    assert found.requested_scope == "profile source:w"


def test_states_and_verifiers_are_fresh_and_long(request_of_user: HttpRequest) -> None:
    attempts = [begin(request_of_user) for _ in range(5)]
    assert len({attempt.state for attempt in attempts}) == 5
    assert len({attempt.code_verifier for attempt in attempts}) == 5
    assert all(len(attempt.state) >= 22 for attempt in attempts)
    assert all(43 <= len(attempt.code_verifier) <= 128 for attempt in attempts)


def test_the_session_holds_the_digest_of_a_state_and_not_the_state(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    assert list(stored(request_of_user)) == [hashlib.sha256(attempt.state.encode()).hexdigest()]
    assert str(attempt.state) not in json.dumps(stored(request_of_user))


def test_an_attempt_does_not_show_its_secrets(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    assert str(attempt.state) not in repr(attempt)
    assert str(attempt.code_verifier) not in repr(attempt)


def test_an_attempt_is_used_once(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    state.consume(request_of_user, attempt.state)
    with pytest.raises(StateError) as raised:
        state.consume(again(request_of_user), attempt.state)
    assert raised.value.code == "state_used"


def test_nothing_secret_is_left_of_a_used_attempt(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    state.consume(request_of_user, attempt.state)
    left = json.dumps(stored(request_of_user))
    assert str(attempt.code_verifier) not in left
    assert str(attempt.state) not in left


def test_using_one_attempt_leaves_the_others(request_of_user: HttpRequest) -> None:
    first, second = begin(request_of_user), begin(request_of_user)
    state.consume(again(request_of_user), first.state)
    assert state.consume(again(request_of_user), second.state) == second


@pytest.mark.parametrize("unknown", ["", "unknown", "\ud800", "\x00", "x" * 100_000])
def test_an_unknown_state_is_refused(request_of_user: HttpRequest, unknown: str) -> None:
    begin(request_of_user)
    with pytest.raises(StateError) as raised:
        state.consume(request_of_user, unknown)
    assert raised.value.code == "invalid_state"


def test_the_digest_itself_is_no_state(request_of_user: HttpRequest) -> None:
    begin(request_of_user)
    with pytest.raises(StateError):
        state.consume(request_of_user, next(iter(stored(request_of_user))))


def test_another_user_of_the_same_browser_cannot_use_an_attempt(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    other = User.objects.create_user("other")
    for visitor in (other, AnonymousUser()):
        with pytest.raises(StateError):
            state.consume(make_request(visitor, request_of_user.session.session_key), attempt.state)
    assert state.consume(request_of_user, attempt.state) == attempt


def test_another_session_of_the_user_cannot_use_an_attempt(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    with pytest.raises(StateError):
        state.consume(make_request(request_of_user.user, None), attempt.state)


def test_an_attempt_lasts_ten_minutes(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    age(request_of_user, 595)
    assert wished_next_url(request_of_user, attempt) == "/after/"
    age(request_of_user, 6)
    assert state.wishes(request_of_user, attempt.state) is None
    with pytest.raises(StateError):
        state.consume(request_of_user, attempt.state)


def test_an_attempt_that_has_run_out_is_cleared_away(request_of_user: HttpRequest) -> None:
    begin(request_of_user)
    age(request_of_user, 601)
    begin(request_of_user)
    (entry,) = stored(request_of_user).values()
    assert entry["begun_at"] == pytest.approx(time.time(), abs=60)


def test_the_eleventh_attempt_drops_the_oldest(request_of_user: HttpRequest) -> None:
    first, second, *_others = [begin(request_of_user) for _ in range(11)]
    assert len(stored(request_of_user)) == 10
    assert state.consume(request_of_user, second.state) == second
    with pytest.raises(StateError):
        state.consume(request_of_user, first.state)


def test_no_attempt_begins_in_a_session_that_has_ended(request_of_user: HttpRequest) -> None:
    request_of_user.session.get("loaded")
    Session.objects.all().delete()
    with pytest.raises(StateError) as raised:
        begin(request_of_user)
    assert raised.value.code == "session_ended"


def test_no_attempt_is_used_in_a_session_that_has_ended(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    Session.objects.all().delete()
    with pytest.raises(StateError):
        state.consume(request_of_user, attempt.state)


def test_a_used_attempt_remembers_its_account(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    assert state.remembered_account(request_of_user, attempt.state) is None
    state.consume(request_of_user, attempt.state)
    assert state.remembered_account(again(request_of_user), attempt.state) is None
    state.remember(attempt, 17)
    assert state.remembered_account(again(request_of_user), attempt.state) == 17


def test_nobody_else_learns_what_an_attempt_has_connected(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    state.consume(request_of_user, attempt.state)
    state.remember(attempt, 17)
    other = make_request(User.objects.create_user("other"), request_of_user.session.session_key)
    with pytest.raises(StateError):
        state.remembered_account(other, attempt.state)
    assert state.wishes(other, attempt.state) is None
    assert state.wishes(request_of_user, attempt.state) is None


def test_no_account_is_remembered_for_an_unknown_state(request_of_user: HttpRequest) -> None:
    with pytest.raises(StateError):
        state.remembered_account(request_of_user, "unknown")


def test_an_attempt_that_has_run_out_is_not_remembered(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    state.consume(request_of_user, attempt.state)
    state.remember(attempt, 17)
    age(request_of_user, 601)
    with pytest.raises(StateError):
        state.remembered_account(request_of_user, attempt.state)


def test_a_request_ends_without_an_attempt_that_was_dropped_meanwhile(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    state.consume(request_of_user, attempt.state)
    age(request_of_user, 601)
    state.conclude(request_of_user, attempt.state)
    assert request_of_user.session[SESSION_KEY] == {}


def test_a_request_ends_with_what_other_tabs_have_written_meanwhile(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    slow = again(request_of_user)
    slow.session.get("loaded")
    begin(again(request_of_user))
    state.conclude(slow, attempt.state)
    slow.session.save()
    used, other = stored(request_of_user).values()
    assert "code_verifier" not in used
    assert "code_verifier" in other


def test_a_used_attempt_has_no_next_url(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    assert wished_next_url(request_of_user, attempt) == "/after/"
    state.consume(request_of_user, attempt.state)
    assert state.wishes(request_of_user, attempt.state) is None
    assert state.wishes(request_of_user, "unknown") is None


# Used once, whatever the session says


def restored(request: HttpRequest, session: dict[str, Any]) -> HttpRequest:
    """The next request, whose session is as it was before."""
    request = again(request)
    request.session.update(session)
    request.session.save()
    return request


def test_an_attempt_that_comes_back_with_an_old_session_is_used_all_the_same(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    before = dict(again(request_of_user).session)
    state.consume(request_of_user, attempt.state)
    replayed = restored(request_of_user, before)
    assert state.wishes(replayed, attempt.state) is None
    with pytest.raises(StateError) as raised:
        state.consume(replayed, attempt.state)
    assert raised.value.code == "state_used"
    assert str(attempt.code_verifier) not in json.dumps(stored(request_of_user))


def test_the_table_of_used_attempts_holds_no_secret(request_of_user: HttpRequest) -> None:
    attempt = begin(request_of_user)
    state.consume(request_of_user, attempt.state)
    [row] = UsedAttempt.objects.values()
    assert row["digest"] == hashlib.sha256(attempt.state.encode()).hexdigest()
    shown = f"{row} {UsedAttempt.objects.get()}"
    assert str(attempt.state) not in shown
    assert str(attempt.code_verifier) not in shown


@pytest.mark.django_db(transaction=True)
def test_used_attempts_are_forgotten_once_they_cannot_come_back(
    request_of_user: HttpRequest,
) -> None:
    attempts = [begin(request_of_user) for _ in range(3)]
    for attempt, age_of_row in zip(attempts[:2], [25, 23], strict=True):
        state.consume(request_of_user, attempt.state)
        long_ago = timezone.now() - timedelta(hours=age_of_row)
        UsedAttempt.objects.filter(account_pk=None).update(used_at=long_ago, account_pk=1)
    state.consume(request_of_user, attempts[2].state)
    assert UsedAttempt.objects.count() == 2
    assert state.wishes(request_of_user, attempts[1].state) is None


@pytest.mark.django_db(transaction=True)
def test_a_table_that_cannot_be_cleared_keeps_nobody_from_connecting(
    request_of_user: HttpRequest,
) -> None:
    def refuse(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("DELETE"):
            raise DatabaseError("busy")
        return execute(sql, *args)

    attempt = begin(request_of_user)
    with connection.execute_wrapper(refuse):
        assert state.consume(request_of_user, attempt.state) == attempt


def test_an_attempt_used_in_a_transaction_that_is_rolled_back_was_not_used(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    with suppress(ZeroDivisionError), transaction.atomic():
        state.consume(request_of_user, attempt.state)
        raise ZeroDivisionError
    assert state.consume(again(request_of_user), attempt.state) == attempt


def test_a_second_use_leaves_the_transaction_of_the_caller_whole(
    request_of_user: HttpRequest,
) -> None:
    attempt = begin(request_of_user)
    before = dict(again(request_of_user).session)
    state.consume(request_of_user, attempt.state)
    with transaction.atomic():
        with pytest.raises(StateError):
            state.consume(restored(request_of_user, before), attempt.state)
        assert UsedAttempt.objects.count() == 1


# The ilert that it is for


def test_an_attempt_is_for_the_ilert_it_was_begun_at(
    request_of_user: HttpRequest, settings: Any
) -> None:
    attempt = begin(request_of_user)
    settings.ILERT_OAUTH_API_URL = "https://other.example"
    with pytest.raises(StateError, match="Connect again") as raised:
        state.consume(request_of_user, attempt.state)
    assert raised.value.code == "endpoint_mismatch"
    assert begin(request_of_user).api_url == "https://other.example"
