from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_ilert_oauth import flows
from django_ilert_oauth.flows._runs import note_run
from django_ilert_oauth.management.console import QuietCommand, printable
from django_ilert_oauth.models import LastRun


class Command(QuietCommand):
    help = "Re-encrypts stored ilert tokens with the first of ILERT_OAUTH_ENCRYPTION_KEYS."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only count, and write nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        result = flows.rotate_keys(dry_run=options["dry_run"])
        if not options["dry_run"]:
            note_run(LastRun.Kind.ROTATE)
        for name in result.unreadable:
            shown = printable(name, self.stderr)
            self.stderr.write(f"No configured key decrypts the tokens of {shown}.")
        self.stdout.write(
            f"{result.rotated} re-encrypted, {result.current} already used the first key, "
            f"{result.on_old_keys} still use old keys, {len(result.unreadable)} cannot be read."
        )
        if result.unreadable:
            raise CommandError(
                "Put the missing key back into ILERT_OAUTH_ENCRYPTION_KEYS and run this again, "
                "or have these users reconnect. Do not remove any key before that."
            )
        if result.on_old_keys:
            self.stdout.write("Old keys are still needed: run this again.")
        else:
            self.stdout.write("You may remove all keys but the first.")
