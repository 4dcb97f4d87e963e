from __future__ import annotations

import json
import signal
from io import StringIO
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.own_signals import ignore, strike
from tests.support.request_monitor import RequestMonitor


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """What the command did: its output, its errors, and how it failed and with which exit code."""

    def __init__(self, *options: str, err: StringIO | None = None) -> None:
        out, err = StringIO(), err or StringIO()
        self.failure, self.code = "", 0
        try:
            call_command("check_ilert_accounts", *options, stdout=out, stderr=err)
        except CommandError as error:
            self.failure, self.code = str(error), error.returncode
        self.out, self.err = out.getvalue(), err.getvalue()


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


def test_nothing_to_check_is_success(db: None, ilert: StandIn) -> None:
    run = Run()
    assert (run.out, run.code) == ("0 checked, 0 changed, 0 failed.\n", 0)


def test_accounts_may_be_named(people: People, ilert: StandIn) -> None:
    one, _two, three = people(3)
    run = Run("--account", str(one.pk), "--account", str(three.pk))
    assert run.out.startswith("2 checked")
    assert {made.form["token"] for made in ilert.requests} == {
        one.access_token.reveal(),
        three.access_token.reveal(),
    }


def test_a_named_account_whose_grant_has_ended_is_a_failure(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(status=Status.DISCONNECTED)
    run = Run("--account", str(account.pk))
    assert run.err == f"Account {account.pk} was not checked: invalid_grant\n"
    assert run.failure == "Some accounts or revocations failed: see their codes above."
    assert run.code == 1
    assert ilert.requests == []


def test_an_unknown_account_is_named_and_nothing_is_checked(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    run = Run("--account", str(account.pk), "--account", "4711")
    assert "4711" in run.failure
    assert ilert.requests == []


def test_a_limit_is_kept(people: People, ilert: StandIn) -> None:
    people(3)
    assert Run("--limit", "2").out.startswith("2 checked")
    assert len(ilert.requests) == 2


@pytest.mark.parametrize(
    "option", ["--limit=0", "--concurrency=0", "--per-minute=-1", "--account=grace", "--within=1h"]
)
def test_a_bad_option_is_named_and_nothing_is_checked(
    people: People, ilert: StandIn, option: str
) -> None:
    people(1)
    assert option.partition("=")[0] in Run(option).failure
    assert ilert.requests == []


def test_a_dry_run_lists_what_would_be_checked_and_makes_no_request(
    people: People, ilert: StandIn
) -> None:
    accounts = people(2)
    flows.disconnect(accounts.pop())
    (account,) = accounts
    run = Run("--dry-run")
    assert run.out == f"{account.pk}  {account}\n1 to be checked; nothing was done.\n"
    assert ilert.requests == []


def test_per_minute_is_the_rate_limit(people: People, monitor: RequestMonitor) -> None:
    people(4)
    Run("--per-minute=240")
    assert monitor.arrivals[-1] - monitor.arrivals[0] > 0.4


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


def test_a_terminal_shows_a_bar(people: People, ilert: StandIn) -> None:
    people(2)
    assert "2/2" in Run(err=Screen()).err


@pytest.mark.parametrize("option", ["--json", "--dry-run"])
def test_a_terminal_shows_no_bar_where_it_would_be_in_the_way(
    people: People, ilert: StandIn, option: str
) -> None:
    people(2)
    assert Run(option, err=Screen()).err == ""


# Trouble


def test_a_name_that_is_taken_is_told_and_changes_nothing(people: People, ilert: StandIn) -> None:
    first, _second = people(2)
    ilert.add_fault("token_info", named("user-1"))
    run = Run("--concurrency=1")
    assert run.err == f"Account {first.pk} was not checked: identity_taken\n"
    assert run.code == 1
    assert [str(row) for row in ConnectedAccount.objects.order_by("pk")] == [
        "user-0 @ acme",
        "user-1 @ acme",
    ]
    for row in ConnectedAccount.objects.all():
        assert row.is_readable


def test_a_grant_that_is_gone_is_marked_once_its_token_is_dead(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    run = Run("--mark-ended")
    assert run.err == f"Account {expired_account.pk} was not checked: invalid_grant\n"
    assert ConnectedAccount.objects.get().needs_reconnect
    assert Run().out == "0 checked, 0 changed, 0 failed.\n"


def test_an_outage_is_2_and_says_that_the_tokens_are_kept(people: People, ilert: StandIn) -> None:
    people(12)
    before = list(ConnectedAccount.objects.values())
    ilert.add_fault("token_info", Fault(drop=True), times=None)
    run = Run("--per-minute=0")
    assert run.code == 2
    assert "tokens are kept" in run.failure
    assert list(ConnectedAccount.objects.values()) == before


def test_wrong_credentials_are_2_and_mark_nothing(
    people: People, ilert: StandIn, settings: Any
) -> None:
    people(12, access_token_expires_at=timezone.now())
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    run = Run("--per-minute=0", "--json")
    assert (run.code, json.loads(run.out)["stopped"]) == (2, "credentials")
    assert ConnectedAccount.objects.connected().count() == 12


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"]])
def test_the_output_and_the_log_hold_no_secret(
    people: People, ilert: StandIn, caplog: pytest.LogCaptureFixture, options: list[str]
) -> None:
    caplog.set_level("DEBUG")
    secrets = ["the-client-secret", "words-of-ilert"]
    for account in people(3):
        secrets += [account.access_token.reveal(), account.refresh_token.reveal()]
        secrets += [account.access_token_ciphertext, account.refresh_token_ciphertext]
    body = '{"code": "words-of-ilert", "error": "words-of-ilert"}'
    ilert.add_fault("token_info", Fault(400, body))
    ilert.add_fault("token_info", named("hopper"))
    run = Run(*options)
    shown = run.out + run.err + run.failure + caplog.text
    assert [secret for secret in secrets if secret in shown] == []


@pytest.mark.usefixtures("spared")
@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129)])
def test_a_signal_ends_the_command_with_its_own_code(
    people: People, monitor: RequestMonitor, number: int, code: int
) -> None:
    monitor.on_arrival = lambda count: strike(number)
    people(3)
    run = Run("--per-minute=0", "--concurrency=1")
    assert (run.out, run.code) == ("1 checked, 0 changed, 0 failed.\n", code)
    assert signal.getsignal(number) is ignore
