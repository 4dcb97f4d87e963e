"""Refreshes tenants' accounts in each way on the site of ``tenant_settings``, and prints whose.

Each of the schemas has accounts of other people under the same keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from django_tenants.utils import get_tenant_model, schema_context

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_refreshed
from django_ilert_oauth.testing import connected_account
from ilert_standin import Options, StandIn, serve

SCHEMAS = ["public", "one", "two"]
#: Whose accounts are refreshed.
SCHEMA = "one"
COUNT = 12
Way = Callable[[], Any]


def get_access_token() -> None:
    account = ConnectedAccount.objects.get(pk=1)
    token = Secret(flows.get_access_token(account))
    assert token == ConnectedAccount.objects.get(pk=1).access_token


def get_access_token_in_a_transaction() -> None:
    with transaction.atomic():
        get_access_token()


def refresh_many() -> None:
    flows.refresh_many(ConnectedAccount.objects.all(), concurrency=4, per_minute=0)


def refresh_many_with_a_cut() -> None:
    """The server ends the connection in the middle of the run."""

    def cut(account: ConnectedAccount, **kwargs: Any) -> None:
        if account.pk == COUNT // 2:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    account_refreshed.connect(cut)
    try:
        refresh_many()
    finally:
        account_refreshed.disconnect(cut)


def command() -> None:
    call_command("refresh_ilert_tokens", concurrency=4, per_minute=0)


def tenant_command() -> None:
    arguments = ["refresh_ilert_tokens", "--concurrency", "4", "--per-minute", "0"]
    call_command("tenant_command", *arguments, schema_name=SCHEMA)


def set_up() -> None:
    call_command("migrate_schemas", schema_name="public", verbosity=0, run_syncdb=True)
    for name in SCHEMAS[1:]:
        get_tenant_model()(schema_name=name, name=name).save(verbosity=0)
    for name in SCHEMAS:
        with schema_context(name):
            User.objects.create_user("site-user")


def make_due(standin: StandIn, schema: str) -> None:
    """Under the same keys in each schema."""
    user = User.objects.get()
    ConnectedAccount.objects.all().delete()
    for pk in range(1, COUNT + 1):
        tokens = standin.issue_tokens("acme", f"{schema}-{pk}")
        connected_account(
            user,
            pk=pk,
            username=f"{schema}-{pk}",
            access_token=tokens["access_token"],
            refresh_token=tokens["refresh_token"],
            access_token_expires_at=timezone.now() - timedelta(minutes=1),
        )


def try_out(standin: StandIn, way: Way) -> dict[str, Any]:
    """How many accounts of which schema were refreshed, and lost."""
    standin.reset()
    standin.options.rotate = standin.options.detect_reuse = True
    for name in SCHEMAS:
        with schema_context(name):
            make_due(standin, name)
    with schema_context(SCHEMA):
        way()
    refreshed, lost = {}, {}
    live = set(standin.ledger().values())
    for name in SCHEMAS:
        with schema_context(name):
            accounts = list(ConnectedAccount.objects.all())
        refreshed[name] = sum(account.refreshed_at is not None for account in accounts)
        lost[name] = sum(account.refresh_token.reveal() not in live for account in accounts)
    return {"refreshed": refreshed, "lost": lost, "requests": len(standin.token_requests)}


WAYS: list[Way] = [
    get_access_token,
    get_access_token_in_a_transaction,
    refresh_many,
    refresh_many_with_a_cut,
    command,
    tenant_command,
]


def main() -> dict[str, Any]:
    set_up()
    credentials = settings.ILERT_OAUTH_CLIENT_ID, settings.ILERT_OAUTH_CLIENT_SECRET
    standin = StandIn(Options(client_id=credentials[0], client_secret=credentials[1]))
    with serve(standin) as url:
        settings.ILERT_OAUTH_API_URL = url
        return {way.__name__: try_out(standin, way) for way in WAYS}


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        result = main()
    sys.stdout.write(json.dumps(result))
