from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from datetime import datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from django_ilert_oauth import flows
from django_ilert_oauth.flows._client import require_writable
from django_ilert_oauth.flows._history import By, acting
from django_ilert_oauth.flows._storing import from_database
from django_ilert_oauth.internal.rows import in_pages, pending_revocations
from django_ilert_oauth.management.bulk_command import AccountsCommand, in_words, stopped_by_signals
from django_ilert_oauth.management.console import printable
from django_ilert_oauth.models import ConnectedAccountQuerySet, Reason, Status

#: How long ilert's access tokens live.
ACCESS_LIFETIME = timedelta(hours=1)


def moment(text: str) -> datetime:
    """``2026-11-26``, ``2026-11-26T10:00`` or, of another time zone, ``2026-11-26T10:00+01:00``."""
    try:
        day = parse_date(text)
        found = datetime.combine(day, time()) if day else parse_datetime(text)
    except ValueError:
        found = None
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not a time such as 2026-11-26T10:00")
    return timezone.make_aware(found) if settings.USE_TZ and timezone.is_naive(found) else found


class Command(AccountsCommand):
    help = (
        "Disconnects accounts after an incident: deletes their tokens, then revokes their grants."
    )
    action, participle = "disconnect", "disconnected"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--all", action="store_true", help="all accounts; cannot be combined")
        parser.add_argument("--tenant", metavar="TENANT", help="accounts in this tenant")
        parser.add_argument("--user", metavar="NAME", help="accounts of this user of the site")
        parser.add_argument("--client", metavar="ID", help="accounts of this client ID")
        parser.add_argument(
            "--connected-before", type=moment, metavar="TIME", help="accounts connected before then"
        )
        parser.add_argument(
            "--reason",
            choices=[Reason.INCIDENT.value, Reason.ADMIN.value],
            default=Reason.INCIDENT.value,
            help="the reason that users see and the signal has (default: incident)",
        )
        parser.add_argument(
            "--no-input", action="store_false", dest="interactive", help="ask for no confirmation"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = self._chosen(options)
        due = chosen.exclude(status=Status.DISCONNECTED)
        if options["dry_run"]:
            self.show(due, options)
            return
        require_writable()
        if options["interactive"]:
            self._ask(due.count())
        with acting(By.COMMAND), stopped_by_signals() as (stop, received):
            result = flows.disconnect_many(
                due,
                reason=Reason(options["reason"]),
                stop=stop,
                connected_before=options["connected_before"],
            )
            flows.revoke_pending(per_minute=options["per_minute"], stop=stop)
        waiting = pending_revocations().filter(account_uuid__in=chosen.values("uuid"))
        left = from_database(lambda: list(in_pages(waiting)))
        names = {pending.pk: str(pending) for pending in left}
        self._report(result, names, as_json=options["json"])
        if received:
            raise CommandError("Stopped by a signal. Run this again.", returncode=128 + received[0])
        if names or result.failures:
            raise CommandError("Some accounts or revocations are left: run this again.")

    def _chosen(self, options: dict[str, Any]) -> ConnectedAccountQuerySet:
        wanted = {
            "tenant_id": options["tenant"],
            f"user__{get_user_model().USERNAME_FIELD}": options["user"],
            "client_id": options["client"],
            "connected_at__lt": options["connected_before"],
        }
        conditions = {name: value for name, value in wanted.items() if value is not None}
        if options["all"] == bool(conditions or options["account"]):
            raise CommandError(
                "Choose accounts with --tenant, --user, --client, --connected-before or --account, "
                "or pass --all alone."
            )
        accounts = self.chosen(options["account"]).filter(**conditions)
        if conditions and not accounts.exists():
            raise CommandError("No account meets these conditions: check the names.")
        return accounts

    def _ask(self, count: int) -> None:
        if not sys.stdin.isatty():
            raise CommandError("There is no terminal to ask on: pass --no-input.")
        self.stderr.write(f"{count} to be {self.participle}; their users have to connect again.")
        # Not as the prompt of input(): that is written to where the JSON goes.
        sys.stderr.write("Type yes to go on: ")
        sys.stderr.flush()
        if input() != "yes":
            raise CommandError("Nothing was done.")

    def _report(
        self, result: flows.DisconnectResult, waiting: dict[int, str], *, as_json: bool
    ) -> None:
        counts = {
            "disconnected": result.disconnected,
            "failed": len(result.failures),
            "still_to_be_revoked": len(waiting),
        }
        ends_at = self._access_ends_at(result) if not waiting else None
        if as_json:
            facts: dict[str, Any] = {"failures": result.failures, "revocations": waiting}
            facts["access_ends_at"] = ends_at and ends_at.isoformat()
            self.stdout.write(json.dumps({**counts, **facts}))
            return
        for pk, code in result.failures.items():
            self.stderr.write(f"Account {pk} was not disconnected: {code}")
        for name in waiting.values():
            self.stderr.write(f"ilert has not confirmed yet: {printable(name, self.stderr)}")
        self.stdout.write(f"{in_words(counts)}.")
        if ends_at:
            self.stdout.write(f"No access token works after {ends_at:%Y-%m-%d %H:%M:%S %Z}.")

    def _access_ends_at(self, result: flows.DisconnectResult) -> datetime:
        """Who has a stolen refresh token may have used it until ilert revoked it, which is now."""
        latest = timezone.now() + ACCESS_LIFETIME
        return max(latest, result.access_ends_at or latest)
