from __future__ import annotations

import json
from functools import partial
from io import StringIO
from signal import SIGTERM

import pytest

from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.command_run import CommandRun
from tests.support.own_signals import strike
from tests.support.request_monitor import RequestMonitor


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


Run = partial(CommandRun, "check_ilert_accounts")


def named(username: str, tenant: str = "acme", scope: str = "profile") -> Fault:
    info = {"active": True, "tenant_id": tenant, "username": username, "scope": scope}
    return Fault(200, json.dumps(info))


def test_tenant_username_and_scope_are_brought_into_line_with_ilert(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    token = account.access_token.reveal()
    ilert.add_fault("token_info", named("hopper", "globex", "profile source:d"))
    run = Run()
    assert (run.out, run.err, run.code) == ("1 checked, 1 changed, 0 failed.\n", "", 0)
    account.refresh_from_db()
    assert (str(account), account.granted_scope) == ("hopper @ globex", "profile source:d")
    assert account.access_token.reveal() == token


def test_connected_accounts_are_checked_and_no_others(people: People, ilert: StandIn) -> None:
    first, second, _third = people(3)
    ConnectedAccount.objects.filter(pk=first.pk).update(status=Status.DISCONNECTED)
    ConnectedAccount.objects.filter(pk=second.pk).update(status=Status.RECONNECT_REQUIRED)
    assert Run().out == "1 checked, 0 changed, 0 failed.\n"
    assert len(ilert.requests) == 1


def test_accounts_may_be_named_and_limited(people: People, ilert: StandIn) -> None:
    one, _two, three = people(3)
    chosen = ("--account", str(one.pk), "--account", str(three.pk))
    assert Run(*chosen).out.startswith("2 checked")
    tokens = {account.access_token.reveal() for account in (one, three)}
    assert {made.form["token"] for made in ilert.requests} == tokens
    assert Run(*chosen, "--limit=1").out.startswith("1 checked")


def test_a_named_account_whose_grant_has_ended_is_a_failure(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(status=Status.DISCONNECTED)
    run = Run("--account", str(account.pk))
    assert run.err == f"Account {account.pk} was not checked: invalid_grant\n"
    assert run.failure == "Some accounts or revocations failed: see their codes above."
    assert run.code == 1
    assert ilert.requests == []


def test_per_minute_is_the_rate_limit(people: People, monitor: RequestMonitor) -> None:
    people(2)
    Run("--per-minute=120")
    assert monitor.arrivals[1] - monitor.arrivals[0] > 0.2


def test_json_is_one_object_with_counts_and_what_failed(people: People, ilert: StandIn) -> None:
    bad, _changed, _same = people(3)
    ConnectedAccount.objects.filter(pk=bad.pk).update(access_token_ciphertext="broken")
    ilert.add_fault("token_info", named("hopper"))
    run = Run("--json")
    told = json.loads(run.out)
    assert 0 <= told.pop("seconds") < 60
    assert told == {
        "checked": 2,
        "changed": 1,
        "failed": 1,
        "failures": {str(bad.pk): "token_unreadable"},
        "stopped": "",
    }
    assert (run.out.count("\n"), run.err, run.code) == (1, "", 1)


def test_a_terminal_shows_a_bar(people: People) -> None:
    people(2)
    assert "2/2" in Run(stderr=Screen()).err


# Failures


def test_a_grant_that_is_gone_is_marked_once_its_token_is_dead(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    run = Run("--mark-ended")
    assert run.err == f"Account {expired_account.pk} was not checked: invalid_grant\n"
    assert ConnectedAccount.objects.get().needs_reconnect
    assert Run().out == "0 checked, 0 changed, 0 failed.\n"


@pytest.mark.usefixtures("spared")
def test_a_signal_ends_the_command(people: People, monitor: RequestMonitor) -> None:
    monitor.on_arrival = lambda count: strike(SIGTERM)
    people(3)
    run = Run("--per-minute=0", "--concurrency=1")
    assert (run.out, run.code) == ("1 checked, 0 changed, 0 failed.\n", 143)
