from __future__ import annotations

import json
import sys
import threading
from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.db import OperationalError, connections
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _disconnect
from django_ilert_oauth.management.commands.disconnect_ilert_accounts import moment
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.command_run import CommandRun
from tests.support.own_signals import strike
from tests.support.request_monitor import RequestMonitor
from tests.support.statements import before_statements

pytestmark = pytest.mark.django_db(transaction=True)


def run(*options: str, asks: bool = False) -> CommandRun:
    input_options = [] if asks else ["--no-input"]
    return CommandRun("disconnect_ilert_accounts", *options, "--per-minute=0", *input_options)


def disconnected() -> list[str]:
    rows = ConnectedAccount.objects.filter(status=Status.DISCONNECTED).order_by("pk")
    return list(rows.values_list("username", flat=True))


def test_all_are_disconnected_and_revoked(people: People, ilert: StandIn, sent: list[Any]) -> None:
    people(3)
    done = run("--all")
    assert done.out.startswith("3 disconnected, 0 failed, 0 still to be revoked.\nNo access token ")
    assert (done.err, done.code) == ("", 0)
    assert {ilert.live_refresh_tokens("acme", name) for name in disconnected()} == {0}
    assert [facts["reason"] for _, facts in sent] == [Reason.INCIDENT] * 3


def test_all_tokens_are_wiped_before_the_first_grant_is_revoked(
    people: People, monitor: RequestMonitor
) -> None:
    def count_wiped(_count: int) -> None:
        """In a thread of the server, which has a connection of its own."""
        rows = ConnectedAccount.objects.filter(refresh_token_ciphertext="")
        wiped.append(rows.count())
        connections.close_all()

    wiped: list[int] = []
    monitor.on_arrival = count_wiped
    people(3)
    run("--all")
    assert wiped == [3, 3, 3]


@pytest.mark.parametrize(
    ("option", "columns"),
    [
        ("--tenant=globex", {"tenant_id": "globex"}),
        ("--client=another", {"client_id": "another"}),
        ("--connected-before=2020-01-02", {"connected_at": "2020-01-01T00:00Z"}),
        ("--user=ada", {}),
    ],
)
def test_accounts_are_chosen_by_what_is_known_of_them(
    people: People, option: str, columns: dict[str, Any]
) -> None:
    _other, wanted = people(2)
    ada = User.objects.create_user("ada")
    ConnectedAccount.objects.filter(pk=wanted.pk).update(user=ada, **columns)
    assert run(option).code == 0
    assert disconnected() == ["user-1"]


def test_of_the_accounts_that_are_named_those_are_chosen_that_match(people: People) -> None:
    first, second, _third = people(3)
    ConnectedAccount.objects.exclude(pk=second.pk).update(tenant_id="globex")
    run("--tenant=globex", f"--account={first.pk}", f"--account={second.pk}")
    assert disconnected() == ["user-0"]


@pytest.mark.usefixtures("account")
def test_what_is_to_be_disconnected_must_be_said_and_unmistakably() -> None:
    for options in ((), ("--all", "--tenant=acme")):
        assert "--all alone" in run(*options).failure
    assert disconnected() == []


@pytest.mark.usefixtures("account")
def test_a_mistyped_name_is_told_and_not_taken_for_nothing_to_do() -> None:
    assert run("--tenant=amce").failure == "No account meets these conditions: check the names."


@pytest.mark.parametrize(("reply", "names"), [("yes", ["grace"]), ("y", [])])
def test_on_a_terminal_the_word_yes_is_asked_for(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, reply: str, names: list[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda: reply)
    done = run("--all", asks=True)
    assert done.err.startswith("1 to be disconnected; ")
    assert (disconnected(), done.failure) == (names, "" if names else "Nothing was done.")


def test_the_question_is_no_part_of_the_json(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("yes\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    call_command("disconnect_ilert_accounts", "--all", "--json")
    written = capsys.readouterr()
    assert json.loads(written.out)["disconnected"] == 1
    assert written.err.endswith("Type yes to go on: ")


def test_where_nobody_can_be_asked_it_must_be_said_that_nobody_is(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert "--no-input" in run("--all", asks=True).failure
    assert disconnected() == []


def test_what_ilert_has_not_confirmed_is_named_and_a_second_run_goes_on(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", Fault(503))
    done = run("--all")
    assert done.out == "1 disconnected, 0 failed, 1 still to be revoked.\n"
    assert (done.err, done.code) == ("ilert has not confirmed yet: grace @ acme\n", 1)
    told = json.loads(run("--all", "--json").out)
    assert told["revocations"] == {str(PendingRevocation.objects.get().pk): "grace @ acme"}
    PendingRevocation.objects.update(next_attempt_at=None)
    again = run("--all")
    assert again.out.startswith("0 disconnected, 0 failed, 0 still to be revoked.\n")
    assert (again.code, ilert.live_refresh_tokens("acme", "grace")) == (0, 0)


def test_json_has_the_words_of_the_text(people: People) -> None:
    people(1)
    told = json.loads(run("--all", "--json").out)
    ends_at = datetime.fromisoformat(told.pop("access_ends_at"))
    assert abs(ends_at - timezone.now() - timedelta(hours=1)) < timedelta(minutes=1)
    counts = {"disconnected": 1, "failed": 0, "still_to_be_revoked": 0}
    assert told == {**counts, "failures": {}, "revocations": {}}


def test_access_ends_with_the_last_access_token(make_account: AccountFactory) -> None:
    latest = timezone.now() + timedelta(hours=5)
    make_account(access_token_expires_at=latest)
    make_account(username="unknown", access_token_expires_at=None)
    told = json.loads(run("--all", "--json").out)
    assert datetime.fromisoformat(told["access_ends_at"]) == latest


def test_an_account_that_the_database_does_not_release_stops_none_of_the_others(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(account: ConnectedAccount, **_: Any) -> None:
        if account.pk == locked.pk:
            raise OperationalError("locked")

    locked, _other = people(2)
    monkeypatch.setattr(_disconnect, "keep_for_revocation", fail_once)
    done = run("--all")
    assert done.err == f"Account {locked.pk} was not disconnected: database\n"
    assert (done.code, disconnected()) == (1, ["user-1"])


@pytest.mark.usefixtures("spared")
def test_a_signal_stops_it_and_a_second_run_goes_on(
    people: People, monitor: RequestMonitor
) -> None:
    monitor.on_arrival = lambda count: strike(15)
    people(3)
    done = run("--all")
    assert (done.code, "Run this again" in done.failure) == (143, True)
    assert PendingRevocation.objects.count() == 2
    monitor.on_arrival = lambda count: None
    assert (run("--all").code, PendingRevocation.objects.count()) == (0, 0)


def test_what_is_reconnected_during_a_run_stays_connected(people: People) -> None:
    people(2)
    newer = ConnectedAccount.objects.filter(username="user-1")
    reconnect = partial(newer.update, connected_at=timezone.now() + timedelta(hours=1))
    rows_are_read = before_statements(reconnect, "SELECT", '"refresh_token_ciphertext"')
    with rows_are_read:
        done = run("--connected-before", (timezone.now() + timedelta(minutes=1)).isoformat())
    assert (done.code, disconnected()) == (0, ["user-0"])


def test_the_last_access_token_is_that_of_a_refresh_during_the_run(
    account: ConnectedAccount,
) -> None:
    ends_at = timezone.now() + timedelta(hours=2)
    rows = ConnectedAccount.objects.all()
    with before_statements(lambda: rows.update(access_token_expires_at=ends_at), "UPDATE"):
        assert flows.disconnect_many(rows).access_ends_at == ends_at


def test_what_is_stopped_before_it_begins_does_nothing(account: ConnectedAccount) -> None:
    stop = threading.Event()
    stop.set()
    result = flows.disconnect_many(ConnectedAccount.objects.all(), stop=stop)
    assert result == flows.DisconnectResult()
    assert disconnected() == []


@pytest.mark.parametrize("text", ["soon", "2026-02-30"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a time"):
        moment(text)


def test_a_time_is_that_of_the_site_unless_it_says_more(settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    assert moment("2026-11-26T10:00").isoformat() == "2026-11-26T10:00:00+01:00"
    assert moment("2026-11-26T10:00+00:00").isoformat() == "2026-11-26T10:00:00+00:00"


@pytest.mark.parametrize("stop", [None, 10], ids=["all", "slice"])
def test_an_account_that_a_queryset_lists_twice_is_disconnected_once(
    account: ConnectedAccount, stop: int | None
) -> None:
    account.user.groups.set([Group.objects.create(name=name) for name in ("first", "second")])
    listed = ConnectedAccount.objects.filter(user__groups__isnull=False).order_by("pk")[:stop]
    assert len(listed) == 2
    assert flows.disconnect_many(listed).disconnected == 1
    assert flows.disconnect_many(listed).disconnected == 0
