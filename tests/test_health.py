from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.core.serializers.json import DjangoJSONEncoder
from django.test import Client
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.models import (
    AccountEvent,
    ConnectedAccount,
    LastRun,
    PendingRevocation,
    Status,
)
from ilert_standin import StandIn
from tests.conftest import AccountFactory

pytestmark = pytest.mark.django_db


def expired(**time: float) -> dict[str, datetime]:
    return {"access_token_expires_at": timezone.now() - timedelta(**time)}


def run(*options: str) -> tuple[str, str]:
    out = StringIO()
    try:
        call_command("ilert_health", *options, stdout=out)
    except CommandError as error:
        assert error.returncode == 1
        return out.getvalue(), str(error)
    return out.getvalue(), ""


def test_each_kind_of_account_is_counted(make_account: AccountFactory) -> None:
    since = expired(minutes=20)["access_token_expires_at"]
    failed_at, refreshed_at = timezone.now() - timedelta(hours=2), timezone.now()
    make_account(username="good")
    make_account(username="due", **expired(minutes=-10))
    make_account(username="unknown", access_token_expires_at=None)
    make_account(username="endless", access_token_expires_at=None, refresh_token="")
    make_account(username="overdue", access_token_expires_at=since)
    make_account(username="elsewhere", client_id="another", **expired(hours=9))
    make_account(username="failing", last_error="timeout", last_error_at=failed_at)
    make_account(username="ended", status=Status.RECONNECT_REQUIRED, **expired(hours=9))
    make_account(username="disconnected", status=Status.DISCONNECTED)
    make_account(username="ending", refresh_token_expires_at=timezone.now() + timedelta(days=29))
    PendingRevocation.objects.create(account_uuid=ConnectedAccount().uuid)
    LastRun.objects.create(kind=LastRun.Kind.CHECK, at=refreshed_at)
    assert flows.health() == flows.Health(
        connected=8,
        due=3,
        overdue=1,
        overdue_since=since,
        needs_reconnecting=1,
        failing=1,
        oldest_failure=failed_at,
        pending_revocations=1,
        ending=1,
        last_runs={"check": refreshed_at},
    )


def test_health_takes_as_many_queries_for_any_number(
    account: ConnectedAccount, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(9):
        flows.health()


def test_the_command_fails_once_refreshing_does_not_keep_up(make_account: AccountFactory) -> None:
    make_account(**expired(minutes=20))
    LastRun.objects.create(kind=LastRun.Kind.ROTATE, at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    out, failure = run()
    assert out == (
        "1 connected, 1 due, 1 overdue, 0 needs reconnecting, 0 failing, 0 ending, "
        "0 pending revocations.\nLast rotate: 2026-01-02 03:04:05 UTC\n"
    )
    assert failure.startswith("Refreshing does not keep up: a token has been expired since 20")
    assert run("--max-overdue=21m") == (out, "")


def test_json_has_the_times_as_well(make_account: AccountFactory) -> None:
    make_account(**expired(minutes=1))
    told = json.loads(run("--json")[0])
    assert (told["overdue"], told["last_runs"]) == (1, {})
    assert datetime.fromisoformat(told["overdue_since"]) < timezone.now()


def test_an_export_has_what_is_held_of_the_user_and_no_token(
    account: ConnectedAccount, user: User, settings: Any
) -> None:
    secrets = [account.access_token.reveal(), account.refresh_token.reveal()]
    secrets += [account.access_token_ciphertext, account.refresh_token_ciphertext]
    PendingRevocation.objects.create(account_uuid=account.uuid, refresh_token_ciphertext=secrets[3])
    AccountEvent.objects.create(account_uuid=account.uuid, kind="renamed")
    [facts] = flows.export(user)
    text = json.dumps(facts, cls=DjangoJSONEncoder)
    assert [secret for secret in secrets if secret in text] == []
    assert (facts["username"], facts["granted_scope"]) == ("grace", "profile source:w")
    assert [event["kind"] for event in facts["events"]] == ["renamed"]
    assert len(facts["pending_revocations"]) == 1
    assert [name for name in facts if "token_c" in name or "lease" in name] == []
    assert flows.export(User.objects.create_user("another")) == []


def test_a_disconnected_account_can_be_removed(account: ConnectedAccount, browser: Client) -> None:
    flows.disconnect(account)
    page = browser.get("/ilert/").content.decode()
    assert f'formaction="/ilert/{account.pk}/remove/"' in page
    left = browser.post(f"/ilert/{account.pk}/remove/", follow=True)
    assert "grace @ acme is removed." in left.content.decode()
    assert not ConnectedAccount.objects.exists()


def test_no_other_account_can_be_removed(
    account: ConnectedAccount, make_account: AccountFactory, browser: Client, ilert: StandIn
) -> None:
    another = User.objects.create_user("another")
    theirs = make_account(user=another, status=Status.DISCONNECTED)
    for pk in (account.pk, theirs.pk):
        assert browser.post(f"/ilert/{pk}/remove/").status_code == 404
    assert browser.get(f"/ilert/{account.pk}/remove/").status_code == 405
    assert ConnectedAccount.objects.count() == 2
