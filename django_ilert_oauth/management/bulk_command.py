"""What commands over many accounts share: options, a bar, signals and the exit status."""

from __future__ import annotations

import json
import signal
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from tqdm import tqdm

from django_ilert_oauth.flows._bulk.runner import RunResult
from django_ilert_oauth.internal.error_messages import STOPPED
from django_ilert_oauth.internal.rows import account_rows
from django_ilert_oauth.models import ConnectedAccountQuerySet

from .console import printable

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


class Terminal:
    """The command's error stream, without the line ends and colours that it adds."""

    def __init__(self, stream: OutputWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text, style_func=str, ending="")

    def flush(self) -> None:
        self._stream.flush()


class BulkCommand(BaseCommand):
    #: What the command does to accounts, for its messages.
    action = ""
    participle = ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--concurrency", type=positive, default=4, help="requests at the same time (default: 4)"
        )
        parser.add_argument(
            "--per-minute",
            type=integer,
            help="requests a minute, 0 for no limit (default: ILERT_OAUTH_REQUESTS_PER_MINUTE)",
        )
        parser.add_argument(
            "--limit", type=positive, help=f"{self.action} this many accounts at most"
        )
        parser.add_argument(
            "--account",
            action="append",
            type=int,
            metavar="PK",
            help=f"{self.action} only this connected account; may be given more than once",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help=f"list what would be {self.participle}; make no request",
        )
        parser.add_argument(
            "--mark-ended",
            action="store_true",
            help="believe every invalid_grant even if no account could be refreshed: these users "
            "then have to reconnect",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object and no bar")

    def chosen(self, pks: list[int] | None) -> ConnectedAccountQuerySet:
        """Those named, all if none is."""
        rows = account_rows()
        if pks:
            rows = rows.filter(pk__in=pks)
            if unknown := set(pks).difference(rows.values_list("pk", flat=True)):
                raise CommandError(f"There is no connected account {min(unknown)}.")
        return rows

    def show(self, due: ConnectedAccountQuerySet, limit: int | None) -> None:
        count = 0
        for account in due.order_by("pk")[:limit].iterator(chunk_size=200):
            self.stdout.write(f"{account.pk}  {printable(str(account), self.stdout)}")
            count += 1
        self.stdout.write(f"{count} to be {self.participle}; nothing was done.")

    @contextmanager
    def bar(
        self, due: ConnectedAccountQuerySet, options: dict[str, Any]
    ) -> Iterator[Callable[[RunResult], None] | None]:
        if options["json"] or not self.stderr.isatty():
            yield None
            return
        with tqdm(
            total=due[: options["limit"]].count(), unit="account", file=Terminal(self.stderr)
        ) as bar:

            def draw(result: RunResult) -> None:
                bar.set_postfix(failed=result.failed, refresh=False)
                bar.update(result.done - bar.n)

            yield draw

    def report(
        self, result: RunResult, counts: Mapping[str, Any], line: str, *, as_json: bool
    ) -> None:
        if as_json:
            common = {
                "failed": result.failed,
                "failures": result.failures,
                "stopped": result.stopped,
                "seconds": round(result.seconds, 3),
            }
            self.stdout.write(json.dumps({**counts, **common}))
            return
        for pk, code in result.failures.items():
            self.stderr.write(f"Account {pk} was not {self.participle}: {code}")
        self.stdout.write(line)

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
