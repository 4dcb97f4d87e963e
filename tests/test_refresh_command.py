from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.management.commands.refresh_ilert_tokens import duration
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from ilert_standin import StandIn
from ilert_standin.faults import Fault
from tests.conftest import AccountFactory


class Run:
    """What the command did: its output, its errors and whether it failed."""

    def __init__(self, *options: str) -> None:
        out, err = StringIO(), StringIO()
        self.failure = ""
        try:
            call_command("refresh_ilert_tokens", *options, stdout=out, stderr=err)
        except CommandError as error:
            self.failure = str(error)
        self.out, self.err = out.getvalue(), err.getvalue()

    @property
    def counts(self) -> tuple[int, ...]:
        """Renewed, failed, skipped, grants ended, grants left."""
        summary = re.fullmatch(
            r"(\d+) renewed, (\d+) failed, (\d+) skipped; "
            r"(\d+) grants ended, (\d+) left to be ended\.",
            self.out.splitlines()[-1],
        )
        assert summary is not None, self.out
        return tuple(map(int, summary.groups()))


def due_in(**time: float) -> dict[str, Any]:
    return {"access_token_expires_at": timezone.now() + timedelta(**time)}


def renewed(account: ConnectedAccount) -> bool:
    before = account.access_token_ciphertext
    account.refresh_from_db()
    return account.access_token_ciphertext != before


@pytest.fixture
def people(make_account: AccountFactory) -> Callable[..., list[ConnectedAccount]]:
    """So many accounts that are due."""

    def make(count: int, **columns: Any) -> list[ConnectedAccount]:
        columns = {**due_in(minutes=5), **columns}
        return [make_account(username=f"user-{number}", **columns) for number in range(count)]

    return make


@pytest.mark.parametrize(
    ("columns", "is_due"),
    [
        (due_in(minutes=-1), True),
        (due_in(minutes=14), True),
        (due_in(minutes=16), False),
        ({"access_token_expires_at": None}, True),
        ({"refresh_token_expires_at": timezone.now() + timedelta(days=6)}, True),
        ({"refresh_token_expires_at": timezone.now() + timedelta(days=8)}, False),
        ({**due_in(minutes=5), "status": Status.DISCONNECTED}, False),
        ({**due_in(minutes=5), "status": Status.RECONNECT_REQUIRED}, False),
    ],
)
def test_what_is_due_is_renewed(
    make_account: AccountFactory, ilert: StandIn, columns: dict[str, Any], is_due: bool
) -> None:
    account = make_account(**columns)
    run = Run()
    assert run.counts == (int(is_due), 0, 0, 0, 0)
    assert run.failure == ""
    assert renewed(account) is is_due
    assert len(ilert.token_requests) == int(is_due)


def test_a_grant_near_its_end_is_not_renewed_at_every_run(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(refresh_token_expires_at=timezone.now() + timedelta(days=3))
    assert Run().counts[0] == 1
    account.refresh_from_db()
    account.refreshed_at = timezone.now() - timedelta(hours=1)
    account.save()
    assert Run().counts == (0, 0, 0, 0, 0)
    assert len(ilert.token_requests) == 1


def test_nothing_due_is_success(db: None, ilert: StandIn) -> None:
    run = Run()
    assert (run.counts, run.failure, run.err) == ((0, 0, 0, 0, 0), "", "")
    assert ilert.requests == []


@pytest.mark.parametrize(("within", "is_due"), [("29m", False), ("31m", True), ("1d", True)])
def test_within_names_the_time_ahead(
    make_account: AccountFactory, ilert: StandIn, within: str, is_due: bool
) -> None:
    account = make_account(**due_in(minutes=30))
    Run("--within", within)
    assert renewed(account) is is_due


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    assert duration(text) == expected


BAD_DURATIONS = ["", "15", "m", "-5m", "1.5h", "15 m", "1w", "15M", "\u0665m", "9999999s", "5m\n"]


@pytest.mark.parametrize("text", BAD_DURATIONS)
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        duration(text)


@pytest.mark.parametrize(
    "option", ["--within=soon", "--limit=many", "--limit=-1", "--account=grace", "--nonsense"]
)
def test_a_bad_option_is_named_and_nothing_is_renewed(
    people: Callable[..., Any], ilert: StandIn, option: str
) -> None:
    people(1)
    assert option.partition("=")[0] in Run(option).failure
    assert ilert.requests == []


@pytest.mark.parametrize("within", ["999999d", "999999h"])
def test_a_long_time_ahead_is_fine(people: Callable[..., Any], ilert: StandIn, within: str) -> None:
    people(1)
    assert Run("--within", within).counts[0] == 1


def test_a_limit_is_kept(people: Callable[..., Any], ilert: StandIn) -> None:
    people(3)
    assert Run("--limit", "2").counts == (2, 0, 0, 0, 0)
    assert len(ilert.token_requests) == 2
    assert Run().counts == (1, 0, 0, 0, 0)


def test_accounts_may_be_named_due_or_not(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    one, two, three = people(3, **due_in(hours=1))
    run = Run("--account", str(one.pk), "--account", str(three.pk))
    assert run.counts == (2, 0, 0, 0, 0)
    assert [renewed(account) for account in (one, two, three)] == [True, False, True]


def test_an_unknown_account_is_named_and_nothing_is_renewed(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    run = Run("--account", str(account.pk), "--account", "4711")
    assert "4711" in run.failure
    assert ilert.requests == []


def test_a_named_account_whose_grant_has_ended_is_a_failure(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(status=Status.DISCONNECTED)
    run = Run("--account", str(account.pk))
    assert run.counts == (0, 1, 0, 0, 0)
    assert f"Account {account.pk} was not renewed: invalid_grant" in run.err
    assert ilert.token_requests == []


def test_an_account_renewed_just_now_is_skipped_unless_forced(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(**due_in(minutes=5), refreshed_at=timezone.now())
    run = Run()
    assert (run.counts, run.failure) == ((0, 0, 1, 0, 0), "")
    assert ilert.token_requests == []
    assert Run("--force").counts == (1, 0, 0, 0, 0)
    assert renewed(account)


@pytest.mark.parametrize("options", [[], ["--limit", "1"]])
def test_a_dry_run_lists_what_is_due_and_makes_no_request(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, options: list[str]
) -> None:
    accounts = people(2)
    flows.disconnect(accounts.pop())
    run = Run("--dry-run", *options)
    (account,) = accounts
    assert run.out == f"{account.pk}  {account}\n1 to be renewed; nothing was done.\n"
    assert run.failure == ""
    assert not renewed(account)
    assert ilert.requests == []
    assert PendingRevocation.objects.count() == 1


def test_a_dry_run_lists_no_more_than_the_limit(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    first, _second = people(2)
    assert str(first.pk) == Run("--dry-run", "--limit", "1").out.split()[0]
    assert "1 to be renewed" in Run("--dry-run", "--limit", "1").out


def unreadable(account: ConnectedAccount, ilert: StandIn) -> str:
    account.refresh_token_ciphertext = "broken"
    account.save()
    return "token_unreadable"


def refused(account: ConnectedAccount, ilert: StandIn) -> str:
    ilert.revoke_app("acme", account.username)
    return "invalid_grant"


def unavailable(account: ConnectedAccount, ilert: StandIn) -> str:
    ilert.add_fault("token", Fault(503))
    return "server_error"


def of_another_ilert(account: ConnectedAccount, ilert: StandIn) -> str:
    account.api_url = "https://api.ilert.com"
    account.save()
    return "endpoint_mismatch"


@pytest.mark.parametrize("spoil", [unreadable, refused, unavailable, of_another_ilert])
def test_a_bad_row_stops_none_of_the_others(
    people: Callable[..., list[ConnectedAccount]],
    ilert: StandIn,
    spoil: Callable[[ConnectedAccount, StandIn], str],
) -> None:
    bad, *good = people(3)
    code = spoil(bad, ilert)
    run = Run()
    assert run.counts == (2, 1, 0, 0, 0)
    assert run.err == f"Account {bad.pk} was not renewed: {code}\n"
    assert run.failure != ""
    assert all(renewed(account) for account in good)
    assert not renewed(bad)


def test_a_grant_that_is_gone_is_asked_for_once(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    assert Run().counts == (0, 1, 0, 0, 0)
    again = Run()
    assert (again.counts, again.failure) == ((0, 0, 0, 0, 0), "")
    assert len(ilert.token_requests) == 1


def test_a_wrong_client_secret_can_be_undone(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, settings: Any
) -> None:
    accounts = people(2)
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    assert Run().counts == (0, 2, 0, 0, 0)
    settings.ILERT_OAUTH_CLIENT_SECRET = "the-client-secret"
    run = Run("--retry-reconnect-required")
    assert (run.counts, run.failure) == ((2, 0, 0, 0, 0), "")
    assert all(renewed(account) for account in accounts)
    assert {account.status for account in accounts} == {Status.CONNECTED}


def test_a_retry_that_is_refused_again_is_a_failure(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(status=Status.RECONNECT_REQUIRED)
    ilert.revoke_app("acme", "grace")
    run = Run("--retry-reconnect-required")
    assert run.counts == (0, 1, 0, 0, 0)
    assert run.failure != ""
    account.refresh_from_db()
    assert account.status == Status.RECONNECT_REQUIRED


def test_a_grant_left_to_be_ended_is_ended(account: ConnectedAccount, ilert: StandIn) -> None:
    flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    run = Run()
    assert (run.counts, run.failure) == ((0, 0, 0, 1, 0), "")
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert Run().counts == (0, 0, 0, 0, 0)


def test_a_grant_that_cannot_be_ended_yet_is_a_failure_and_is_kept(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.disconnect(account)
    ilert.add_fault("revoke", Fault(503))
    run = Run()
    assert run.counts == (0, 0, 0, 0, 1)
    assert run.failure != ""
    assert Run().counts == (0, 0, 0, 1, 0)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_the_output_and_the_log_hold_no_secret(
    people: Callable[..., list[ConnectedAccount]],
    ilert: StandIn,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
) -> None:
    caplog.set_level("DEBUG")
    accounts = people(4)
    secrets = [text for account in accounts for text in secrets_of(account)]
    unreadable(accounts[0], ilert)
    refused(accounts[1], ilert)
    ilert.add_fault("token", Fault(400, '{"code": "words-of-ilert", "error": "words-of-ilert"}'))
    flows.disconnect(accounts.pop())
    run = Run(*options)
    for account in ConnectedAccount.objects.exclude(pk=accounts[0].pk):
        secrets += secrets_of(account)
    shown = run.out + run.err + run.failure + caplog.text
    secrets += ["the-client-secret", "words-of-ilert"]
    assert [secret for secret in secrets if secret and secret in shown] == []


def secrets_of(account: ConnectedAccount) -> list[str]:
    return [
        str(account.access_token),
        str(account.refresh_token),
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
    ]
