"""From the first migration, with rows in it, to the last, and back to nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from django_ilert_oauth.internal import crypto
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation
from django_ilert_oauth.oauth.secret import Secret
from tests.support import docs

APP = "ilert_oauth"
FIRST = "0001_initial"
API_URL = "https://api.ilert.com"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def latest_afterwards() -> Iterator[None]:
    yield
    call_command("migrate", APP, verbosity=0)


def models_of_the_first() -> Any:
    """The models as the first migration has them, and tables to match."""
    executor = MigrationExecutor(connection)
    return executor.migrate([(APP, FIRST)]).apps


def store(apps: Any, user: Any) -> tuple[int, int]:
    person = {"api_url": API_URL, "tenant_id": "acme", "username": "grace"}
    identity = uuid.uuid4()
    account = apps.get_model(APP, "ConnectedAccount").objects.create(
        user_id=user.pk,
        uuid=identity,
        **person,
        granted_scope="profile source:w",
        access_token_ciphertext=encrypted("the-access-token", identity, "access_token"),
        refresh_token_ciphertext=encrypted("the-refresh-token", identity, "refresh_token"),
        access_token_expires_at=timezone.now(),
    )
    revocation = apps.get_model(APP, "PendingRevocation").objects.create(
        account_uuid=identity,
        **person,
        refresh_token_ciphertext=encrypted("the-old-refresh-token", identity, "refresh_token"),
    )
    return account.pk, revocation.pk


def encrypted(token: str, identity: uuid.UUID, name: str) -> str:
    return crypto.encrypt(Secret(token), (str(identity), API_URL, name))


def test_what_the_first_migration_stored_is_there_after_the_last() -> None:
    user = get_user_model().objects.create_user("site-user")
    account_pk, revocation_pk = store(models_of_the_first(), user)
    call_command("migrate", APP, verbosity=0)
    account = user.ilert_accounts.connected().with_scopes("source:r").get()
    assert (account.pk, str(account)) == (account_pk, "grace @ acme")
    assert account.access_token == "the-access-token"
    assert account.refresh_token == "the-refresh-token"
    revocation = PendingRevocation.objects.get(pk=revocation_pk)
    assert revocation.refresh_token == "the-old-refresh-token"


def test_every_migration_can_be_taken_back_with_rows_in_the_tables_and_made_again() -> None:
    user = get_user_model().objects.create_user("site-user")
    store(models_of_the_first(), user)
    call_command("migrate", APP, verbosity=0)
    call_command("migrate", APP, "zero", verbosity=0)
    tables = connection.introspection.table_names()
    assert [name for name in tables if name.startswith(f"{APP}_")] == []
    assert APP not in {app for app, _ in MigrationRecorder(connection).applied_migrations()}
    assert get_user_model().objects.get() == user

    call_command("migrate", APP, verbosity=0)
    assert not ConnectedAccount.objects.exists()


@pytest.mark.django_db
def test_the_statement_of_the_guide_for_postgresql_is_understood() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("another database")
    [statement] = docs.blocks("sql", "docs/guides/databases")
    with connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.execute(
            "SELECT reloptions FROM pg_class WHERE relname = %s", [ConnectedAccount._meta.db_table]
        )
        assert cursor.fetchone() == (["autovacuum_vacuum_scale_factor=0.01"],)
