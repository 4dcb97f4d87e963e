from __future__ import annotations

import json
import re
import signal
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from signal import SIGINT, SIGTERM
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from tqdm import tqdm

from django_ilert_oauth import flows
from django_ilert_oauth.flows.base import account_rows
from django_ilert_oauth.models import ConnectedAccountQuerySet, Status

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

STOPPED = {
    "credentials": (
        "ilert refused each of the first ten grants, so nothing was marked. Check "
        "ILERT_OAUTH_CLIENT_ID and ILERT_OAUTH_CLIENT_SECRET."
    ),
    "outage": "ilert cannot be reached; all tokens are kept. Run again later.",
    "interrupted": "Stopped.",
}


def whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def positive(text: str) -> int:
    if number := whole(text):
        return number
    raise ArgumentTypeError("it must be above 0")


def duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``2h`` or ``1d``."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no duration: write it as 90s, 15m, 2h or 1d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


class Terminal:
    """The command's error stream without line ends and colours of its own."""

    def __init__(self, stream: OutputWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text, style_func=str, ending="")

    def flush(self) -> None:
        self._stream.flush()


class Command(BaseCommand):
    help = "Renews the ilert tokens that are about to expire, and ends grants left to be ended."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--within",
            type=duration,
            default=timedelta(minutes=15),
            help="renew what expires within this time: 90s, 15m, 2h, 1d (default: 15m)",
        )
        parser.add_argument(
            "--concurrency", type=positive, default=4, help="requests at the same time (default: 4)"
        )
        parser.add_argument(
            "--per-minute",
            type=whole,
            help="requests a minute, 0 for no limit (default: ILERT_OAUTH_REQUESTS_PER_MINUTE)",
        )
        parser.add_argument("--limit", type=positive, help="renew this many accounts at the most")
        parser.add_argument(
            "--account",
            action="append",
            type=int,
            metavar="PK",
            help="renew this connected account, expiring or not; may be given more than once",
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="also those renewed less than ILERT_OAUTH_MIN_REFRESH_INTERVAL ago",
        )
        parser.add_argument(
            "--retry-reconnect-required",
            action="store_true",
            help="ask again for grants that ilert refused, once a wrong client secret is right",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="list what would be renewed; make no request"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object and no bar")

    def handle(self, *args: Any, **options: Any) -> None:
        due = self._due(options)
        if options["dry_run"]:
            return self._list(due, options["limit"])
        with stopped_by_signals() as (stop, received), self._bar(due, options) as on_progress:
            result = flows.refresh_many(
                due,
                concurrency=options["concurrency"],
                per_minute=options["per_minute"],
                force=options["force"],
                retry_reconnect_required=options["retry_reconnect_required"],
                limit=options["limit"],
                on_progress=on_progress,
                stop=stop,
            )
            revocations = (
                None
                if result.stopped
                else flows.revoke_pending(per_minute=options["per_minute"], stop=stop)
            )
        self._report(result, revocations, as_json=options["json"])
        self._exit(result, revocations, received)

    def _due(self, options: dict[str, Any]) -> ConnectedAccountQuerySet:
        rows = account_rows()
        if options["account"]:
            rows = rows.filter(pk__in=options["account"])
            if unknown := set(options["account"]).difference(rows.values_list("pk", flat=True)):
                raise CommandError(f"There is no connected account {min(unknown)}.")
        if options["retry_reconnect_required"]:
            return rows.filter(status=Status.RECONNECT_REQUIRED)
        return rows if options["account"] else rows.expiring(within=options["within"])

    def _list(self, due: ConnectedAccountQuerySet, limit: int | None) -> None:
        count = 0
        for account in due.order_by("pk")[:limit].iterator(chunk_size=200):
            self.stdout.write(f"{account.pk}  {account}")
            count += 1
        self.stdout.write(f"{count} to be renewed; nothing was done.")

    @contextmanager
    def _bar(
        self, due: ConnectedAccountQuerySet, options: dict[str, Any]
    ) -> Iterator[Callable[[flows.BulkResult], None] | None]:
        if options["json"] or not self.stderr.isatty():
            yield None
            return
        with tqdm(
            total=due[: options["limit"]].count(), unit="account", file=Terminal(self.stderr)
        ) as bar:

            def show(result: flows.BulkResult) -> None:
                bar.set_postfix(failed=result.failed, refresh=False)
                bar.update(result.done - bar.n)

            yield show

    def _report(
        self,
        result: flows.BulkResult,
        revocations: flows.RevocationResult | None,
        *,
        as_json: bool,
    ) -> None:
        if as_json:
            self.stdout.write(json.dumps(_as_dict(result, revocations)))
            return
        for pk, code in result.failures.items():
            self.stderr.write(f"Account {pk} was not renewed: {code}")
        line = f"{result.refreshed} renewed, {result.failed} failed, {result.skipped} skipped"
        if revocations is not None:
            line += f"; {revocations.revoked} grants ended, {revocations.left} left to be ended"
        self.stdout.write(f"{line}.")

    def _exit(
        self,
        result: flows.BulkResult,
        revocations: flows.RevocationResult | None,
        received: list[int],
    ) -> None:
        if received:
            raise CommandError("Stopped by a signal.", returncode=128 + received[0])
        if result.stopped:
            raise CommandError(STOPPED[result.stopped], returncode=2)
        if result.failed or (revocations is not None and revocations.left):
            raise CommandError("Not everything was done.")


@contextmanager
def stopped_by_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that SIGINT and SIGTERM set, and which of them came."""
    stop, received = threading.Event(), []

    def receive(number: int, frame: object) -> None:
        received.append(number)
        # In a thread: the handler may have interrupted the event inside of its own lock.
        threading.Thread(target=stop.set).start()

    if threading.current_thread() is not threading.main_thread():
        yield stop, received
        return
    before = {number: signal.signal(number, receive) for number in (SIGINT, SIGTERM)}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_dict(
    result: flows.BulkResult, revocations: flows.RevocationResult | None
) -> dict[str, Any]:
    return {
        "refreshed": result.refreshed,
        "failed": result.failed,
        "skipped": result.skipped,
        "failures": {str(pk): code for pk, code in result.failures.items()},
        "stopped": result.stopped,
        "seconds": round(result.seconds, 3),
        "revoked": revocations.revoked if revocations else 0,
        "revocations_left": revocations.left if revocations else None,
    }
