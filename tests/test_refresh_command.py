from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, connections
from django.db.models import F
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows._bulk import refresh
from django_ilert_oauth.internal.db import DatabaseTime
from django_ilert_oauth.management.commands.refresh_ilert_tokens import duration
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from ilert_standin import StandIn
from ilert_standin.faults import Fault
from tests.conftest import AccountFactory
from tests.support.live_accounts import counting_alive
from tests.support.other_callers import LEASE_MS
from tests.support.own_signals import ignore, strike
from tests.support.request_monitor import RequestMonitor

REPOSITORY = Path(__file__).parent.parent


class Run:
    """What the command did: its output, its errors, and how it failed and with which exit code."""

    def __init__(self, *options: str) -> None:
        out, err = StringIO(), StringIO()
        self.failure, self.code = "", 0
        try:
            call_command("refresh_ilert_tokens", *options, stdout=out, stderr=err)
        except CommandError as error:
            self.failure, self.code = str(error), error.returncode
        self.out, self.err = out.getvalue(), err.getvalue()

    @property
    def counts(self) -> tuple[int, ...]:
        """Refreshed, failed, skipped, grants revoked, revocations pending."""
        summary = re.fullmatch(
            r"(\d+) refreshed, (\d+) failed, (\d+) skipped, "
            r"(\d+) grants revoked, (\d+) revocations pending, \d+ revocations given up\.",
            self.out.splitlines()[-1],
        )
        assert summary is not None, self.out
        return tuple(map(int, summary.groups()))


def due_in(**time: float) -> dict[str, Any]:
    return {"access_token_expires_at": timezone.now() + timedelta(**time)}


def refreshed(account: ConnectedAccount) -> bool:
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
        (lambda: due_in(minutes=-1), True),
        (lambda: due_in(minutes=14), True),
        (lambda: due_in(minutes=16), False),
        (lambda: {"access_token_expires_at": None}, True),
        (lambda: {"refresh_token_expires_at": timezone.now() + timedelta(days=6)}, True),
        (lambda: {"refresh_token_expires_at": timezone.now() + timedelta(days=8)}, False),
        (lambda: {**due_in(minutes=5), "status": Status.DISCONNECTED}, False),
        (lambda: {**due_in(minutes=5), "status": Status.RECONNECT_REQUIRED}, False),
    ],
)
def test_what_is_due_is_refreshed(
    make_account: AccountFactory,
    ilert: StandIn,
    columns: Callable[[], dict[str, Any]],
    is_due: bool,
) -> None:
    account = make_account(**columns())
    run = Run()
    assert run.counts == (int(is_due), 0, 0, 0, 0)
    assert run.failure == ""
    assert refreshed(account) is is_due
    assert len(ilert.token_requests) == int(is_due)


def test_a_grant_near_its_end_is_not_refreshed_at_every_run(
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
    assert refreshed(account) is is_due


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
    "option",
    [
        "--within=soon",
        "--limit=many",
        "--limit=-1",
        "--account=grace",
        "--concurrency=0",
        "--concurrency=-1",
        "--concurrency=many",
        "--per-minute=-1",
        "--per-minute=1.5",
        "--per-minute=fast",
        "--nonsense",
    ],
)
def test_a_bad_option_is_named_and_nothing_is_refreshed(
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
    assert [refreshed(account) for account in (one, two, three)] == [True, False, True]


def test_an_unknown_account_is_named_and_nothing_is_refreshed(
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
    assert f"Account {account.pk} was not refreshed: invalid_grant" in run.err
    assert ilert.token_requests == []


def test_an_account_refreshed_just_now_is_skipped_unless_forced(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(**due_in(minutes=5), refreshed_at=timezone.now())
    run = Run()
    assert (run.counts, run.failure) == ((0, 0, 1, 0, 0), "")
    assert ilert.token_requests == []
    assert Run("--force").counts == (1, 0, 0, 0, 0)
    assert refreshed(account)


@pytest.mark.parametrize("options", [[], ["--limit", "1"]])
def test_a_dry_run_lists_what_is_due_and_makes_no_request(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, options: list[str]
) -> None:
    accounts = people(2)
    flows.disconnect(accounts.pop())
    run = Run("--dry-run", *options)
    (account,) = accounts
    assert run.out == f"{account.pk}  {account}\n1 to be refreshed; nothing was done.\n"
    assert run.failure == ""
    assert not refreshed(account)
    assert ilert.requests == []
    assert PendingRevocation.objects.count() == 1


def test_names_are_listed_with_escapes_for_what_does_something_to_a_terminal(
    make_account: AccountFactory,
) -> None:
    make_account(username="gr\x1b[2Jace\n\u202e\u200b", **due_in(minutes=5))
    assert "  gr\\x1b[2Jace\\n\\u202e\\u200b @ acme\n" in Run("--dry-run").out


def test_names_are_listed_with_escapes_for_what_the_console_cannot_show(
    make_account: AccountFactory,
) -> None:
    make_account(username="gräce ✓", **due_in(minutes=5))
    shown = BytesIO()
    console = TextIOWrapper(shown, "latin-1", write_through=True)
    call_command("refresh_ilert_tokens", "--dry-run", stdout=console)
    assert "  gräce \\u2713 @ acme\n" in shown.getvalue().decode("latin-1")


def test_a_dry_run_lists_no_more_than_the_limit(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    first, _second = people(2)
    assert str(first.pk) == Run("--dry-run", "--limit", "1").out.split()[0]
    assert "1 to be refreshed" in Run("--dry-run", "--limit", "1").out


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
    assert run.err == f"Account {bad.pk} was not refreshed: {code}\n"
    assert run.failure != ""
    assert all(refreshed(account) for account in good)
    assert not refreshed(bad)


def test_a_grant_that_is_gone_is_asked_for_once(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    assert Run("--mark-ended").counts == (0, 1, 0, 0, 0)
    again = Run()
    assert (again.counts, again.failure) == ((0, 0, 0, 0, 0), "")
    assert len(ilert.token_requests) == 1


def test_a_wrong_client_secret_can_be_undone(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, settings: Any
) -> None:
    accounts = people(2)
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    assert Run("--mark-ended").counts == (0, 2, 0, 0, 0)
    settings.ILERT_OAUTH_CLIENT_SECRET = "the-client-secret"
    run = Run("--retry-reconnect-required")
    assert (run.counts, run.failure) == ((2, 0, 0, 0, 0), "")
    assert all(refreshed(account) for account in accounts)
    assert {account.status for account in accounts} == {Status.CONNECTED}


def test_a_retry_that_is_refused_again_is_a_failure(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(status=Status.RECONNECT_REQUIRED)
    ilert.revoke_app("acme", "grace")
    run = Run("--retry-reconnect-required")
    assert f"Account {account.pk} was not refreshed: invalid_grant" in run.err
    assert run.failure != ""
    account.refresh_from_db()
    assert account.status == Status.RECONNECT_REQUIRED


def test_a_pending_revocation_is_sent(account: ConnectedAccount, ilert: StandIn) -> None:
    flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 1
    run = Run()
    assert (run.counts, run.failure) == ((0, 0, 0, 1, 0), "")
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert Run().counts == (0, 0, 0, 0, 0)


def test_a_revocation_that_fails_is_a_failure_of_this_run_only(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.disconnect(account)
    ilert.add_fault("revoke", Fault(503))
    run = Run()
    assert (run.counts, run.code) == ((0, 0, 0, 0, 1), 1)
    assert run.err == f"Revocation {PendingRevocation.objects.get().pk} failed: server_error\n"
    again = Run()
    assert (again.counts, again.code) == ((0, 0, 0, 0, 1), 0)


def test_a_revocation_that_is_given_up_is_said_once(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    unreadable(account, ilert)
    flows.disconnect(account)
    run = Run()
    assert (run.out.endswith(", 1 revocations given up.\n"), run.code) == (True, 1)
    again = Run()
    assert (again.out.endswith(", 0 revocations given up.\n"), again.code) == (True, 0)


def test_json_has_the_revocations(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    accounts = people(4, **due_in(hours=1))
    unreadable(accounts[0], ilert)
    for account in accounts:
        flows.disconnect(account)
    ilert.add_fault("revoke", Fault(401, '{"code": "invalid_client"}'))
    lost, refused, *_good = PendingRevocation.objects.order_by("pk")
    run = Run("--json")
    told = json.loads(run.out)
    names = ("grants_revoked", "revocations_pending", "revocations_given_up", "revocation_failures")
    assert {name: told[name] for name in names} == {
        "grants_revoked": 2,
        "revocations_pending": 1,
        "revocations_given_up": 1,
        "revocation_failures": {
            str(lost.pk): "token_unreadable",
            str(refused.pk): "invalid_client",
        },
    }
    assert (run.out.count("\n"), run.err, run.code) == (1, "", 1)


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--json"]])
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
        account.access_token.reveal(),
        account.refresh_token.reveal(),
        account.access_token_ciphertext,
        account.refresh_token_ciphertext,
    ]


# Speed


@pytest.mark.django_db(transaction=True)
def test_concurrency_is_how_many_requests_are_under_way(
    people: Callable[..., Any], monitor: RequestMonitor
) -> None:
    together = threading.Barrier(3, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(6)
    assert Run("--concurrency=3", "--per-minute=0").counts[0] == 6
    assert monitor.max_concurrent == 3


def test_per_minute_is_the_rate_limit(people: Callable[..., Any], monitor: RequestMonitor) -> None:
    people(4)
    Run("--per-minute=240")
    assert monitor.arrivals[-1] - monitor.arrivals[0] > 0.4


def test_per_minute_0_is_no_limit(
    people: Callable[..., Any], ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    people(3)
    assert Run("--per-minute=0").counts[0] == 3


# Output


def test_json_is_one_object_with_counts_and_what_failed(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    bad, _early, *_good = people(4)
    ConnectedAccount.objects.filter(pk=_early.pk).update(refreshed_at=timezone.now())
    code = unreadable(bad, ilert)
    run = Run("--json")
    told = json.loads(run.out)
    assert 0 <= told.pop("seconds") < 60
    assert told == {
        "refreshed": 2,
        "failed": 1,
        "skipped": 1,
        "failures": {str(bad.pk): code},
        "stopped": "",
        "grants_revoked": 0,
        "revocations_pending": 0,
        "revocations_given_up": 0,
        "revocation_failures": {},
    }
    assert (run.out.count("\n"), run.err, run.code) == (1, "", 1)


def test_json_counts_by_the_words_of_the_text(people: Callable[..., Any], ilert: StandIn) -> None:
    people(2)
    words = re.findall(r"\d+ ([a-z ]+)", Run().out)
    told = json.loads(Run("--json").out)
    assert [key for key, value in told.items() if type(value) is int] == [
        word.replace(" ", "_") for word in words
    ]


def test_json_of_a_dry_run_names_the_accounts(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    account, _other = people(2)
    told = json.loads(Run("--dry-run", "--json", "--limit=1").out)
    assert told == {"to_be_refreshed": 1, "accounts": {str(account.pk): "user-0 @ acme"}}
    assert ilert.requests == []


@pytest.mark.parametrize("options", [[], ["--json"], ["--dry-run"]])
def test_verbosity_0_is_silent_and_keeps_the_exit_status(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, options: list[str]
) -> None:
    unreadable(people(2)[0], ilert)
    run = Run("--verbosity=0", *options)
    assert (run.out, run.err, run.code) == ("", "", int("--dry-run" not in options))


def test_away_from_a_terminal_there_is_one_line_and_no_bar(
    people: Callable[..., Any], ilert: StandIn
) -> None:
    people(2)
    run = Run()
    assert (run.out.count("\n"), run.err) == (1, "")


class Terminal:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        tty.setraw(self.theirs)
        termios.tcsetwinsize(self.theirs, (24, 80))
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.theirs)
        self._reader.join()
        os.close(self._ours)

    @property
    def shown(self) -> str:
        """All of it, once the terminal is closed."""
        return self._shown.decode()

    def _read(self) -> None:
        with suppress(OSError):  # raised on Linux once nobody can write any more
            while text := os.read(self._ours, 4096):
                self._shown += text


def shown_on_terminal(*options: str) -> str:
    """What a terminal gets on its standard error."""
    with (
        Terminal() as terminal,
        os.fdopen(terminal.theirs, "w", closefd=False) as stderr,
        suppress(CommandError),
    ):
        call_command("refresh_ilert_tokens", *options, stdout=StringIO(), stderr=stderr)
    return terminal.shown


@pytest.fixture
def slow(monitor: RequestMonitor) -> RequestMonitor:
    """tqdm draws ten times a second."""
    monitor.on_arrival = lambda count: time.sleep(0.15)
    return monitor


def test_a_terminal_shows_a_bar_with_done_failed_rate_and_time_left(
    people: Callable[..., list[ConnectedAccount]], slow: RequestMonitor
) -> None:
    refused(people(4)[0], slow.standin)
    shown = shown_on_terminal("--concurrency=1")
    rate = r"[\d.]+(account/s|s/account)"
    assert re.search(rf"50%.* 2/4 \[00:0\d<00:0\d, +{rate}, failed=1\]", shown), shown
    assert re.search(r"100%.* 4/4 ", shown)


def test_the_bar_is_drawn_on_one_line(people: Callable[..., Any], slow: RequestMonitor) -> None:
    people(4)
    shown = shown_on_terminal("--concurrency=1")
    assert shown.count("\r") > 2
    assert shown.count("\n") == 1


@pytest.mark.parametrize("logger", ["", "django_ilert_oauth", "no log"])
def test_a_line_of_the_log_and_the_bar_do_not_run_into_each_other(
    people: Callable[..., list[ConnectedAccount]],
    slow: RequestMonitor,
    monkeypatch: pytest.MonkeyPatch,
    logger: str,
) -> None:
    refused(people(4)[0], slow.standin)
    with (
        Terminal() as terminal,
        os.fdopen(terminal.theirs, "w", closefd=False) as stderr,
        suppress(CommandError),
    ):
        monkeypatch.setattr(sys, "stderr", stderr)
        for name in ("", "django_ilert_oauth"):
            handlers = [logging.StreamHandler()] if name == logger else []
            monkeypatch.setattr(logging.getLogger(name), "handlers", handlers)
        call_command("refresh_ilert_tokens", "--concurrency=1", stdout=StringIO(), stderr=stderr)
    logged, reported = (
        line.strip() for line in re.split("[\r\n]+", terminal.shown) if "not refreshed" in line
    )
    assert re.fullmatch(r"Account \d+ was not refreshed: invalid_grant", logged)
    assert reported == logged


@pytest.mark.parametrize("options", [["--json"], ["--dry-run"]])
def test_a_terminal_shows_no_bar_where_it_would_be_in_the_way(
    people: Callable[..., Any], ilert: StandIn, options: list[str]
) -> None:
    people(2)
    assert shown_on_terminal(*options) == ""


def test_a_dry_run_streams(people: Callable[..., Any], ilert: StandIn) -> None:
    account = people(1)[0]
    copies = [
        ConnectedAccount(user=account.user, username=f"copy-{number}", tenant_id="acme")
        for number in range(300)
    ]
    ConnectedAccount.objects.bulk_create(copies)
    with counting_alive() as counts:
        assert "301 to be refreshed" in Run("--dry-run").out
    assert len(counts) == 301
    assert max(counts) < 100


# Exit codes


def test_success_is_0(people: Callable[..., Any], ilert: StandIn) -> None:
    people(1)
    assert Run().code == 0


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_something_failed_is_1(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, options: list[str]
) -> None:
    refused(people(2)[0], ilert)
    assert Run(*options).code == 1


def test_a_run_of_refusals_is_2_and_names_both_causes(
    people: Callable[..., Any], ilert: StandIn, settings: Any
) -> None:
    people(3)
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    run = Run()
    assert run.code == 2
    for words in ("ILERT_OAUTH_CLIENT_ID", "ILERT_OAUTH_CLIENT_SECRET", "--mark-ended"):
        assert words in run.failure
    assert ConnectedAccount.objects.connected().count() == 3


def drop_connection(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    ilert.add_fault("token", Fault(drop=True), times=None)
    return "tokens are kept"


def refuse_client(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    ilert.add_fault("token", Fault(401, '{"code": "invalid_client"}'), times=None)
    return "Check ILERT_OAUTH_CLIENT_ID"


def break_database(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    def fail(*args: Any) -> Any:
        raise OperationalError("the words")

    monkeypatch.setattr(refresh, "refresh_under", fail)
    return "The database failed"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("stop", "stopped", "failed"),
    [
        (drop_connection, "outage", 10),
        (refuse_client, "invalid_client", 1),
        (break_database, "database", 1),
    ],
)
def test_a_run_that_ends_early_is_2_and_says_why(
    people: Callable[..., Any],
    ilert: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[..., str],
    stopped: str,
    failed: int,
) -> None:
    people(12)
    words = stop(ilert, monkeypatch)
    run = Run("--per-minute=0", "--concurrency=1", "--json")
    told = json.loads(run.out)
    assert (told["stopped"], told["refreshed"], told["failed"]) == (stopped, 0, failed)
    assert (run.err, run.code) == ("", 2)
    assert words in run.failure
    assert "the words" not in run.failure


def test_a_run_that_stopped_early_sends_the_pending_revocations_all_the_same(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn
) -> None:
    flows.disconnect(people(12)[0])
    ilert.add_fault("token", Fault(drop=True), times=None)
    assert Run("--per-minute=0").code == 2
    assert PendingRevocation.objects.count() == 0


# Signals


@pytest.mark.usefixtures("spared")
@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129)])
def test_a_signal_ends_the_command_with_its_own_code_and_no_longer_than_it_runs(
    people: Callable[..., Any], monitor: RequestMonitor, number: int, code: int
) -> None:
    monitor.on_arrival = lambda count: strike(number)
    people(3)
    run = Run("--per-minute=0", "--concurrency=1")
    assert (run.counts, run.code) == ((1, 0, 0, 0, 0), code)
    assert signal.getsignal(number) is ignore


@pytest.mark.usefixtures("spared")
def test_a_signal_that_is_ignored_stays_so(
    people: Callable[..., Any], monitor: RequestMonitor
) -> None:
    """As under nohup."""
    signal.signal(SIGHUP, signal.SIG_IGN)
    monitor.on_arrival = lambda count: strike(SIGHUP)
    people(2)
    run = Run("--per-minute=0", "--concurrency=1")
    assert (run.counts[0], run.code) == (2, 0)
    assert signal.getsignal(SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("spared")
def test_a_signal_leaves_pending_revocations_to_the_next_run(
    people: Callable[..., list[ConnectedAccount]], monitor: RequestMonitor
) -> None:
    for account in people(4):
        flows.disconnect(account)
    monitor.on_arrival = lambda count: strike(SIGTERM)
    run = Run()
    assert run.code == 143
    assert len(monitor.arrivals) == 1
    assert PendingRevocation.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_the_command_runs_outside_the_main_thread(
    people: Callable[..., Any], ilert: StandIn
) -> None:
    def work() -> None:
        try:
            runs.append(Run())
        finally:
            connections.close_all()

    runs: list[Run] = []
    people(2)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [run.counts for run in runs] == [(2, 0, 0, 0, 0)]


# Processes


class Process:
    """The command in a process of its own, on the database of the tests."""

    def __init__(self, folder: Path, *options: str, stderr: int = subprocess.PIPE) -> None:
        command = [sys.executable, "-W", "error", "-m", "django", "refresh_ilert_tokens", *options]
        path = os.pathsep.join([str(folder), str(REPOSITORY), str(REPOSITORY / "example_project")])
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "process_settings"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Its exit code, output and errors."""
        try:
            out, err = self._process.communicate(timeout=60)
        finally:
            self._process.kill()
            self._process.wait()
        return self._process.returncode, out, err


@pytest.fixture
def start(ilert: StandIn, settings: Any, tmp_path: Path) -> Callable[..., Process]:
    lines = [
        "from tests.settings import *",
        f"DATABASES['default']['NAME'] = {str(connection.settings_dict['NAME'])!r}",
        f"ILERT_OAUTH_API_URL = {settings.ILERT_OAUTH_API_URL!r}",
        "ILERT_OAUTH_TIMEOUT = (2, 10)",
        "if 'folder' in globals(): folder.cleanup()",
    ]
    (tmp_path / "process_settings.py").write_text("\n".join(lines) + "\n")
    settings.ILERT_OAUTH_TIMEOUT = (2, 10)
    ilert.options.requests_per_minute = 0
    return partial(Process, tmp_path, "--per-minute=0")


def wait_for_requests(ilert: StandIn, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(ilert.token_requests) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refreshed_accounts() -> int:
    return ConnectedAccount.objects.exclude(refreshed_at=None).count()


def held_leases() -> int:
    return ConnectedAccount.objects.exclude(lease_id="").count()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_a_process_that_is_told_to_end_writes_what_is_under_way_and_says_so(
    people: Callable[..., Any],
    ilert: StandIn,
    start: Callable[..., Process],
    number: int,
    code: int,
) -> None:
    people(40)
    ilert.options.latency = 0.5
    ilert.options.rotate = True
    process = start("--concurrency=2")
    wait_for_requests(ilert, 3)
    process.send(number)
    returned, out, err = process.end()
    count = len(ilert.token_requests)
    assert returned == code, err
    assert out.startswith(f"{count} refreshed, 0 failed, 0 skipped, 0 grants revoked, ")
    assert err == "CommandError: Stopped by a signal.\n"
    assert refreshed_accounts() == count < 40
    assert held_leases() == 0
    live = ConnectedAccount.objects.values_list("username", flat=True)
    assert {ilert.live_refresh_tokens("acme", name) for name in live} == {1}
    ilert.options.latency = 0
    assert Run("--per-minute=0").counts[:2] == (40 - count, 0)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_is_killed_loses_at_most_the_requests_under_way(
    people: Callable[..., Any], ilert: StandIn, start: Callable[..., Process]
) -> None:
    people(8)
    ilert.options.latency = 0.3
    process = start("--concurrency=2")
    wait_for_requests(ilert, 5)
    process.send(SIGKILL)
    process.end()
    begun, kept = len(ilert.token_requests), refreshed_accounts()
    left_to_lapse = ConnectedAccount.objects.exclude(lease_id="")
    under_way = left_to_lapse.count()
    assert kept + under_way in (begun, begun + 1, begun + 2)
    assert under_way <= 2
    seconds = [left / 1000 for left in left_to_lapse.values_list(lease_left(), flat=True)]
    assert max(seconds, default=0) <= LEASE_MS / 1000
    ilert.options.latency = 0
    assert Run("--per-minute=0").counts[:3] == (8 - kept - under_way, 0, under_way)
    left_to_lapse.update(lease_ends_ms=DatabaseTime())
    run = Run("--per-minute=0")
    assert (run.counts[:3], run.code) == ((under_way, 0, 0), 0)
    assert refreshed_accounts() == 8


def lease_left() -> Any:
    return F("lease_ends_ms") - DatabaseTime()


@pytest.mark.django_db(transaction=True)
def test_processes_side_by_side_refresh_each_account_once(
    people: Callable[..., Any], ilert: StandIn, start: Callable[..., Process]
) -> None:
    people(60)
    ilert.options.latency = 0.02
    ilert.options.rotate = True
    ends = [process.end() for process in [start("--json") for _ in range(3)]]
    told = [json.loads(out) for _, out, _ in ends]
    assert [(code, err) for code, _, err in ends] == [(0, "")] * 3
    assert sum(one["refreshed"] for one in told) == refreshed_accounts() == 60
    asked = Counter(made.form["refresh_token"] for made in ilert.token_requests)
    assert (len(asked), set(asked.values())) == (60, {1})


@pytest.mark.django_db(transaction=True)
def test_a_process_that_fails_prints_no_traceback_and_no_secret(
    people: Callable[..., list[ConnectedAccount]], ilert: StandIn, start: Callable[..., Process]
) -> None:
    accounts = people(3)
    refused(accounts[0], ilert)
    unreadable(accounts[1], ilert)
    code, out, err = start("--json").end()
    assert code == 1
    assert json.loads(out)["failed"] == 2
    assert "Traceback" not in err
    secrets = [text for account in accounts[::2] for text in secrets_of(account)]
    assert [text for text in [*secrets, "the-client-secret"] if text in out + err] == []


@pytest.mark.django_db(transaction=True)
def test_a_process_on_a_terminal_draws_a_plain_bar_on_one_line(
    people: Callable[..., Any], ilert: StandIn, start: Callable[..., Process]
) -> None:
    people(3)
    with Terminal() as terminal:
        code, out, _ = start(stderr=terminal.theirs).end()
    assert (code, out.count("\n")) == (0, 1)
    assert "3/3" in terminal.shown
    assert "\x1b[" not in terminal.shown
    assert terminal.shown.count("\n") == 1
