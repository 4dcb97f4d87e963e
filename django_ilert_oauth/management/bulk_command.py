"""What commands over many accounts share: options, a bar, signals and the exit status."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError, CommandParser
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from django_ilert_oauth.error_messages import STOPPED
from django_ilert_oauth.flows._bulk.run_result import RunResult
from django_ilert_oauth.internal.rows import account_rows
from django_ilert_oauth.models import ConnectedAccountQuerySet

from .console import QuietCommand, printable

#: Those that end a run in order; not every platform has them all.
SIGNALS = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if name in signal.Signals.__members__
]


def integer(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not an integer of at least 0")
    return int(text)


def positive(text: str) -> int:
    if number := integer(text):
        return number
    raise ArgumentTypeError("it must be above 0")


def in_words(counts: Mapping[str, int]) -> str:
    """``3 refreshed, 0 failed``: the keys of the JSON are the words of the text."""
    return ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in counts.items())


def _console_loggers() -> list[logging.Logger]:
    """Those that write the app's lines to the console, as Python does where no log is set up."""
    loggers = [logging.getLogger(name) for name in ("", "django_ilert_oauth")]
    if not any(logger.handlers for logger in loggers):
        return loggers[:1]
    return [logger for logger in loggers if any(map(_writes_to_console, logger.handlers))]


def _writes_to_console(handler: logging.Handler) -> bool:
    return getattr(handler, "stream", None) in (sys.stdout, sys.stderr)


class AccountsCommand(QuietCommand):
    #: What the command does to accounts, for its messages.
    action = ""
    participle = ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--per-minute",
            type=integer,
            help="requests a minute, 0 for no limit (default: ILERT_OAUTH_REQUESTS_PER_MINUTE)",
        )
        parser.add_argument(
            "--account",
            action="append",
            type=int,
            metavar="PK",
            help=f"{self.action} only the account with this primary key; may be repeated",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help=f"list accounts that would be {self.participle}, and make no request",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object, no text")

    def chosen(self, pks: list[int] | None) -> ConnectedAccountQuerySet:
        """Those named, all if none is."""
        rows = account_rows()
        if pks:
            rows = rows.filter(pk__in=pks)
            if unknown := set(pks).difference(rows.values_list("pk", flat=True)):
                raise CommandError(f"There is no account {min(unknown)}.")
        return rows

    def show(self, due: ConnectedAccountQuerySet, options: Mapping[str, Any]) -> None:
        accounts = due.order_by("pk")[: options.get("limit")].iterator(chunk_size=200)
        names = {account.pk: str(account) for account in accounts}
        counts = {f"to_be_{self.participle}": len(names)}
        if options["json"]:
            self.stdout.write(json.dumps({**counts, "accounts": names}))
            return
        for pk, name in names.items():
            self.stdout.write(f"{pk}  {printable(name, self.stdout)}")
        self.stdout.write(f"{in_words(counts)}; nothing was done.")


class Bar(tqdm):  # type: ignore[type-arg]
    """Locked between threads: the lock of tqdm itself has Python 3.14 start a process."""


Bar.set_lock(threading.RLock())


class BulkCommand(AccountsCommand):
    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--concurrency", type=positive, default=4, help="requests at the same time (default: 4)"
        )
        parser.add_argument(
            "--limit", type=positive, help=f"{self.action} at most this many accounts"
        )
        parser.add_argument(
            "--mark-ended",
            action="store_true",
            help="mark an account at every invalid_grant, even if none could be refreshed: these "
            "users then have to reconnect",
        )

    @contextmanager
    def bar(
        self, due: ConnectedAccountQuerySet, options: dict[str, Any]
    ) -> Iterator[Callable[[RunResult], None] | None]:
        """Log lines are written above it."""
        if options["json"] or not self.stderr.isatty():
            yield None
            return
        total = due[: options["limit"]].count()
        # tqdm tells by the stream itself which lines are in the way of the bar.
        stream = options.get("stderr") or sys.stderr
        with (
            Bar(total=total, unit="account", file=stream) as bar,
            logging_redirect_tqdm(_console_loggers(), tqdm_class=Bar),
        ):

            def draw(result: RunResult) -> None:
                bar.set_postfix(failed=result.failed, refresh=False)
                bar.update(result.done - bar.n)

            yield draw

    def report(
        self,
        result: RunResult,
        counts: Mapping[str, int],
        details: Mapping[str, Any],
        *,
        as_json: bool,
    ) -> None:
        """The counts by their words; ``details`` are for JSON alone."""
        if as_json:
            common = {"failures": result.failures, "stopped": result.stopped}
            seconds = {"seconds": round(result.seconds, 3)}
            self.stdout.write(json.dumps({**counts, **details, **common, **seconds}))
            return
        for pk, code in result.failures.items():
            self.stderr.write(f"Account {pk} was not {self.participle}: {code}")
        self.stdout.write(f"{in_words(counts)}.")

    def exit(self, result: RunResult, received: list[int], *, has_failures: bool) -> None:
        if received:
            raise CommandError("Stopped by a signal.", returncode=128 + received[0])
        if result.stopped:
            raise CommandError(str(STOPPED[result.stopped]), returncode=2)
        if has_failures:
            raise CommandError("Some accounts or revocations failed: see their codes above.")


@contextmanager
def stopped_by_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that ``SIGNALS`` set, and those that came. An ignored signal stays ignored."""
    stop, received = threading.Event(), []

    def receive(number: int, frame: object) -> None:
        received.append(number)
        # In a thread: the handler may have interrupted the event inside of its own lock.
        threading.Thread(target=stop.set).start()

    if threading.current_thread() is not threading.main_thread():
        yield stop, received
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in heeded}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
