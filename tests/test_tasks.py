from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows import _schedule
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from django_ilert_oauth.tasks import refresh_account, refresh_expiring_tokens
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory

ROOT = Path(__file__).parents[1]
DOWN = Fault(503)


@pytest.fixture(autouse=True)
def app() -> Iterator[Celery]:
    """A broker in this process; no worker."""
    app = Celery("tests", broker="memory://", set_as_current=False)
    app.set_current()
    yield app
    with app.connection_for_write() as broker:
        channel: Any = broker.default_channel
        channel.queue_purge("celery")


@pytest.fixture
def messages(app: Celery) -> Callable[[], list[Any]]:
    """Takes what waits in the broker."""

    def take() -> list[Any]:
        with app.connection_for_read() as broker:
            channel: Any = broker.default_channel
            app.amqp.queues["celery"].bind(channel).declare()
            return list(iter(lambda: channel.basic_get("celery", no_ack=True), None))

    return take


@pytest.fixture
def handed_out(messages: Callable[[], list[Any]]) -> Callable[[], list[int]]:
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
        columns = {"access_token_expires_at": timezone.now() + timedelta(minutes=5), **columns}
        return make_account(username=username, **columns)

    return make


def ago(**time: float) -> datetime:
    return timezone.now() - timedelta(**time)


def failed(code: str = "unreachable", **time: float) -> dict[str, Any]:
    return {"last_error": code, "last_error_at": ago(**time)}


def result(pk: object) -> Any:
    """Eager: what is to be retried is retried at once."""
    return refresh_account.apply((pk,)).get()


def test_the_names_stay_and_only_the_account_is_worked_on_till_it_is_done() -> None:
    module = "django_ilert_oauth.tasks"
    assert refresh_expiring_tokens.name == f"{module}.refresh_expiring_tokens"
    assert refresh_account.name == f"{module}.refresh_account"
    assert refresh_account.acks_late
    assert refresh_account.reject_on_worker_lost
    assert refresh_account.ignore_result
    assert refresh_expiring_tokens.ignore_result


def test_what_is_due_is_handed_out_and_nothing_else(
    make_due: AccountFactory, handed_out: Callable[[], list[int]]
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
    make_due: AccountFactory, handed_out: Callable[[], list[int]]
) -> None:
    soon = timezone.now() + timedelta(minutes=2)
    stubborn = make_due("stubborn", **failed(minutes=11), access_token_expires_at=ago(days=9))
    later, sooner = make_due("later"), make_due("sooner", access_token_expires_at=soon)
    assert handed_out() == [sooner.pk, later.pk, stubborn.pk]


def test_the_requests_are_spread_evenly_over_the_minute(
    make_due: AccountFactory, app: Celery, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 4
    for name in "abc":
        make_due(name)
    sent: list[tuple[float, float]] = []
    monkeypatch.setattr(
        app.tasks[refresh_account.name],
        "apply_async",
        lambda args, *, countdown, expires: sent.append((countdown, expires)),
    )
    refresh_expiring_tokens()
    assert sent == [(0, 10), (15, 25), (30, 40)]


def test_a_message_names_the_account_its_moment_and_its_end(
    make_due: AccountFactory, messages: Callable[[], list[Any]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 2
    accounts = [make_due("ada"), make_due("grace")]
    refresh_expiring_tokens()
    _first, second = messages()
    assert json.loads(second.body)[:2] == [[accounts[1].pk], {}]
    eta, expires = (datetime.fromisoformat(second.headers[key]) for key in ("eta", "expires"))
    assert (expires - eta).total_seconds() == pytest.approx(_schedule.MAX_LATENESS, abs=0.5)


def test_no_run_hands_out_more_than_a_minute_of_requests(
    make_due: AccountFactory, handed_out: Callable[[], list[int]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 2
    one, two, three = [make_due(name).pk for name in "abc"]
    assert handed_out() == [one, two]
    assert [result(one), result(two)] == ["refreshed", "refreshed"]
    assert handed_out() == [three]


def test_a_retry_takes_a_slot_from_the_run_and_what_makes_no_request_takes_none(
    make_due: AccountFactory, handed_out: Callable[[], list[int]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 3
    make_due("retried", **failed("timeout", minutes=3))
    make_due("unreadable", **failed("token_unreadable", minutes=3))
    for name in "abc":
        make_due(name)
    assert len(handed_out()) == 2


def test_revocations_that_are_not_due_take_no_slots_from_the_run(
    make_due: AccountFactory, ilert: StandIn, handed_out: Callable[[], list[int]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 3
    flows.disconnect(make_due("ended"))
    PendingRevocation.objects.update(given_up_at=timezone.now())
    for name in "abc":
        make_due(name)
    assert len(handed_out()) == 3


def test_a_run_whose_minute_is_full_of_retries_hands_out_nothing(
    make_due: AccountFactory, handed_out: Callable[[], list[int]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    for name in "ab":
        make_due(name, **failed(minutes=1))
    make_due("waiting")
    assert handed_out() == []


def test_without_a_rate_limit_all_go_at_once_and_end_with_the_minute(
    make_due: AccountFactory, messages: Callable[[], list[Any]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 0
    for name in "abc":
        make_due(name)
    before = timezone.now()
    assert refresh_expiring_tokens() == 3
    for message in messages():
        assert message.headers["eta"] is None
        expires = datetime.fromisoformat(message.headers["expires"])
        assert expires >= before + timedelta(seconds=_schedule.MINUTE)


def test_the_keys_are_streamed_by_as_many_queries_for_many_accounts_as_for_one(
    make_due: AccountFactory,
) -> None:
    counts = []
    for name in "abc":
        make_due(name)
        with CaptureQueriesContext(connection) as queries:
            refresh_expiring_tokens()
        counts.append(len(queries))
    assert counts == counts[:1] * 3


def test_a_stale_run_does_not_start_at_all(messages: Callable[[], list[Any]]) -> None:
    before = timezone.now()
    refresh_expiring_tokens.delay()
    [message] = messages()
    expires = datetime.fromisoformat(message.headers["expires"])
    assert before < expires <= timezone.now() + timedelta(seconds=_schedule.MINUTE)


def test_runs_that_overlap_make_one_request_for_each_account(
    make_due: AccountFactory, handed_out: Callable[[], list[int]], ilert: StandIn
) -> None:
    for name in "abc":
        make_due(name)
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
    account: ConnectedAccount, ilert: StandIn, handed_out: Callable[[], list[int]]
) -> None:
    flows.disconnect(account)
    assert PendingRevocation.objects.count() == 1
    handed_out()
    assert PendingRevocation.objects.count() == 0
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_what_is_due_is_handed_out_although_a_revocation_fails(
    make_due: AccountFactory, ilert: StandIn, handed_out: Callable[[], list[int]]
) -> None:
    flows.disconnect(make_due("ended"))
    due = make_due("due")
    ilert.add_fault("revoke", DOWN)
    assert handed_out() == [due.pk]
    assert PendingRevocation.objects.count() == 1


def test_due_revocations_take_slots_from_the_run(
    make_due: AccountFactory, ilert: StandIn, handed_out: Callable[[], list[int]], settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 3
    ilert.add_fault("revoke", DOWN)
    flows.disconnect(make_due("ended"))
    for name in "abc":
        make_due(name)
    assert len(handed_out()) == 2


def refuse(ilert: StandIn, make_due: AccountFactory, *, times: int) -> list[int]:
    """Ten grants are ended by single tasks; the keys of ten more that are due."""
    ilert.add_fault("token", Fault(401, '{"code": "invalid_grant"}'), times=times)
    ended = [make_due(f"ended-{number}").pk for number in range(10)]
    assert [result(pk) for pk in ended] == ["invalid_grant"] * 10
    yesterday = ago(days=1)
    return [make_due(f"due-{number}", connected_at=yesterday).pk for number in range(10)]


def test_after_ten_refusals_in_a_row_no_task_ends_a_grant(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    due = refuse(ilert, make_due, times=11)
    assert result(due[0]) == "credentials"
    assert len(ilert.token_requests) == 10


def test_who_was_not_refused_does_not_ask_how_the_others_fare(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    due = refuse(ilert, make_due, times=10)
    _schedule._refused.clear()
    assert [result(due[0]), result(due[1])] == ["refreshed", "refreshed"]


@pytest.mark.parametrize(("code", "asked"), [("invalid_grant", 10), ("invalid_client", 1)])
def test_after_ten_refusals_in_a_row_a_run_asks_ten_at_most_marks_nothing_and_says_what_to_check(
    make_due: AccountFactory,
    ilert: StandIn,
    handed_out: Callable[[], list[int]],
    caplog: pytest.LogCaptureFixture,
    code: str,
    asked: int,
) -> None:
    due = refuse(ilert, make_due, times=10)
    ilert.add_fault("token", Fault(401, f'{{"code": "{code}"}}'), times=None)
    assert handed_out() == []
    assert len(ilert.token_requests) == 10 + asked
    assert ConnectedAccount.objects.filter(pk__in=due).connected().count() == 10
    assert "Check ILERT_OAUTH_CLIENT_ID" in caplog.text
    assert "--mark-ended" in caplog.text


def test_each_client_has_its_own_accounts_handed_out(
    make_due: AccountFactory, handed_out: Callable[[], list[int]], settings: Any
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
    ilert: StandIn,
    handed_out: Callable[[], list[int]],
    settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    staging = {"CLIENT_ID": "staging-client", "CLIENT_SECRET": "wrong"}
    settings.ILERT_OAUTH_CLIENTS = {"staging": staging}
    good = make_due("good")
    refused = [make_due(f"staging-{number}", client="staging").pk for number in range(11)]
    assert [result(pk) for pk in refused[:10]] == ["invalid_grant"] * 10
    assert result(refused[10]) == "credentials"
    assert handed_out() == [good.pk]
    assert result(good.pk) == "refreshed"
    assert "every grant of the client staging" in caplog.text


def test_once_the_credentials_are_right_a_run_hands_out_what_is_due_again(
    make_due: AccountFactory, ilert: StandIn, handed_out: Callable[[], list[int]]
) -> None:
    refuse(ilert, make_due, times=10)
    make_due("one-more", connected_at=ago(days=1))
    [pk] = handed_out()
    assert result(pk) == "refreshed"


@pytest.mark.parametrize("column", ["refreshed_at", "connected_at"])
def test_refusals_with_a_good_answer_among_them_speak_against_nothing_but_themselves(
    make_due: AccountFactory, ilert: StandIn, handed_out: Callable[[], list[int]], column: str
) -> None:
    due = refuse(ilert, make_due, times=10)
    make_due("good", **{"connected_at": ago(days=1), column: timezone.now()})
    assert set(due) <= set(handed_out())


def test_an_account_that_is_due_is_refreshed(make_due: AccountFactory, ilert: StandIn) -> None:
    account = make_due("grace")
    assert result(account.pk) == "refreshed"
    account.refresh_from_db()
    assert account.is_fresh(timedelta(minutes=59))
    assert len(ilert.token_requests) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"access_token_expires_at": timezone.now() + timedelta(hours=1)},
        {"refreshed_at": timezone.now()},
        {"status": Status.DISCONNECTED},
    ],
    ids=lambda columns: next(iter(columns)),
)
def test_an_account_that_is_not_due_any_more_is_left_alone(
    make_due: AccountFactory, ilert: StandIn, columns: dict[str, Any]
) -> None:
    assert result(make_due("grace", **columns).pk) == "not_due"
    assert ilert.token_requests == []


def test_an_account_that_was_deleted_is_not_due(account: ConnectedAccount) -> None:
    pk = account.pk
    account.delete()
    assert result(pk) == "not_due"


def refused(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.revoke_app("acme", "grace")


def rejected(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.add_fault("token", Fault(400, '{"code": "invalid_request", "error": "words"}'))


def unreadable(account: ConnectedAccount, ilert: StandIn) -> None:
    ConnectedAccount.objects.update(refresh_token_ciphertext="broken")


def foreign(account: ConnectedAccount, ilert: StandIn) -> None:
    ConnectedAccount.objects.update(api_url="https://other.invalid")


@pytest.mark.parametrize(
    ("spoil", "code", "requests"),
    [
        (refused, "invalid_grant", 1),
        (rejected, "invalid_request", 1),
        (unreadable, "token_unreadable", 0),
        (foreign, "endpoint_mismatch", 0),
    ],
)
def test_what_trying_again_does_not_fix_ends_with_its_code(
    make_due: AccountFactory,
    ilert: StandIn,
    spoil: Callable[[ConnectedAccount, StandIn], None],
    code: str,
    requests: int,
) -> None:
    account = make_due("grace")
    spoil(account, ilert)
    assert result(account.pk) == code
    assert len(ilert.token_requests) == requests


def test_what_is_transient_is_tried_again(make_due: AccountFactory, ilert: StandIn) -> None:
    ilert.add_fault("token", DOWN, times=3)
    assert result(make_due("grace").pk) == "refreshed"
    assert len(ilert.token_requests) == 4


@pytest.mark.parametrize("code", ["busy", "database", "not_stored", "row_locked"])
def test_what_lies_with_this_site_is_tried_again_too(
    make_due: AccountFactory, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    errors = iter([IlertUnavailableError("Not now.", code=code)])
    refresh = flows.refresh

    def refresh_later(account: ConnectedAccount) -> ConnectedAccount:
        for error in errors:
            raise error
        return refresh(account)

    monkeypatch.setattr(_schedule, "refresh_now", refresh_later)
    assert result(make_due("grace").pk) == "refreshed"


def test_an_outage_is_left_to_later_runs_after_three_retries(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    ilert.add_fault("token", DOWN, times=None)
    assert result(make_due("grace").pk) == "server_error"
    assert len(ilert.token_requests) == 4


def test_a_retry_makes_no_request_if_another_caller_has_refreshed_the_account(
    make_due: AccountFactory, ilert: StandIn
) -> None:
    account = make_due("grace")
    flows.refresh(account)
    assert refresh_account.apply((account.pk,), retries=1).get() == "not_due"
    assert len(ilert.token_requests) == 1


@pytest.fixture
def retry(messages: Callable[[], list[Any]]) -> Callable[..., Any]:
    """The message of the retry that a try in a worker sends."""

    def send(pk: int, retries: int) -> Any:
        facts = {"id": "a-task", "args": [pk], "kwargs": {}, "delivery_info": {}}
        task: Any = refresh_account
        task.push_request(**facts, retries=retries, called_directly=False)
        try:
            with pytest.raises(Retry):
                task.run(pk)
        finally:
            task.pop_request()
        [message] = messages()
        return message

    return send


@pytest.mark.parametrize(
    ("retries", "headers", "least", "most"),
    [
        (0, {}, 60, 75),
        (1, {}, 120, 150),
        (2, {}, 240, 300),
        (0, {"Retry-After": "1"}, 60, 75),
        (0, {"Retry-After": "200"}, 200, 250),
        (0, {"Retry-After": "86400"}, 300, 375),
    ],
)
def test_a_retry_waits_for_what_ilert_asks_and_longer_each_time(
    make_due: AccountFactory,
    ilert: StandIn,
    retry: Callable[..., Any],
    retries: int,
    headers: dict[str, str],
    least: float,
    most: float,
) -> None:
    ilert.add_fault("token", Fault(429, headers=headers))
    account = make_due("grace")
    before = timezone.now()
    eta = datetime.fromisoformat(retry(account.pk, retries).headers["eta"])
    assert eta >= before + timedelta(seconds=least)
    assert eta <= timezone.now() + timedelta(seconds=most)


def test_a_retry_names_the_account_and_expires_after_its_moment_not_after_the_first_one(
    make_due: AccountFactory, ilert: StandIn, retry: Callable[..., Any]
) -> None:
    account = make_due("grace")
    ilert.add_fault("token", DOWN)
    message = retry(account.pk, 0)
    assert json.loads(message.body)[:2] == [[account.pk], {}]
    assert message.headers["retries"] == 1
    assert message.headers["expires"] > message.headers["eta"]


def test_messages_hold_no_secret(
    make_due: AccountFactory,
    ilert: StandIn,
    messages: Callable[[], list[Any]],
    retry: Callable[..., Any],
) -> None:
    account = make_due("grace")
    secrets = [
        account.access_token.reveal(),
        account.refresh_token.reveal(),
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
        "the-client-secret",
        "words",
    ]
    refresh_expiring_tokens()
    ilert.add_fault("token", Fault(503, '{"code": "words", "error": "words"}'))
    sent = [*messages(), retry(account.pk, 0)]
    raw = "".join(f"{message.body}{message.headers}{message.properties}" for message in sent)
    assert len(sent) == 2
    assert [secret for secret in secrets if secret in raw] == []


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
