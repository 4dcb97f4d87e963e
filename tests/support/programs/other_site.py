"""A site of its own: a user goes all the way, then it tells of itself."""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.db import connections

from ilert_standin import serve
from site_browser import SiteBrowser
from tests.support.user_journey import REFRESH, log_in, standin_for, walk

CREDENTIALS = {"username": "site-user", "password": "site-password"}


def refresh() -> None:
    call_command(*REFRESH, verbosity=0, stdout=StringIO())


def go_all_the_way() -> None:
    with serve(WSGIHandler()) as site_url:
        standin = standin_for(
            site_url,
            client_id=settings.ILERT_OAUTH_CLIENT_ID,
            client_secret=settings.ILERT_OAUTH_CLIENT_SECRET,
        )
        with serve(standin) as ilert_url:
            settings.ILERT_OAUTH_APP_URL = settings.ILERT_OAUTH_API_URL = ilert_url
            site = SiteBrowser(site_url)
            log_in(site, "/ilert/", **CREDENTIALS)
            walk(site, standin, refresh)


def main() -> dict[str, Any]:
    for alias in connections:
        call_command("migrate", database=alias, verbosity=0)
    User.objects.create_superuser(**CREDENTIALS)
    go_all_the_way()
    return {
        "default_auto_field": settings.DEFAULT_AUTO_FIELD,
        "migrations_missing": migrations_missing(),
        "tables": {
            alias: sorted(connections[alias].introspection.table_names()) for alias in connections
        },
    }


def migrations_missing() -> bool:
    try:
        call_command("makemigrations", "ilert_oauth", check_changes=True, verbosity=0)
    except SystemExit:
        return True
    return False


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
