from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any
from unittest.mock import Mock

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from django_ilert_oauth import background, flows, tasks
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.flows import _notices
from django_ilert_oauth.flows._bulk.credential_guard import MIN_INVALID_GRANTS
from django_ilert_oauth.flows._lease import Snapshot, reload, take_lease
from django_ilert_oauth.flows._notices import MAX_FAILURES, notify_after_commit, notify_users
from django_ilert_oauth.models import ConnectedAccount, LastRun, Status
from ilert_standin import StandIn
from tests.conftest import AccountFactory, People
from tests.support.other_callers import without_autocommit
from tests.support.own_signals import TimeLimitError
from tests.support.refresh_runs import each_way_to_run
from tests.support.statements import failing_statements

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def notices(settings: Any, user: User) -> None:
    settings.ILERT_OAUTH_NOTIFY_USERS = True
    settings.ILERT_OAUTH_REDIRECT_URI = "https://shop.example/ilert/callback/"
    User.objects.update(email="user@shop.example")


def subjects() -> list[str]:
    return [str(message.subject) for message in mail.outbox]


def end(account: ConnectedAccount, **columns: Any) -> None:
    changed = {"status": Status.RECONNECT_REQUIRED, "status_changed_at": timezone.now(), **columns}
    ConnectedAccount.objects.filter(pk=account.pk).update(**changed)


def end_soon(account: ConnectedAccount, days: int = 20, **columns: Any) -> None:
    """As a year after the connect, with a refresh that has not moved the end."""
    now = timezone.now()
    changed = {
        "refresh_token_expires_at": now + days * DAY,
        "grant_extended_at": now - 300 * DAY,
        "refreshed_at": now,
        **columns,
    }
    ConnectedAccount.objects.filter(pk=account.pk).update(**changed)


@each_way_to_run
@pytest.mark.django_db(transaction=True)
def test_a_user_whose_grant_has_ended_is_told_by_the_next_run_and_once(
    account: ConnectedAccount, ilert: StandIn, run: Callable[[], object]
) -> None:
    end(account)
    run()
    run()
    [message] = mail.outbox
    assert message.subject == "shop.example needs access to ilert again"
    assert message.to == ["user@shop.example"]
    link = f"https://shop.example/ilert/connect/?account={account.pk}"
    assert isinstance(message, mail.EmailMultiAlternatives)
    [(html, _type)] = message.alternatives
    assert link in message.body
    assert f'href="{link}"' in str(html)
    assert "as grace @ acme, so what it does" in message.body


@pytest.mark.parametrize("ask", [flows.get_access_token, flows.check])
@pytest.mark.django_db(transaction=True)
def test_a_user_is_told_once_the_end_of_the_grant_is_committed(
    make_account: AccountFactory, ilert: StandIn, ask: Callable[[ConnectedAccount], object]
) -> None:
    account = make_account(access_token_expires_at=timezone.now() - DAY)
    end(make_account(username="other"))
    ilert.revoke_app("acme", "grace")
    with transaction.atomic():
        for _ in range(2):
            with pytest.raises(ReconnectRequiredError):
                ask(account)
        assert mail.outbox == []
    assert subjects() == ["shop.example needs access to ilert again"]


@pytest.mark.django_db(transaction=True)
def test_a_caller_that_commits_by_hand_leaves_it_to_the_next_run(account: ConnectedAccount) -> None:
    end(account)
    with without_autocommit():
        notify_after_commit(account)
    assert mail.outbox == []


def test_a_user_whose_grant_ends_soon_is_told_the_date_once(account: ConnectedAccount) -> None:
    end_soon(account)
    notify_users()
    notify_users()
    [message] = mail.outbox
    assert message.subject.startswith("Access of shop.example to ilert ends on ")
    assert "and nothing stops:" in message.body


@pytest.mark.parametrize(
    "columns",
    [
        {"days": 31},
        {"days": -1},
        {"grant_extended_at": timezone.now() + DAY},
        {"refreshed_at": None},
        {"status": Status.DISCONNECTED},
        {"status": Status.RECONNECT_REQUIRED, "status_changed_at": timezone.now() - 31 * DAY},
    ],
    ids=[
        "later",
        "over",
        "extended by the last refresh",
        "not refreshed yet",
        "disconnected",
        "long past",
    ],
)
def test_nobody_is_told_of_an_end_that_may_not_come_or_is_long_past(
    account: ConnectedAccount, columns: dict[str, Any]
) -> None:
    end_soon(account, **columns)
    notify_users()
    assert mail.outbox == []


@pytest.mark.parametrize(
    ("lifetime", "told"),
    [(None, 1), (20, 1), (25, 0)],
    ids=["no new token", "the same end", "a later end"],
)
def test_only_a_refresh_that_moves_the_end_spares_the_user(
    account: ConnectedAccount, ilert: StandIn, lifetime: int | None, told: int
) -> None:
    end_soon(account, refreshed_at=None)
    account.refresh_from_db()
    ilert.options.rotate = lifetime is not None
    ilert.options.refresh_token_lifetime = (lifetime or 0) * 86_400
    flows.refresh(account, force=True)
    notify_users()
    assert len(mail.outbox) == told


def test_each_episode_is_told_of(account: ConnectedAccount) -> None:
    end_soon(account)
    notify_users()
    end(account)
    notify_users()
    end(account)
    notify_users()
    assert [subject.split()[0] for subject in subjects()] == ["Access", *["shop.example"] * 2]


def test_a_user_who_reconnects_is_told_of_the_next_end(account: ConnectedAccount) -> None:
    told = timezone.now() - 5 * DAY
    end_soon(account, notified_at=told)
    notify_users()
    assert mail.outbox == []
    end_soon(account, grant_extended_at=told + DAY)
    notify_users()
    assert len(mail.outbox) == 1


@pytest.mark.parametrize("columns", [{"email": ""}, {"is_active": False}], ids=str)
def test_who_has_no_address_or_may_not_log_in_gets_nothing(
    account: ConnectedAccount, columns: dict[str, Any]
) -> None:
    User.objects.update(**columns)
    end(account)
    notify_users()
    assert mail.outbox == []


@pytest.mark.parametrize(("name", "value"), [("NOTIFY_USERS", False), ("READ_ONLY", True)])
def test_a_site_can_leave_it_and_a_copy_of_a_site_does(
    account: ConnectedAccount, settings: Any, name: str, value: bool
) -> None:
    setattr(settings, f"ILERT_OAUTH_{name}", value)
    end(account)
    notify_users()
    assert mail.outbox == []


@pytest.mark.parametrize(
    ("language", "first"), [("de", "shop.example braucht"), ("../x", "shop.example needs")]
)
def test_an_e_mail_is_in_the_language_of_the_user(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, language: str, first: str
) -> None:
    monkeypatch.setattr(User, "language", language, raising=False)
    end(account)
    notify_users()
    assert subjects()[0].startswith(first)


def test_nobody_is_told_while_the_site_itself_seems_to_be_refused(people: People) -> None:
    """A wrong client secret ends each grant by mistake, and no user can fix that."""
    ended = people(MIN_INVALID_GRANTS)
    for account in ended:
        end(account, last_error="invalid_grant", last_error_at=timezone.now())
    notify_users()
    assert mail.outbox == []
    end(ended[0], status=Status.CONNECTED, refreshed_at=timezone.now())
    notify_users()
    assert len(mail.outbox) == MIN_INVALID_GRANTS - 1


def test_what_could_not_be_sent_is_sent_by_the_next_run(
    people: People, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for account in people(MAX_FAILURES + 2):
        end(account)
    with monkeypatch.context() as down:
        down.setattr(EmailBackend, "send_messages", Mock(side_effect=ConnectionRefusedError))
        notify_users()
    assert len(caplog.messages) == MAX_FAILURES
    assert "was not sent: ConnectionRefusedError" in caplog.text
    notify_users()
    notify_users()
    assert len(mail.outbox) == MAX_FAILURES + 2


def test_a_time_limit_while_an_e_mail_is_sent_ends_the_work_and_the_next_run_sends(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, time_limit: Callable[[], None]
) -> None:
    end(account)
    with monkeypatch.context() as slow:
        slow.setattr(EmailBackend, "send_messages", lambda *_args: time_limit())
        with pytest.raises(TimeLimitError):
            notify_users()
    notify_users()
    assert len(mail.outbox) == 1


def test_of_two_runs_one_sends(account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    end(account)
    claimed = timezone.now()

    def send_first(snapshots: list[Snapshot]) -> None:
        ConnectedAccount.objects.update(notified_at=claimed)
        notify(snapshots)

    notify = _notices._notify
    monkeypatch.setattr(_notices, "_notify", send_first)
    notify_users()
    assert mail.outbox == []
    assert ConnectedAccount.objects.get().notified_at == claimed


def test_while_one_run_sends_no_other_does_until_its_lease_lapses(
    account: ConnectedAccount,
) -> None:
    end(account)
    assert take_lease(reload(account))
    notify_users()
    assert mail.outbox == []
    ConnectedAccount.objects.update(lease_ends_ms=1)
    notify_users()
    assert len(mail.outbox) == 1
    assert take_lease(reload(account))


def test_a_run_that_is_stopped_while_it_sends_leaves_it_to_the_next(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(message: mail.EmailMultiAlternatives) -> None:
        raise SystemExit

    end(account)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(mail.EmailMultiAlternatives, "send", stop)
        notify_users()
    notify_users()
    assert len(mail.outbox) == 1


def test_a_host_whose_clock_is_behind_tells_a_user_once(account: ConnectedAccount) -> None:
    end(account, status_changed_at=timezone.now() + timedelta(minutes=1))
    notify_users()
    notify_users()
    assert len(mail.outbox) == 1


def test_a_site_without_an_address_of_its_own_is_told_and_its_runs_go_on(
    account: ConnectedAccount, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ILERT_OAUTH_REDIRECT_URI = None
    notify_users()
    assert caplog.messages == ["Users were not notified: ImproperlyConfigured"]


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda: call_command("refresh_ilert_tokens", stdout=StringIO()), "refresh"),
        (tasks.refresh_expiring_tokens, "queue"),
        (background.refresh_expiring_tokens.enqueue, "queue"),
        (lambda: call_command("check_ilert_accounts", stdout=StringIO()), "check"),
        (lambda: call_command("rotate_ilert_keys", stdout=StringIO()), "rotate"),
    ],
    ids=["refresh", "Celery", "Django's tasks", "check", "rotate"],
)
@pytest.mark.django_db(transaction=True)
def test_each_kind_of_run_notes_when_it_was(
    account: ConnectedAccount, run: Callable[[], object], kind: str
) -> None:
    run()
    run()
    [noted] = LastRun.objects.all()
    assert str(noted).partition(",")[0] == str(LastRun.Kind(kind).label)
    assert timezone.now() - flows.health().last_runs[kind] < timedelta(minutes=1)


def test_a_dry_run_notes_nothing(account: ConnectedAccount) -> None:
    for name in ("refresh_ilert_tokens", "check_ilert_accounts", "rotate_ilert_keys"):
        call_command(name, "--dry-run", stdout=StringIO())
    assert not LastRun.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_run_that_cannot_be_noted_goes_on(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    with failing_statements("lastrun"):
        call_command("refresh_ilert_tokens", stdout=StringIO())
    assert caplog.messages == ["A run was not recorded: DatabaseError"]
    assert not LastRun.objects.exists()
