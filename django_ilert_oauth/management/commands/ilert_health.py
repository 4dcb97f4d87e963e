from __future__ import annotations

import json
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from django_ilert_oauth import flows
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.management.bulk_command import in_words
from django_ilert_oauth.management.console import QuietCommand

from .refresh_ilert_tokens import duration


class Command(QuietCommand):
    help = "Prints counts of accounts for monitoring, and fails if refreshing does not keep up."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--max-overdue",
            type=duration,
            default=timedelta(minutes=15),
            help="fail if a token expired longer ago: 90s, 15m, 2h, 1d (default: 15m)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        health = flows.health()
        facts = asdict(health)
        if options["json"]:
            self.stdout.write(json.dumps(facts, cls=DjangoJSONEncoder))
        else:
            counts = {name: value for name, value in facts.items() if isinstance(value, int)}
            self.stdout.write(f"{in_words(counts)}.")
            for kind, at in health.last_runs.items():
                self.stdout.write(f"Last {kind}: {at:%Y-%m-%d %H:%M:%S %Z}".rstrip())
        oldest = database_now(database()) - options["max_overdue"]
        if health.overdue_since and health.overdue_since < oldest:
            raise CommandError(
                f"Refreshing does not keep up: a token has been expired since "
                f"{health.overdue_since:%Y-%m-%d %H:%M:%S %Z}."
            )
