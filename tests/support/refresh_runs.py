"""The ways in which a site goes over all that is due."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from django_ilert_oauth import background, flows, tasks
from django_ilert_oauth.models import ConnectedAccount

each_way_to_run = pytest.mark.parametrize(
    "run",
    [
        lambda: call_command("refresh_ilert_tokens", stdout=StringIO()),
        tasks.refresh_expiring_tokens,
        background.refresh_expiring_tokens.enqueue,
    ],
    ids=["command", "Celery", "Django's tasks"],
)


def refresh_all(**options: Any) -> flows.BulkResult:
    """One after the other, as fast as it goes, unless told otherwise."""
    chosen = {"per_minute": 0, "concurrency": 1, **options}
    return flows.refresh_many(ConnectedAccount.objects.all(), **chosen)
