from __future__ import annotations

import logging
import re
from argparse import ArgumentTypeError
from datetime import timedelta
from threading import Event
from typing import Any

from django.core.management.base import CommandParser

from django_ilert_oauth import flows
from django_ilert_oauth.flows._runs import finish_refreshing
from django_ilert_oauth.flows._storing import DATABASE_ERRORS, from_database
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.management.bulk_command import BulkCommand, stopped_by_signals
from django_ilert_oauth.models import ConnectedAccountQuerySet, LastRun, Status
from django_ilert_oauth.models.queryset import DUE_WITHIN

logger = logging.getLogger(__name__)

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``2h`` or ``1d``."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 2h or 1d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


class Command(BulkCommand):
    help = "Refreshes ilert tokens that expire soon, and sends pending revocations."
    action, participle = "refresh", "refreshed"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--within",
            type=duration,
            default=DUE_WITHIN,
            help="refresh tokens that expire within this time: 90s, 15m, 2h, 1d (default: 15m)",
        )
        super().add_arguments(parser)
        parser.add_argument(
            "--force",
            action="store_true",
            help="include accounts refreshed less than ILERT_OAUTH_MIN_REFRESH_INTERVAL ago",
        )
        parser.add_argument(
            "--retry-reconnect-required",
            action="store_true",
            help="refresh only accounts that need reconnecting, after a wrong client secret",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        due = self._due(options)
        if options["dry_run"]:
            self.show(due, options)
            return
        with stopped_by_signals() as (stop, received), self.bar(due, options) as on_progress:
            result = flows.refresh_many(
                due,
                concurrency=options["concurrency"],
                per_minute=options["per_minute"],
                force=options["force"],
                mark_ended=options["mark_ended"],
                retry_reconnect_required=options["retry_reconnect_required"],
                limit=options["limit"],
                on_progress=on_progress,
                stop=stop,
            )
            revocations = self._revoke(result, options["per_minute"], stop)
        finish_refreshing(LastRun.Kind.REFRESH)
        self._report(result, revocations, as_json=options["json"])
        has_failures = bool(result.failed or revocations.failures)
        self.exit(result, received, has_failures=has_failures)

    def _revoke(
        self, result: flows.BulkResult, per_minute: int | None, stop: Event
    ) -> flows.RevocationResult:
        """Whatever becomes of it, the refreshes are reported."""
        try:
            return flows.revoke_pending(per_minute=per_minute, stop=stop)
        except DATABASE_ERRORS as error:
            logger.error("The revocations end, since the database failed: %s", type(error).__name__)
            result.stopped = result.stopped or "database"
            return flows.RevocationResult()

    def _due(self, options: dict[str, Any]) -> ConnectedAccountQuerySet:
        rows = self.chosen(options["account"])
        if options["retry_reconnect_required"]:
            return rows.filter(status=Status.RECONNECT_REQUIRED)
        if options["account"]:
            return rows
        now = from_database(lambda: database_now(database()))
        return rows.expiring(within=options["within"], now=now)

    def _report(
        self, result: flows.BulkResult, revocations: flows.RevocationResult, *, as_json: bool
    ) -> None:
        counts = {
            "refreshed": result.refreshed,
            "failed": result.failed,
            "skipped": result.skipped,
            "grants_revoked": revocations.revoked,
            "revocations_pending": revocations.left,
            "revocations_given_up": revocations.given_up,
        }
        if not as_json:
            for pk, code in revocations.failures.items():
                self.stderr.write(f"Revocation {pk} failed: {code}")
        details = {"revocation_failures": revocations.failures}
        self.report(result, counts, details, as_json=as_json)
