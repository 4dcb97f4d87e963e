from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, states
from celery.app.trace import build_tracer
from celery.backends.base import DisabledBackend
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _schedule
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from django_ilert_oauth.tasks import refresh_account, refresh_expiring_tokens, run_action
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.celery_app import memory_app, raw_messages

HandOut = Callable[[], list[int]]
ROOT = Path(__file__).parents[1]
DOWN = Fault(503)


@pytest.fixture(autouse=True)
def app() -> Iterator[Celery]:
    with memory_app() as app:
        yield app


@pytest.fixture
def messages(app: Celery) -> Callable[[], list[Any]]:
    """Takes what waits in the broker."""
    return lambda: raw_messages(app)


@pytest.fixture
def handed_out(messages: Callable[[], list[Any]]) -> HandOut:
    """The keys that a run of beat hands out, in order."""

    def run() -> list[int]:
        count = refresh_expiring_tokens()
        pks = [json.loads(message.body)[0][0] for message in messages()]
        assert len(pks) == count
        return pks

    return run


@pytest.fixture
def make_due(make_account: AccountFactory) -> AccountFactory:
    def make(username: str, **columns: Any) -> ConnectedAccount:
        columns = {"access_token_expires_at": ahead(minutes=5), **columns}
        return make_account(username=username, **columns)

    return make


@pytest.fixture
def people(people: People) -> People:
    """So many accounts that are due."""
    return partial(people, access_token_expires_at=ahead(minutes=5))


def ahead(**time: float) -> datetime:
    return timezone.now() + timedelta(**time)


def ago(**time: float) -> datetime:
    return timezone.now() - timedelta(**time)


def failed(code: str = "unreachable", **time: float) -> dict[str, Any]:
    return {"last_error": code, "last_error_at": ago(**time)}


def result(pk: object) -> Any:
    """Eager: what is to be retried is retried at once."""
    return refresh_account.apply((pk,)).get()


def test_the_names_stay_no_result_is_stored_and_accounts_are_worked_on_till_they_are_done() -> None:
    module = "django_ilert_oauth.tasks"
    assert refresh_expiring_tokens.name == f"{module}.refresh_expiring_tokens"
    assert refresh_account.name == f"{module}.refresh_account"
    assert refresh_account.acks_late
    assert refresh_account.reject_on_worker_lost
    for task in (refresh_expiring_tokens, refresh_account, run_action):
        assert task.ignore_result


def test_what_is_due_is_handed_out_and_nothing_else(
    make_due: AccountFactory, handed_out: HandOut
) -> None:
    due = make_due("due")
    unknown = make_due("unknown", access_token_expires_at=None, refreshed_at=ago(minutes=6))
    ahead = make_due("ahead", refreshed_at=timezone.now() + timedelta(days=1))
    make_due("fresh", access_token_expires_at=timezone.now() + timedelta(minutes=16))
    make_due("gone", status=Status.RECONNECT_REQUIRED)
    make_due("foreign", api_url="https://other.invalid")
    make_due("of-another-client", client_id="another")
    make_due("short-lived", refreshed_at=ago(minutes=4))
    make_due("leased", lease_id="another", lease_ends_ms=2**53)
    make_due("failed", **failed(minutes=9))
    assert set(handed_out()) == {due.pk, unknown.pk, ahead.pk}


def test_the_next_to_expire_goes_first_and_what_has_failed_before_goes_last(
    make_due: AccountFactory, handed_out: HandOut
) -> None:
    soon = timezone.now() + timedelta(minutes=2)
    stubborn = make_due("stubborn", **failed(minutes=11), access_token_expires_at=ago(days=9))
    later, sooner = make_due("later"), make_due("sooner", access_token_expires_at=soon)
    assert handed_out() == [sooner.pk, later.pk, stubborn.pk]


def test_a_failure_that_was_dated_a_year_ahead_keeps_nobody_back(
    make_due: AccountFactory, handed_out: HandOut
) -> None:
    account = make_due("grace", **failed(minutes=-365 * 24 * 60))
    assert handed_out() == [account.pk]


def test_messages_name_an_account_and_no_secret_and_are_spread_evenly_over_the_minute(
    people: People, messages: Callable[[], list[Any]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 4
    accounts, before = people(3), timezone.now()
    refresh_expiring_tokens()
    sent = messages()
    assert [json.loads(it.body)[:2] for it in sent] == [[[account.pk], {}] for account in accounts]
    for number, message in enumerate(sent):
        eta = datetime.fromisoformat(message.headers["eta"] or before.isoformat())
        expires = datetime.fromisoformat(message.headers["expires"])
        assert (eta - before).total_seconds() == pytest.approx(15 * number, abs=2)
        assert (expires - eta).total_seconds() == pytest.approx(_schedule.MAX_LATENESS, abs=2)
    raw = "".join(f"{message.body}{message.headers}{message.properties}" for message in sent)
    secrets = ["the-client-secret", *(account.refresh_token.reveal() for account in accounts)]
    secrets += [account.refresh_token_ciphertext for account in accounts]
    assert [secret for secret in secrets if secret in raw] == []


def test_no_run_hands_out_more_than_a_minute_of_requests(
    make_due: AccountFactory, handed_out: HandOut, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 2
    one, two, three = [make_due(name).pk for name in "abc"]
    assert handed_out() == [one, two]
    assert [result(one), result(two)] == ["refreshed", "refreshed"]
    assert handed_out() == [three]


def test_a_retry_takes_a_slot_from_the_run_and_what_makes_no_request_takes_none(
    make_due: AccountFactory, people: People, handed_out: HandOut, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 3
    make_due("retried", **failed("timeout", minutes=3))
    make_due("unreadable", **failed("token_unreadable", minutes=3))
    people(3)
    assert len(handed_out()) == 2
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    assert handed_out() == []


def test_without_a_rate_limit_all_go_at_once_and_end_with_the_minute(
    people: People, messages: Callable[[], list[Any]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 0
    people(3)
    before = timezone.now()
    assert refresh_expiring_tokens() == 3
    for message in messages():
        assert message.headers["eta"] is None
        expires = datetime.fromisoformat(message.headers["expires"])
        assert expires >= before + timedelta(seconds=_schedule.MINUTE)


def test_the_keys_are_streamed_by_as_many_queries_for_many_accounts_as_for_one(
    make_due: AccountFactory,
) -> None:
    counts = set()
    refresh_expiring_tokens()
    for name in "abc":
        make_due(name)
        with CaptureQueriesContext(connection) as queries:
            refresh_expiring_tokens()
        counts.add(len(queries))
    assert len(counts) == 1


def test_a_stale_run_does_not_start_at_all(messages: Callable[[], list[Any]]) -> None:
    before = timezone.now()
    refresh_expiring_tokens.delay()
    [message] = messages()
    expires = datetime.fromisoformat(message.headers["expires"])
    assert before < expires <= timezone.now() + timedelta(seconds=_schedule.MINUTE)


def test_two_beats_in_one_minute_make_one_request_for_each_account(
    people: People, handed_out: HandOut, ilert: StandIn
) -> None:
    people(3)
    pks = handed_out() + handed_out()
    assert len(pks) == 6
    assert [result(pk) for pk in pks] == ["refreshed"] * 3 + ["not_due"] * 3
    assert len(ilert.token_requests) == 3


def test_a_doubled_message_makes_no_request_while_the_other_waits_to_retry(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    account = make_due("grace", **failed(seconds=30))
    assert result(account.pk) == "not_due"
    assert ilert.token_requests == []


def test_pending_revocations_are_sent_once_a_run(
    account: ConnectedAccount, ilert: StandIn, handed_out: HandOut
) -> None:
    flows.disconnect(account)
    assert PendingRevocation.objects.count() == 1
    handed_out()
    assert PendingRevocation.objects.count() == 0
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_due_revocations_take_slots_from_the_run_but_hold_up_nothing_when_they_fail(
    people: People, account: ConnectedAccount, ilert: StandIn, handed_out: HandOut, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 3
    ilert.add_fault("revoke", DOWN)
    flows.disconnect(account)
    people(3)
    assert len(handed_out()) == 2
    PendingRevocation.objects.update(given_up_at=timezone.now())
    assert len(handed_out()) == 3


def refuse(ilert: StandIn, people: People, *, times: int, due: int = 2) -> list[int]:
    """Ten grants are ended by single tasks; the keys of some more that are due."""
    ilert.add_fault("token", Fault(401, '{"code": "invalid_grant"}'), times=times)
    pks = [account.pk for account in people(10 + due)]
    assert [result(pk) for pk in pks[:10]] == ["invalid_grant"] * 10
    return pks[10:]


def test_after_ten_invalid_grants_in_a_row_no_task_ends_a_grant_where_one_was_refused(
    people: People, ilert: StandIn
) -> None:
    due = refuse(ilert, people, times=10)
    assert result(due[0]) == "credentials"
    assert len(ilert.token_requests) == 10
    _schedule._refused.clear()
    assert [result(pk) for pk in due] == ["refreshed", "refreshed"]


@pytest.mark.parametrize(("code", "asked"), [("invalid_grant", 10), ("invalid_client", 1)])
def test_after_ten_invalid_grants_a_run_asks_ten_at_most_marks_nothing_and_says_what_to_check(
    people: People,
    ilert: StandIn,
    handed_out: HandOut,
    caplog: pytest.LogCaptureFixture,
    code: str,
    asked: int,
) -> None:
    refuse(ilert, people, times=10, due=11)
    ilert.add_fault("token", Fault(401, f'{{"code": "{code}"}}'), times=None)
    assert handed_out() == []
    assert len(ilert.token_requests) == 10 + asked
    assert ConnectedAccount.objects.connected().count() == 11
    assert "Check ILERT_OAUTH_CLIENT_ID" in caplog.text
    assert "--mark-ended" in caplog.text


def test_each_client_has_its_own_accounts_handed_out(
    make_due: AccountFactory, handed_out: HandOut, settings: Any
) -> None:
    staging = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "x"}
    elsewhere = {"CLIENT_ID": "x", "CLIENT_SECRET": "x", "API_URL": "https://api.example"}
    settings.ILERT_OAUTH_CLIENTS = {"staging": staging, "elsewhere": elsewhere}
    due = [
        make_due("default"),
        make_due("staging", client="staging"),
        make_due("elsewhere", client="elsewhere"),
    ]
    make_due("gone", client_id="gone")
    assert handed_out() == [account.pk for account in due]


def test_a_client_whose_grants_are_all_refused_holds_up_no_other(
    make_due: AccountFactory,
    people: People,
    handed_out: HandOut,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    staging = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "wrong"}
    settings.ILERT_OAUTH_CLIENTS = {"staging": staging}
    good = make_due("good")
    *refused, last = (account.pk for account in people(11, client="staging"))
    assert [result(pk) for pk in refused] == ["invalid_grant"] * 10
    assert result(last) == "credentials"
    assert handed_out() == [good.pk]
    assert result(good.pk) == "refreshed"
    assert "every grant of the client staging" in caplog.text


def test_once_the_credentials_are_right_a_run_hands_out_what_is_due_again(
    people: People, ilert: StandIn, handed_out: HandOut
) -> None:
    refuse(ilert, people, times=10, due=11)
    [pk] = handed_out()
    assert result(pk) == "refreshed"


@pytest.mark.parametrize("column", ["refreshed_at", "connected_at"])
def test_invalid_grants_with_a_good_response_among_them_make_nothing_else_suspect(
    people: People, account: ConnectedAccount, ilert: StandIn, handed_out: HandOut, column: str
) -> None:
    due = refuse(ilert, people, times=10)
    ConnectedAccount.objects.filter(pk=account.pk).update(**{column: timezone.now()})
    assert set(due) <= set(handed_out())


def test_an_account_that_is_due_is_refreshed(make_due: AccountFactory, ilert: StandIn) -> None:
    account = make_due("grace")
    assert result(account.pk) == "refreshed"
    account.refresh_from_db()
    assert account.is_fresh(timedelta(minutes=59))
    assert len(ilert.token_requests) == 1


def test_an_account_that_is_not_due_any_more_or_was_deleted_is_not_refreshed(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    fresh = make_due("fresh", access_token_expires_at=ahead(hours=1))
    just_refreshed = make_due("refreshed", refreshed_at=timezone.now())
    ended = make_due("ended", status=Status.DISCONNECTED)
    pks = [account.pk for account in (fresh, just_refreshed, ended)]
    assert [result(pk) for pk in (*pks, max(pks) + 1)] == ["not_due"] * 4
    assert ilert.token_requests == []


def test_what_trying_again_does_not_fix_ends_with_its_code(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    gone, lost = make_due("grace"), make_due("ada")
    ilert.revoke_app("acme", "grace")
    ConnectedAccount.objects.filter(pk=lost.pk).update(refresh_token_ciphertext="broken")
    assert [result(gone.pk), result(lost.pk)] == ["invalid_grant", "token_unreadable"]
    assert len(ilert.token_requests) == 1


def test_what_is_transient_is_tried_again_three_times_and_then_left_to_later_runs(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("token", DOWN, times=4 + 3)
    grace = make_due("grace")
    assert result(grace.pk) == "server_error"
    assert len(ilert.token_requests) == 4
    ConnectedAccount.objects.update(last_error_at=None)
    assert result(grace.pk) == "refreshed"
    assert len(ilert.token_requests) == 8


def test_a_retry_makes_no_request_if_another_caller_has_refreshed_the_account(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    account = make_due("grace")
    flows.refresh(account)
    assert refresh_account.apply((account.pk,), retries=1).get() == "not_due"
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize(
    ("retries", "asked", "least", "most"),
    [(2, None, 240, 300), (0, 1, 60, 75), (0, 200, 200, 250), (0, 9e9, 300, 375)],
)
def test_a_retry_waits_for_what_ilert_asks_and_longer_each_time(
    retries: int, asked: float | None, least: float, most: float
) -> None:
    assert least <= _schedule.retry_delay(retries, asked) <= most


#: Seconds until RabbitMQ closes the channel; Redis waits an hour and hands out again.
SHORTEST_PATIENCE_OF_A_BROKER = 30 * 60


def test_no_message_waits_as_long_as_a_broker_lets_it(
    people: People, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    people(3)
    slots = []
    for settings.ILERT_OAUTH_REQUESTS_PER_MINUTE in (1, 2, 3, 600, 0):
        slots += [slot.delay for slot in _schedule.slots()]
    retries = [
        _schedule.retry_delay(number, asked)
        for number in range(_schedule.MAX_RETRIES)
        for asked in (None, 1e9)
    ]
    assert max(slots) < _schedule.MINUTE
    assert max(retries) + _schedule.MAX_LATENESS < 10 * 60 < SHORTEST_PATIENCE_OF_A_BROKER


@pytest.fixture
def eager(app: Celery) -> None:
    app.conf.update(task_always_eager=True, task_eager_propagates=True)


@pytest.mark.usefixtures("eager")
def test_eager_tasks_refresh_all_that_is_due_once(people: People, ilert: StandIn) -> None:
    expected = sorted(account.refresh_token.reveal() for account in people(3))
    assert refresh_expiring_tokens.delay().get() == 3
    assert sorted(request.form["refresh_token"] for request in ilert.token_requests) == expected


@pytest.mark.usefixtures("eager")
def test_eager_tasks_wait_for_no_slot(people: People, settings: Any) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 2
    people(2)
    started = time.monotonic()
    refresh_expiring_tokens.delay()
    assert time.monotonic() - started < _schedule.MINUTE / 2
    assert not ConnectedAccount.objects.filter(refreshed_at=None).exists()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("propagates", "requests"), [(True, 1), (False, 4)])
def test_eager_tasks_that_fail_end_with_their_retries_and_stop_none_of_the_others(
    app: Celery, people: People, ilert: StandIn, propagates: bool, requests: int
) -> None:
    app.conf.task_eager_propagates = propagates
    people(2)
    ilert.add_fault("token", DOWN, times=None)
    assert refresh_expiring_tokens.delay().get() == 2
    assert len(ilert.token_requests) == 2 * requests
    assert ConnectedAccount.objects.connected().count() == 2


def test_a_retry_names_the_account_waits_as_ilert_asks_and_needs_no_result_backend(
    make_due: AccountFactory, ilert: StandIn, app: Celery, messages: Callable[[], list[Any]]
) -> None:
    """As a try in a worker sends it."""
    assert isinstance(app.backend, DisabledBackend)
    pk, name, before = make_due("grace").pk, refresh_account.name, timezone.now()
    ilert.add_fault("token", Fault(429, headers={"Retry-After": "200"}))
    facts = {"args": [pk], "kwargs": {}, "delivery_info": {}, "retries": 1}
    outcome: Any = build_tracer(name, app.tasks[name], app=app)("a-task", [pk], {}, facts)
    assert outcome.info.state == states.RETRY
    [message] = messages()
    assert (json.loads(message.body)[:2], message.headers["retries"]) == ([[pk], {}], 2)
    eta, expires = (datetime.fromisoformat(message.headers[key]) for key in ("eta", "expires"))
    assert timedelta(seconds=200) <= eta - before <= timedelta(seconds=260)
    assert expires > eta


WITHOUT_A_QUEUE = """
import pkgutil, sys
queues = ["celery", "django.tasks", "django_tasks", "django_tasks_db"]
sys.modules.update(dict.fromkeys(queues))
import django
django.setup()
import django_ilert_oauth
prefix = "django_ilert_oauth."
names = {module.name for module in pkgutil.walk_packages(django_ilert_oauth.__path__, prefix)}
for name in names - {prefix + "tasks", prefix + "background"}:
    __import__(name)
for name in ("tasks", "background"):
    try:
        __import__(prefix + name)
    except ImportError:
        print("no", name)
"""


def test_all_but_the_tasks_works_without_a_queue() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_QUEUE],
        cwd=ROOT,
        env={"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""
    assert run.stdout == "no tasks\nno background\n"
