"""Actions on more accounts than a request can hold: the site's queue takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from celery import Celery
from django.contrib.admin.models import LogEntry
from django.db import DatabaseError
from django.test import Client

from django_ilert_oauth import background, tasks
from django_ilert_oauth.admin import actions
from django_ilert_oauth.flows import _disconnect, _schedule
from django_ilert_oauth.flows._revocation import keep_for_revocation
from django_ilert_oauth.models import AccountEvent, ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.celery_app import memory_app, raw_messages
from tests.support.own_signals import TimeLimitError

LIST = "/admin/ilert_oauth/connectedaccount/"
IN_BACKGROUND = [
    ("refresh_accounts", True, "3 accounts are being refreshed in the background."),
    ("check_accounts", False, "3 accounts are being checked in the background."),
    ("disconnect_accounts", False, "3 accounts are being disconnected in the background."),
]


@pytest.fixture
def app() -> Iterator[Celery]:
    with memory_app() as app:
        yield app


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MAX_ACCOUNTS", 2)
    monkeypatch.setattr(_schedule, "MAX_CHOSEN", 2)


def ask(root: Client, action: str, *, across: bool = False, **form: Any) -> Any:
    pks = [str(account.pk) for account in ConnectedAccount.objects.order_by("pk")]
    chosen = {"_selected_action": pks[:1] if across else pks, "select_across": str(int(across))}
    return root.post(LIST, {"action": action, **chosen, **form}, follow=True)


def confirm(root: Client, page: Any) -> Any:
    """As the button on the page that asks would."""
    html = page.content.decode()
    shown = html[html.index('<form method="post">') :]
    context = page.context
    form = {"action": context["action"].name, "post": "yes", "count": context["count"]}
    assert f'name="count" value="{context["count"]}"' in shown
    form["select_across"] = context["select_across"]
    assert f'name="select_across" value="{context["select_across"]}"' in shown
    return root.post(LIST, form | {"_selected_action": context["chosen"]}, follow=True)


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


@pytest.mark.parametrize(("action", "across", "text"), IN_BACKGROUND)
def test_more_than_a_request_can_hold_goes_to_celery_and_the_history_of_each_account_says_so(
    root: Client, app: Celery, people: People, ilert: StandIn, action: str, across: bool, text: str
) -> None:
    accounts = people(3)
    page = ask(root, action, across=across)
    assert "this is done in the background; the first 2 are:" in page.content.decode()
    assert said(confirm(root, page)) == [f"{text} (user-0 @ acme, user-1 @ acme, user-2 @ acme)"]
    [message] = raw_messages(app)
    assert json.loads(message.body)[0][:2] == [action, [account.pk for account in accounts]]
    assert ilert.requests == []
    entries = [entry.get_change_message() for entry in LogEntry.objects.all()]
    assert entries == [f"{page.context['title']}: handed to the background"] * 3


def test_a_message_holds_no_token(root: Client, app: Celery, people: People) -> None:
    accounts = people(3)
    confirm(root, ask(root, "disconnect_accounts"))
    [message] = raw_messages(app)
    raw = f"{message.body}{message.headers}{message.properties}"
    secrets = [account.refresh_token.reveal() for account in accounts]
    secrets += [account.refresh_token_ciphertext for account in accounts]
    assert [secret for secret in secrets if secret in raw] == []


def test_what_a_request_can_hold_is_done_at_once(
    root: Client, app: Celery, people: People, ilert: StandIn
) -> None:
    people(2)
    confirm(root, ask(root, "refresh_accounts"))
    assert raw_messages(app) == []
    assert len(ilert.token_requests) == 2


@pytest.fixture
def django_queue(settings: Any) -> Any:
    """Without workers; what waits in it."""
    models = pytest.importorskip("django_tasks_db.models")
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
    return models.DBTaskResult.objects


def test_without_celery_it_goes_to_djangos_own_tasks(
    root: Client, people: People, django_queue: Any
) -> None:
    accounts = people(3)
    confirm(root, ask(root, "check_accounts"))
    waiting = django_queue.get()
    assert waiting.task_path == "django_ilert_oauth.background.run_action"
    assert waiting.args_kwargs["args"][:2] == ["check_accounts", [a.pk for a in accounts]]


def eager(app: Celery, settings: Any) -> None:
    app.conf.task_always_eager = True


def without_broker(app: Celery, settings: Any) -> None:
    app.conf.update(broker_url=None)


def dummy(app: Celery, settings: Any) -> None:
    without_broker(app, settings)
    package = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
    settings.TASKS = {"default": {"BACKEND": f"{package}.backends.dummy.DummyBackend"}}


@pytest.mark.parametrize("change", [eager, without_broker, dummy])
def test_where_no_worker_takes_it_the_page_names_the_command(
    root: Client,
    app: Celery,
    people: People,
    ilert: StandIn,
    settings: Any,
    change: Callable[[Celery, Any], None],
) -> None:
    people(3)
    change(app, settings)
    asked = ask(root, "check_accounts").content.decode()
    confirmed = ask(root, "check_accounts", post="yes").content.decode()
    for page in (asked, confirmed):
        assert "manage.py check_ilert_accounts" in page
        assert 'name="_selected_action"' not in page
    assert ilert.requests == []


# In the worker


def work_off(app: Celery) -> int:
    """As a worker would; returns how many messages there were."""
    count = 0
    while raw := raw_messages(app):
        [message] = raw
        tasks.run_action.apply(json.loads(message.body)[0]).get()
        count += 1
    return count


def test_each_account_is_refreshed_once_a_share_at_a_time(
    app: Celery, people: People, ilert: StandIn
) -> None:
    tasks.enqueue("refresh_accounts", [account.pk for account in people(5)])
    assert work_off(app) == 3
    assert len({request.form["refresh_token"] for request in ilert.token_requests}) == 5
    assert len(ilert.token_requests) == 5


def test_accounts_are_checked_and_those_skipped_that_have_ended_meanwhile(
    app: Celery, people: People, ilert: StandIn, make_account: AccountFactory
) -> None:
    ended = make_account(username="ended", status=Status.DISCONNECTED)
    tasks.enqueue("check_accounts", [ended.pk, *(account.pk for account in people(3))])
    work_off(app)
    assert [request.path.rpartition("/")[2] for request in ilert.requests] == ["token_info"] * 3


@pytest.mark.django_db(transaction=True)
def test_accounts_are_disconnected_by_an_administrator_and_revoked(
    app: Celery, people: People, ilert: StandIn
) -> None:
    accounts = people(3)
    tasks.enqueue("disconnect_accounts", [account.pk for account in accounts])
    work_off(app)
    assert not ConnectedAccount.objects.exclude(status="disconnected", reason="admin").exists()
    assert set(AccountEvent.objects.values_list("by", flat=True)) == {"admin"}
    assert [ilert.live_refresh_tokens("acme", account.username) for account in accounts] == [0] * 3


def test_accounts_that_the_database_keeps_from_being_disconnected_are_named_and_the_rest_go_on(
    app: Celery, people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = people(3)

    def fail_for_first(account: ConnectedAccount, **options: Any) -> None:
        if account.pk == first.pk:
            raise DatabaseError
        keep_for_revocation(account, **options)

    monkeypatch.setattr(_disconnect, "keep_for_revocation", fail_for_first)
    tasks.enqueue("disconnect_accounts", [account.pk for account in [first, *others]])
    work_off(app)
    assert list(ConnectedAccount.objects.connected()) == [first]
    assert f"not disconnected, as the database failed: [{first.pk}]" in caplog.text


@pytest.mark.parametrize("queue", [tasks, background])
def test_what_the_queue_does_not_take_is_done_at_once(
    queue: Any, people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_args: Any) -> None:
        raise ConnectionError

    accounts = people(5)
    monkeypatch.setattr(queue, "enqueue", refuse)
    pks = [account.pk for account in accounts]
    getattr(queue.run_action, "func", queue.run_action)("disconnect_accounts", pks)
    assert not ConnectedAccount.objects.connected().exists()
    assert "the queue takes no message: ConnectionError" in caplog.text


def test_a_time_limit_while_the_queue_is_told_of_the_rest_ends_the_work(
    people: People, monkeypatch: pytest.MonkeyPatch, time_limit: Callable[[], None]
) -> None:
    monkeypatch.setattr(tasks, "enqueue", lambda *_args: time_limit())
    with pytest.raises(TimeLimitError):
        tasks.run_action("disconnect_accounts", [account.pk for account in people(5)])
    assert ConnectedAccount.objects.connected().count() == 3


def test_a_run_that_ends_early_is_logged_and_gives_up_the_rest(
    app: Celery, people: People, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    ilert.add_fault("token", Fault(401, '{"code": "invalid_client"}'), times=None)
    tasks.enqueue("refresh_accounts", [account.pk for account in people(5)])
    assert work_off(app) == 1
    assert "refresh_accounts ended early (invalid_client) with 5 accounts to go" in caplog.text


def test_djangos_own_tasks_do_the_same(people: People, ilert: StandIn) -> None:
    background.enqueue("refresh_accounts", [account.pk for account in people(5)])
    assert len(ilert.token_requests) == 5


def test_when_more_accounts_match_by_then_the_administrator_is_asked_again(
    root: Client, app: Celery, people: People, make_account: AccountFactory
) -> None:
    people(3)
    page = ask(root, "disconnect_accounts", across=True)
    make_account(username="later")
    again = confirm(root, page)
    assert (page.context["count"], again.context["count"]) == (3, 4)
    assert raw_messages(app) == []


def test_a_message_that_comes_twice_ends_no_newer_grant(
    account: ConnectedAccount, connect: Callable[..., Any]
) -> None:
    message = ("disconnect_accounts", [account.pk], _schedule.chosen_now())
    _schedule.run_action(*message)
    connect()
    _schedule.run_action(*message)
    account.refresh_from_db()
    assert account.status == Status.CONNECTED


def test_a_message_and_those_that_follow_it_tell_when_their_accounts_were_chosen(
    root: Client, app: Celery, people: People
) -> None:
    people(3)
    before = _schedule.chosen_now()
    confirm(root, ask(root, "disconnect_accounts"))
    [message] = raw_messages(app)
    action, pks, chosen_at = json.loads(message.body)[0]
    assert before <= chosen_at <= _schedule.chosen_now()
    tasks.run_action(action, pks, chosen_at)
    [rest] = raw_messages(app)
    assert json.loads(rest.body)[0][2] == chosen_at


@pytest.mark.django_db(transaction=True)
def test_what_is_left_outlives_a_failure_of_the_database(
    app: Celery, people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    pks = [account.pk for account in people(3)]

    def fail(**kwargs: Any) -> None:
        raise DatabaseError("the connection was cut")

    monkeypatch.setattr(_schedule, "revoke_pending", fail)
    tasks.run_action("disconnect_accounts", pks)
    [rest] = raw_messages(app)
    assert json.loads(rest.body)[0][1] == pks[2:]
    assert ConnectedAccount.objects.connected().count() == 1
