"""A copy of a site, with the tokens of the site itself: it is to end none of its grants."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from django_ilert_oauth import flows, tasks
from django_ilert_oauth.admin import actions
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from ilert_standin import StandIn
from tests.support.celery_app import memory_app, raw_messages

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def read_only(ilert: StandIn, settings: Any) -> None:
    settings.ILERT_OAUTH_READ_ONLY = True


@pytest.mark.parametrize(
    "do",
    [
        lambda account: flows.refresh(account, force=True),
        lambda account: flows.check(account),
        lambda account: flows.refresh_many(ConnectedAccount.objects.all()),
        lambda account: flows.revoke_pending(),
    ],
    ids=["refresh", "check", "refresh_many", "revoke_pending"],
)
def test_nothing_is_asked_of_ilert(
    account: ConnectedAccount, ilert: StandIn, settings: Any, do: Callable[[Any], Any]
) -> None:
    PendingRevocation.objects.create(account_uuid=account.uuid, api_url=account.api_url)
    with pytest.raises(IlertUnavailableError, match="ILERT_OAUTH_READ_ONLY is on") as caught:
        do(account)
    assert (caught.value.code, ilert.requests) == ("read_only", [])


def test_a_fresh_token_can_be_used(account: ConnectedAccount) -> None:
    assert flows.get_access_token(account) == account.access_token.reveal()


@pytest.mark.parametrize(
    "end", [flows.disconnect, ConnectedAccount.delete, lambda a: a.user.delete()]
)
def test_what_ends_here_does_not_end_at_ilert(
    account: ConnectedAccount, ilert: StandIn, end: Callable[[Any], Any]
) -> None:
    end(account)
    assert not ConnectedAccount.objects.connected().exists()
    assert (ilert.requests, PendingRevocation.objects.count()) == ([], 0)
    assert ilert.live_refresh_tokens("acme", "grace") == 1


def test_nothing_can_be_connected_and_the_page_says_why(browser: Client, ilert: StandIn) -> None:
    page = browser.post("/ilert/connect/").content.decode()
    assert "This is a copy of the site." in page


@pytest.mark.parametrize(
    "command", ["refresh_ilert_tokens", "check_ilert_accounts", "disconnect_ilert_accounts"]
)
def test_commands_say_why_they_do_nothing(account: ConnectedAccount, command: str) -> None:
    options = ["--all", "--no-input"] if command.startswith("disconnect") else []
    with pytest.raises(CommandError, match="ILERT_OAUTH_READ_ONLY is on") as caught:
        call_command(command, *options, stdout=StringIO())
    assert caught.value.returncode == 2
    assert ConnectedAccount.objects.connected().exists()


def test_beat_queues_nothing(account: ConnectedAccount, ilert: StandIn) -> None:
    ConnectedAccount.objects.update(access_token_expires_at=None)
    with memory_app() as app:
        with pytest.raises(IlertUnavailableError, match="ILERT_OAUTH_READ_ONLY is on"):
            tasks.refresh_expiring_tokens()
        assert raw_messages(app) == []


@pytest.mark.parametrize("path", ["", "{pk}/change/"])
def test_the_admin_has_a_banner(account: ConnectedAccount, client: Client, path: str) -> None:
    client.force_login(User.objects.create_superuser("admin"))
    url = f"/admin/ilert_oauth/connectedaccount/{path.format(pk=account.pk)}"
    assert b"ILERT_OAUTH_READ_ONLY is on" in client.get(url).content


@pytest.mark.parametrize("max_accounts", [1, 0], ids=["at_once", "by_the_queue"])
@pytest.mark.parametrize("action", ["refresh_accounts", "check_accounts"])
def test_an_action_of_the_admin_says_why_it_does_nothing(
    account: ConnectedAccount,
    client: Client,
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    max_accounts: int,
) -> None:
    monkeypatch.setattr(actions, "MAX_ACCOUNTS", max_accounts)
    client.force_login(User.objects.create_superuser("admin"))
    form = {"action": action, "_selected_action": account.pk, "post": "yes", "count": 1}
    with memory_app() as app:
        page = client.post("/admin/ilert_oauth/connectedaccount/", form, follow=True)
        assert raw_messages(app) == []
    [why, _banner] = map(str, page.context["messages"])
    assert why.startswith("This is a copy of the site. Nothing is connected or refreshed here")
    assert (ilert.requests, LogEntry.objects.count()) == ([], 0)
