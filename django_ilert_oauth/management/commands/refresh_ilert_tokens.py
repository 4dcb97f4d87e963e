from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_ilert_oauth import flows
from django_ilert_oauth.flows.base import account_rows
from django_ilert_oauth.models import ConnectedAccountQuerySet, Status

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``2h`` or ``1d``."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is no duration: write it as 90s, 15m, 2h or 1d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


class Command(BaseCommand):
    help = "Renews the ilert tokens that are about to expire, and ends grants left to be ended."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--within",
            type=duration,
            default=timedelta(minutes=15),
            help="renew what expires within this time: 90s, 15m, 2h, 1d (default: 15m)",
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

    def handle(self, *args: Any, **options: Any) -> None:
        due = self._due(options)
        if options["dry_run"]:
            return self._list(due, options["limit"])
        result = flows.refresh_many(
            due,
            force=options["force"],
            retry_reconnect_required=options["retry_reconnect_required"],
            limit=options["limit"],
        )
        self._report(result, flows.revoke_pending())

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
        accounts = due.order_by("pk")[:limit]
        for account in accounts:
            self.stdout.write(f"{account.pk}  {account}")
        self.stdout.write(f"{len(accounts)} to be renewed; nothing was done.")

    def _report(self, result: flows.BulkResult, revocations: flows.RevocationResult) -> None:
        for pk, code in result.failures.items():
            self.stderr.write(f"Account {pk} was not renewed: {code}")
        self.stdout.write(
            f"{result.refreshed} renewed, {result.failed} failed, {result.skipped} skipped; "
            f"{revocations.revoked} grants ended, {revocations.left} left to be ended."
        )
        if result.failed or revocations.left:
            raise CommandError("Not everything was done.")
