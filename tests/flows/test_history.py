from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.models.signals import post_save
from django.test import Client, RequestFactory
from django.utils import timezone

from django_ilert_oauth import flows, signals
from django_ilert_oauth.admin import ConnectedAccountAdmin
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.flows._disconnect import end_grant_of_deleted
from django_ilert_oauth.models import AccountEvent, ConnectedAccount, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory
from tests.support.other_callers import receiving
from tests.support.own_signals import TimeLimitError
from tests.support.refresh_runs import each_way_to_run, refresh_all
from tests.support.statements import failing_statements

pytestmark = pytest.mark.django_db(transaction=True)

Fact = tuple[str, str, str]


def history() -> list[Fact]:
    """Kind, by whom and code of each event, the first first."""
    return list(AccountEvent.objects.order_by("pk").values_list("kind", "by", "code"))


def refresh(account: ConnectedAccount) -> None:
    with suppress(IlertOAuthError):
        flows.refresh(account, force=True)


def named(username: str, scope: str) -> Fault:
    body = '{"active": true, "tenant_id": "acme", "username": "%s", "scope": "%s"}'
    return Fault(200, body % (username, scope))


def test_connecting_and_connecting_again_with_other_scopes_are_events(
    connect: Callable[..., Any], settings: Any
) -> None:
    connect()
    connect()
    settings.ILERT_OAUTH_SCOPES = ["profile", "source:w"]
    connect()
    again = ("reconnected", "user", "")
    assert history() == [("connected", "user", ""), again, again, ("scopes_changed", "user", "")]


def test_an_episode_of_failures_is_its_begin_and_its_end(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.add_fault("token", Fault(503))
    ilert.add_fault("token", Fault(429))
    for _ in range(4):
        refresh(account)
    assert history() == [("refresh_failed", "ilert", "server_error"), ("recovered", "ilert", "")]
    assert [name for name, _ in sent].count("account_recovered") == 1


@pytest.mark.parametrize("act", [refresh, flows.check])
def test_what_only_a_check_has_found_is_no_episode_and_no_change_of_a_name(
    account: ConnectedAccount, act: Callable[[ConnectedAccount], object]
) -> None:
    ConnectedAccount.objects.update(last_error="identity_taken", last_error_at=timezone.now())
    act(account)
    assert history() == []


def test_scopes_that_a_refresh_brings_are_an_event(make_account: AccountFactory) -> None:
    account = make_account()
    ConnectedAccount.objects.update(granted_scope="profile")
    refresh(account)
    assert history() == [("scopes_changed", "ilert", "")]


def test_a_grant_that_ends_is_an_event_once_and_so_is_its_recovery(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    ilert.add_fault("token", Fault(401, '{"code": "invalid_grant"}'))
    refresh(account)
    refresh(account)
    refresh_all(retry_reconnect_required=True)
    ended = ("reconnect_required", "ilert", "revoked_at_ilert")
    assert history() == [ended, ("recovered", "ilert", "")]
    assert [name for name, _ in sent][1:] == ["account_refreshed", "account_recovered"]


@pytest.mark.parametrize(
    ("reason", "by"), [(Reason.USER, "user"), (Reason.ADMIN, "admin"), (Reason.INCIDENT, "command")]
)
def test_disconnecting_is_an_event_once(account: ConnectedAccount, reason: Reason, by: str) -> None:
    flows.disconnect(account, reason=reason)
    flows.disconnect(account, reason=reason)
    assert history() == [("disconnected", by, reason.value)]


def test_another_name_and_other_scopes_at_ilert_are_events(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("token_info", named("hopper", "profile"))
    flows.check(account)
    flows.check(account)
    assert history()[:2] == [("renamed", "ilert", ""), ("scopes_changed", "ilert", "")]


@pytest.mark.parametrize("fields", [None, ["user"], ["user_id"]])
def test_handing_over_is_an_event_once(account: ConnectedAccount, fields: list[str] | None) -> None:
    account.user = User.objects.create_user("successor")
    account.save(update_fields=["display_name"])
    assert history() == []
    account.save(update_fields=fields)
    account.save()
    assert history() == [("handed_over", "", "")]


def test_what_another_process_has_handed_over_is_no_event_here(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(user=User.objects.create_user("successor"))
    account.refresh_from_db()
    account.save()
    assert history() == []


def test_a_change_that_is_rolled_back_is_no_event(account: ConnectedAccount) -> None:
    with transaction.atomic():
        flows.disconnect(account)
        account.delete()
        transaction.set_rollback(True)
    assert history() == []


@pytest.mark.parametrize("status", [Status.CONNECTED, Status.DISCONNECTED])
def test_the_history_outlives_the_account_which_has_its_own_events_the_latest_first(
    make_account: AccountFactory, status: Status
) -> None:
    account, other = make_account(status=status), make_account(username="ada")
    flows.disconnect(other)
    uuid, _ = account.uuid, account.delete()
    assert history()[1:] == [("deleted", "", "")]
    AccountEvent.objects.create(account_uuid=uuid, kind="renamed")
    events = ConnectedAccount(uuid=uuid).events
    assert [str(event).partition(",")[0] for event in events] == ["renamed at ilert", "deleted"]


def test_the_log_has_the_reference_of_an_event(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flows.disconnect(account)
    event = account.events.get()
    assert event.client_id == "the-client"
    assert f"Account {account.pk}: disconnected user (reference {event.reference})" in caplog.text


def test_an_event_that_cannot_be_written_costs_no_grant(
    connect: Callable[..., Any], ilert: StandIn, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with failing_statements("INSERT", "accountevent"):
        connect()
        account = ConnectedAccount.objects.get()
        ilert.add_fault("token", Fault(503))
        refresh(account)
        refresh(account)
        assert ConnectedAccount.objects.connected().count() == 1
        flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert [name for name, _ in sent].count("account_recovered") == 1
    assert history() == []
    assert "An event was not written: DatabaseError" in caplog.text
    assert "the words of the database" not in caplog.text


def test_a_transaction_that_is_lost_with_an_event_is_begun_again(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(sid: str) -> None:
        raise OperationalError("the savepoint has gone with the connection")

    monkeypatch.setattr(connection, "savepoint_rollback", fail)
    with failing_statements("INSERT", "accountevent", error=OperationalError, times=1):
        flows.disconnect(account)
    assert ConnectedAccount.objects.get().status == Status.DISCONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def audit_in_vain(sender: type[Any], **_kwargs: Any) -> None:
    if sender is AccountEvent:
        raise LookupError("a receiver of the site")


def test_an_event_that_a_receiver_of_the_site_refuses_costs_no_grant(
    connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def audit(sender: type[Any], **_kwargs: Any) -> None:
        if sender is AccountEvent:
            raise LookupError("a receiver of the site")

    with receiving(post_save, audit):
        connect()
    assert ConnectedAccount.objects.connected().count() == 1
    assert history() == []
    assert "An event was not written: LookupError" in caplog.text


def test_a_time_limit_while_an_event_is_written_ends_the_work(
    account: ConnectedAccount, time_limit: Callable[[], None]
) -> None:
    def take_long(sender: type[Any], **_kwargs: Any) -> None:
        if sender is AccountEvent:
            time_limit()

    with receiving(post_save, take_long), pytest.raises(TimeLimitError):
        flows.disconnect(account)


@each_way_to_run
def test_what_is_older_than_is_kept_goes_with_each_run(
    account: ConnectedAccount, settings: Any, run: Callable[[], object]
) -> None:
    settings.ILERT_OAUTH_KEEP_EVENTS = timedelta(days=10)
    for days in (9, 11):
        at = timezone.now() - timedelta(days=days)
        AccountEvent.objects.create(account_uuid=account.uuid, at=at, kind="renamed")
    run()
    assert [(timezone.now() - event.at).days for event in account.events] == [9]


def test_a_history_that_cannot_be_pruned_fails_no_run(
    account: ConnectedAccount, caplog: pytest.LogCaptureFixture
) -> None:
    with failing_statements("DELETE"):
        call_command("refresh_ilert_tokens", stdout=StringIO())
    assert caplog.messages == ["The history was not pruned: DatabaseError"]


def test_who_deletes_an_account_is_known_of_the_admin_and_the_user(
    make_account: AccountFactory, client: Client
) -> None:
    client.force_login(User.objects.create_superuser("admin"))
    admins, chosen, own = (make_account(username=name) for name in ("ada", "linus", "grace"))
    url = "/admin/ilert_oauth/connectedaccount/"
    client.post(f"{url}{admins.pk}/delete/", {"post": "yes"})
    picked = {"action": "delete_selected", "_selected_action": [chosen.pk], "post": "yes"}
    client.post(url, picked)
    flows.disconnect(own)
    client.force_login(own.user)
    client.post(f"/ilert/{own.pk}/remove/")
    assert [by for kind, by, _code in history() if kind == "deleted"] == ["admin", "admin", "user"]


def test_who_disconnects_by_a_command_is_the_command(account: ConnectedAccount) -> None:
    options = {"all": True, "interactive": False, "reason": "admin", "stdout": StringIO()}
    call_command("disconnect_ilert_accounts", **options)
    assert history() == [("disconnected", "command", "admin")]


def test_who_hands_an_account_over_is_known_in_an_admin_of_a_site(
    account: ConnectedAccount, rf: RequestFactory
) -> None:
    account.user = User.objects.create_user("successor")
    panel = ConnectedAccountAdmin(ConnectedAccount, admin.site)
    panel.save_model(rf.post("/"), account, None, True)
    assert history() == [("handed_over", "admin", "")]


def test_the_page_of_an_account_in_the_admin_shows_its_events(
    account: ConnectedAccount, client: Client
) -> None:
    flows.disconnect(account, reason=Reason.ADMIN)
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(f"/admin/ilert_oauth/connectedaccount/{account.pk}/change/").content.decode()
    reference = account.events.get().reference
    assert f"<td>disconnected</td><td>administrator</td><td>admin</td><td>{reference}</td>" in page


def test_a_receiver_can_ask_a_deleted_user_for_an_address(account: ConnectedAccount) -> None:
    def mail(account: ConnectedAccount, **_: Any) -> None:
        told.append(account.user.get_username())

    told: list[str] = []
    with receiving(signals.account_revoked, mail):
        User.objects.get().delete()
    assert told == ["site-user"]


def test_an_account_whose_user_is_gone_already_can_be_deleted(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: ConnectedAccount) -> None:
        raise User.DoesNotExist

    with monkeypatch.context() as patched, transaction.atomic():
        patched.setattr(ConnectedAccount, "user", property(gone))
        end_grant_of_deleted(account)
    assert history() == [("deleted", "", "")]
