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
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
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
from tests.conftest import AccountFactory, People
from tests.support.command_run import CommandRun
from tests.support.live_accounts import counting_alive
from tests.support.other_callers import LEASE_MS
from tests.support.own_signals import ignore, strike
from tests.support.request_monitor import RequestMonitor
from tests.support.statements import failing_statements

REPOSITORY = Path(__file__).parent.parent


class Run(CommandRun):
    def __init__(self, *options: str) -> None:
        super().__init__("refresh_ilert_tokens", *options)

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
def people(people: People) -> People:
    """So many accounts that are due."""
    return partial(people, **due_in(minutes=5))


def test_what_is_due_is_refreshed_and_away_from_a_terminal_one_line_says_so(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    due = make_account(**due_in(minutes=14))
    later = make_account(username="ada", **due_in(minutes=16))
    run, again = Run(), Run()
    assert (run.counts, run.failure, run.code) == ((1, 0, 0, 0, 0), "", 0)
    assert (run.out.count("\n"), run.err) == (1, "")
    assert (refreshed(due), refreshed(later), len(ilert.token_requests)) == (True, False, 1)
    assert (again.counts, again.failure, again.err) == ((0, 0, 0, 0, 0), "", "")


def test_within_names_the_time_ahead(make_account: AccountFactory) -> None:
    make_account(**due_in(minutes=30))
    assert [Run("--within", within).counts[0] for within in ("29m", "31m")] == [0, 1]


def test_a_duration_is_a_number_and_a_unit() -> None:
    assert [duration(text) for text in ("90s", "15m", "2h", "1d", "0s")] == [
        timedelta(seconds=90),
        timedelta(minutes=15),
        timedelta(hours=2),
        timedelta(days=1),
        timedelta(0),
    ]


@pytest.mark.parametrize("text", ["15", "m", "-5m", "1w", "15M", "\u0665m", "9999999s", "5m\n"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        duration(text)


def test_a_bad_option_is_named_and_nothing_is_refreshed(people: People, ilert: StandIn) -> None:
    people(1)
    bad = ["--within=soon", "--account=grace", "--nonsense", "--limit=-1", "--limit=many"]
    bad += ["--concurrency=0", "--concurrency=many", "--per-minute=-1", "--per-minute=1.5"]
    unnamed = [option for option in bad if option.partition("=")[0] not in Run(option).failure]
    assert (unnamed, ilert.requests) == ([], [])


def test_a_long_time_ahead_is_fine(people: People) -> None:
    people(1)
    assert Run("--within=999999d").counts[0] == 1


def test_a_limit_is_kept(people: People, ilert: StandIn) -> None:
    people(3)
    assert Run("--limit", "2").counts == (2, 0, 0, 0, 0)
    assert len(ilert.token_requests) == 2
    assert Run().counts == (1, 0, 0, 0, 0)


def test_accounts_may_be_named_due_or_not(people: People) -> None:
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


def test_a_dry_run_lists_what_is_due_and_makes_no_request(people: People, ilert: StandIn) -> None:
    *accounts, ended = people(3)
    flows.disconnect(ended)
    run = Run("--dry-run")
    lines = [f"{account.pk}  {account}" for account in accounts]
    assert run.out.splitlines() == [*lines, "2 to be refreshed; nothing was done."]
    assert run.failure == ""
    assert not any(refreshed(account) for account in accounts)
    assert ilert.requests == []
    assert PendingRevocation.objects.count() == 1


def test_names_are_listed_with_escapes_for_what_harms_a_terminal_or_the_console_cannot_show(
    make_account: AccountFactory,
) -> None:
    make_account(username="gr\x1b[2Jä\n\u202e✓", **due_in(minutes=5))
    shown = BytesIO()
    console = TextIOWrapper(shown, "latin-1", write_through=True)
    call_command("refresh_ilert_tokens", "--dry-run", stdout=console)
    assert "  gr\\x1b[2Jä\\n\\u202e\\u2713 @ acme\n" in shown.getvalue().decode("latin-1")


def unreadable(account: ConnectedAccount, ilert: StandIn) -> str:
    account.refresh_token_ciphertext = "broken"
    account.save()
    return "token_unreadable"


def refused(account: ConnectedAccount, ilert: StandIn) -> str:
    ilert.revoke_app("acme", account.username)
    return "invalid_grant"


def test_bad_rows_are_named_and_stop_none_of_the_others(people: People, ilert: StandIn) -> None:
    lost, gone, *good = people(4)
    codes = {lost: unreadable(lost, ilert), gone: refused(gone, ilert)}
    run = Run()
    assert (run.counts, run.code) == ((2, 2, 0, 0, 0), 1)
    assert sorted(run.err.splitlines()) == [
        f"Account {account.pk} was not refreshed: {code}" for account, code in codes.items()
    ]
    assert run.failure != ""
    assert all(refreshed(account) for account in good)
    assert not any(refreshed(account) for account in codes)


def test_a_wrong_client_secret_can_be_undone(people: People, settings: Any) -> None:
    accounts = people(2)
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    assert Run("--mark-ended").counts == (0, 2, 0, 0, 0)
    settings.ILERT_OAUTH_CLIENT_SECRET = "the-client-secret"
    run = Run("--retry-reconnect-required")
    assert (run.counts, run.failure) == ((2, 0, 0, 0, 0), "")
    assert all(refreshed(account) for account in accounts)
    assert {account.status for account in accounts} == {Status.CONNECTED}


def test_revocations_are_sent_and_one_that_fails_is_a_failure_of_this_run_only(
    people: People, ilert: StandIn
) -> None:
    for account in people(2):
        flows.disconnect(account)
    ilert.add_fault("revoke", Fault(503))
    run = Run()
    assert (run.counts, run.code) == ((0, 0, 0, 1, 1), 1)
    assert run.err == f"Revocation {PendingRevocation.objects.get().pk} failed: server_error\n"
    again = Run()
    assert (again.counts, again.code) == ((0, 0, 0, 0, 1), 0)


def test_a_revocation_that_is_given_up_is_said_once(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    unreadable(account, ilert)
    flows.disconnect(account)
    for count, code in ((1, 1), (0, 0)):
        run = Run()
        assert (run.out.endswith(f", {count} revocations given up.\n"), run.code) == (True, code)


def test_json_has_the_revocations(people: People, ilert: StandIn) -> None:
    accounts = people(4, **due_in(hours=1))
    unreadable(accounts[0], ilert)
    for account in accounts:
        flows.disconnect(account)
    ilert.add_fault("revoke", Fault(401, '{"code": "invalid_client"}'))
    lost, bad, *_good = PendingRevocation.objects.order_by("pk")
    run = Run("--json")
    told = json.loads(run.out)
    names = ("grants_revoked", "revocations_pending", "revocations_given_up", "revocation_failures")
    assert {name: told[name] for name in names} == {
        "grants_revoked": 2,
        "revocations_pending": 1,
        "revocations_given_up": 1,
        "revocation_failures": {str(lost.pk): "token_unreadable", str(bad.pk): "invalid_client"},
    }
    assert (run.out.count("\n"), run.err, run.code) == (1, "", 1)


# Speed


@pytest.mark.django_db(transaction=True)
def test_concurrency_is_how_many_requests_are_under_way_and_per_minute_0_is_no_limit(
    people: People, monitor: RequestMonitor, settings: Any
) -> None:
    together = threading.Barrier(3, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    people(6)
    assert Run("--concurrency=3", "--per-minute=0").counts[0] == 6
    assert monitor.max_concurrent == 3


def test_per_minute_is_the_rate_limit(people: People, monitor: RequestMonitor) -> None:
    people(2)
    Run("--per-minute=120")
    assert monitor.arrivals[1] - monitor.arrivals[0] > 0.2


# Output


def test_json_is_one_object_with_counts_and_what_failed(people: People, ilert: StandIn) -> None:
    bad, early, *_good = people(4)
    ConnectedAccount.objects.filter(pk=early.pk).update(refreshed_at=timezone.now())
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


def test_json_of_a_dry_run_names_the_accounts(people: People, ilert: StandIn) -> None:
    account, _other = people(2)
    told = json.loads(Run("--dry-run", "--json", "--limit=1").out)
    assert told == {"to_be_refreshed": 1, "accounts": {str(account.pk): "user-0 @ acme"}}
    assert ilert.requests == []


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
        self._reader.join(20)
        assert not self._reader.is_alive(), "another process has the terminal open"
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
        redirect_stderr(stderr),
        suppress(CommandError),
    ):
        call_command("refresh_ilert_tokens", *options, stdout=StringIO(), stderr=stderr)
    return terminal.shown


@pytest.fixture
def slow(monitor: RequestMonitor) -> RequestMonitor:
    """tqdm draws ten times a second."""
    monitor.on_arrival = lambda count: time.sleep(0.12)
    return monitor


def test_a_terminal_shows_a_bar_on_one_line_with_done_failed_rate_and_time_left(
    people: People, slow: RequestMonitor
) -> None:
    refused(people(4)[0], slow.standin)
    bar, _failure, _end = shown_on_terminal("--concurrency=1").split("\n")
    rate = r"[\d.]+(account/s|s/account)"
    assert re.search(rf"50%.* 2/4 \[00:0\d<00:0\d, +{rate}, failed=1\]", bar), bar
    assert re.search(r"100%.* 4/4 ", bar)


@pytest.mark.parametrize("logger", ["", "django_ilert_oauth", "no log"])
def test_a_line_of_the_log_and_the_bar_do_not_run_into_each_other(
    people: People, slow: RequestMonitor, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    refused(people(3)[0], slow.standin)
    for name in ("", "django_ilert_oauth"):
        handlers = [logging.lastResort] if name == logger else []
        monkeypatch.setattr(logging.getLogger(name), "handlers", handlers)
    lines = re.split("[\r\n]+", shown_on_terminal("--concurrency=1"))
    logged, reported = (line.strip() for line in lines if "not refreshed" in line)
    assert re.fullmatch(r"Account \d+ was not refreshed: invalid_grant", logged)
    assert reported == logged


def test_a_terminal_shows_no_bar_where_it_would_be_in_the_way(people: People) -> None:
    people(2)
    assert shown_on_terminal("--json") == shown_on_terminal("--dry-run") == ""


def test_a_dry_run_streams(people: People) -> None:
    account = people(1)[0]
    same = {"user": account.user, "access_token_expires_at": account.access_token_expires_at}
    copies = [
        ConnectedAccount(username=f"copy-{number}", tenant_id="acme", **same)
        for number in range(300)
    ]
    ConnectedAccount.objects.bulk_create(copies)
    with counting_alive() as counts:
        assert "301 to be refreshed" in Run("--dry-run").out
    assert len(counts) == 301
    assert max(counts) < 100


# Exit codes


def drop_connection(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    ilert.add_fault("token", Fault(drop=True), times=None)
    return "tokens are kept"


def refuse_grants(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    ilert.add_fault("token", Fault(401, '{"code": "invalid_grant"}'), times=None)
    return "--mark-ended"


def break_database(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> str:
    def fail(*args: Any) -> Any:
        raise OperationalError("the words")

    monkeypatch.setattr(refresh, "refresh_with_lease", fail)
    return "The database failed"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("stop", "stopped", "failed"),
    [
        (drop_connection, "outage", 10),
        (refuse_grants, "credentials", 12),
        (break_database, "database", 1),
    ],
)
def test_a_run_that_ends_early_is_2_and_says_why(
    people: People,
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
    assert ConnectedAccount.objects.connected().count() == 12


def test_a_run_that_stopped_early_sends_the_pending_revocations_all_the_same(
    people: People, ilert: StandIn
) -> None:
    flows.disconnect(people(12)[0])
    ilert.add_fault("token", Fault(drop=True), times=None)
    assert Run("--per-minute=0").code == 2
    assert PendingRevocation.objects.count() == 0


def test_a_database_that_fails_when_revocations_are_sent_costs_no_summary(people: People) -> None:
    people(2)
    with failing_statements("SELECT", "pendingrevocation", error=OperationalError):
        run = Run("--json")
    told = json.loads(run.out)
    assert (told["refreshed"], told["stopped"], run.code) == (2, "database", 2)
    assert "The database failed" in run.failure


# Signals


@pytest.mark.usefixtures("spared")
def test_a_signal_ends_the_command_with_its_own_code_and_no_longer_than_it_runs(
    people: People, monitor: RequestMonitor
) -> None:
    people(4)
    for number, code in {SIGINT: 130, SIGTERM: 143, SIGHUP: 129}.items():

        def strike_itself(_count: int, number: int = number) -> None:
            strike(number)

        monitor.on_arrival = strike_itself
        run = Run("--per-minute=0", "--concurrency=1")
        assert (run.counts, run.code) == ((1, 0, 0, 0, 0), code)
        assert signal.getsignal(number) is ignore


@pytest.mark.usefixtures("spared")
def test_a_signal_that_is_ignored_stays_so(people: People, monitor: RequestMonitor) -> None:
    """As under nohup."""
    signal.signal(SIGHUP, signal.SIG_IGN)
    monitor.on_arrival = lambda count: strike(SIGHUP)
    people(2)
    run = Run("--per-minute=0", "--concurrency=1")
    assert (run.counts[0], run.code) == (2, 0)
    assert signal.getsignal(SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("spared")
def test_a_signal_leaves_pending_revocations_to_the_next_run(
    people: People, monitor: RequestMonitor
) -> None:
    for account in people(4):
        flows.disconnect(account)
    monitor.on_arrival = lambda count: strike(SIGTERM)
    run = Run()
    assert run.code == 143
    assert len(monitor.arrivals) == 1
    assert PendingRevocation.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_the_command_runs_outside_the_main_thread(people: People) -> None:
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


@pytest.mark.django_db(transaction=True)
def test_a_process_that_is_told_to_end_writes_what_is_under_way_and_says_so(
    people: People, ilert: StandIn, start: Callable[..., Process]
) -> None:
    accounts = people(12)
    ilert.options.latency = 0.3
    ilert.options.rotate = True
    process = start("--concurrency=2")
    wait_for_requests(ilert, 3)
    process.send(SIGTERM)
    code, out, err = process.end()
    count = len(ilert.token_requests)
    assert code == 143, err
    assert out.startswith(f"{count} refreshed, 0 failed, 0 skipped, 0 grants revoked, ")
    assert err == "CommandError: Stopped by a signal.\n"
    assert refreshed_accounts() == count < 12
    assert not ConnectedAccount.objects.exclude(lease_id="").exists()
    assert {ilert.live_refresh_tokens("acme", account.username) for account in accounts} == {1}
    ilert.options.latency = 0
    assert Run("--per-minute=0").counts[:2] == (12 - count, 0)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_is_killed_loses_at_most_the_requests_under_way(
    people: People, ilert: StandIn, start: Callable[..., Process]
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
    left = left_to_lapse.values_list(F("lease_ends_ms") - DatabaseTime(), flat=True)
    assert max(left, default=0) <= LEASE_MS
    ilert.options.latency = 0
    assert Run("--per-minute=0").counts[:3] == (8 - kept - under_way, 0, under_way)
    left_to_lapse.update(lease_ends_ms=DatabaseTime())
    run = Run("--per-minute=0")
    assert (run.counts[:3], run.code) == ((under_way, 0, 0), 0)
    assert refreshed_accounts() == 8


@pytest.mark.django_db(transaction=True)
def test_a_process_that_fails_draws_a_plain_bar_and_shows_no_traceback_and_no_secret(
    people: People, ilert: StandIn, start: Callable[..., Process]
) -> None:
    accounts = people(3)
    refused(accounts[0], ilert)
    unreadable(accounts[1], ilert)
    with Terminal() as terminal:
        code, out, _ = start(stderr=terminal.theirs).end()
    assert (code, out.count("\n"), "100%" in terminal.shown) == (1, 1, True)
    shown = out + terminal.shown
    assert "Traceback" not in shown
    secrets = ["the-client-secret"]
    for account in accounts[::2]:
        secrets += [account.access_token.reveal(), account.access_token_ciphertext]
        secrets += [account.refresh_token.reveal(), account.refresh_token_ciphertext]
    assert [secret for secret in secrets if secret in shown] == []
