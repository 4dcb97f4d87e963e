from __future__ import annotations

from typing import Any

from django_ilert_oauth import flows
from django_ilert_oauth.flows._runs import note_run
from django_ilert_oauth.management.bulk_command import BulkCommand, stopped_by_signals
from django_ilert_oauth.models import LastRun


class Command(BulkCommand):
    help = "Asks ilert about each connected account and stores its tenant, username and scope."
    action, participle = "check", "checked"

    def handle(self, *args: Any, **options: Any) -> None:
        due = self.chosen(options["account"])
        if not options["account"]:
            due = due.connected()
        if options["dry_run"]:
            self.show(due, options)
            return
        with stopped_by_signals() as (stop, received), self.bar(due, options) as on_progress:
            result = flows.check_many(
                due,
                concurrency=options["concurrency"],
                per_minute=options["per_minute"],
                mark_ended=options["mark_ended"],
                limit=options["limit"],
                on_progress=on_progress,
                stop=stop,
            )
        note_run(LastRun.Kind.CHECK)
        counts = {"checked": result.checked, "changed": result.changed, "failed": result.failed}
        self.report(result, counts, {}, as_json=options["json"])
        self.exit(result, received, has_failures=bool(result.failed))
