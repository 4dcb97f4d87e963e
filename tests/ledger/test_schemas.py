"""Rows of other schemas, or hidden from other sessions, that happen to have the same key."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows._bulk import account_queue
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.signals import account_refreshed
from ilert_standin import StandIn
from tests.support.databases import changed_settings, needs_postgresql
from tests.support.needs import is_missing
from tests.support.other_callers import Acting, beside

from .conftest import MakeDue, lost, refreshed

pytestmark = [needs_postgresql, pytest.mark.django_db(transaction=True)]

TABLE = "ilert_oauth_connectedaccount"


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


# django-tenants

WAYS = {
    "get_access_token": 1,
    "get_access_token_in_a_transaction": 1,
    "refresh_many": 12,
    "refresh_many_with_a_cut": 12,
    "command": 12,
    "tenant_command": 12,
}


@pytest.fixture(scope="module")
def of_tenants(django_db_setup: None, django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    """What happened to the accounts of each schema."""
    if importlib.util.find_spec("django_tenants") is None:
        is_missing("django-tenants", "pip install django-tenants")
    name = f"{connection.settings_dict['NAME']}_tenants"
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.support.tenant_settings",
        "TENANT_DATABASE": name,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with django_db_blocker.unblock():
        execute(f'DROP DATABASE IF EXISTS "{name}"', f'CREATE DATABASE "{name}"')
        try:
            site = subprocess.run(
                [sys.executable, "-m", "tests.support.programs.tenant_site"],
                env={**os.environ, **environment},
                check=True,
                stdout=subprocess.PIPE,
            )
            yield json.loads(site.stdout)
        finally:
            execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            connection.close()


@pytest.mark.parametrize(("way", "count"), WAYS.items())
def test_a_tenants_own_accounts_are_refreshed_and_no_others(
    of_tenants: dict[str, Any], way: str, count: int
) -> None:
    assert of_tenants[way] == {
        "refreshed": {"public": 0, "one": count, "two": 0},
        "lost": {"public": 0, "one": 0, "two": 0},
        "requests": count,
    }


# A search path, or a row-level security, that the caller has set


def sent(ilert: StandIn) -> list[Secret]:
    return [Secret(request.form["refresh_token"]) for request in ilert.token_requests]


@contextmanager
def by_search_path(make_due: MakeDue) -> Iterator[None]:
    """This connection looks at another schema than others."""
    make_due(3)
    first = ConnectedAccount.objects.order_by("pk")[0].pk
    ConnectedAccount.objects.update(id=F("id") - first + 1)
    execute(
        "CREATE SCHEMA other",
        f"CREATE TABLE other.{TABLE} (LIKE public.{TABLE} INCLUDING ALL)",
        "SET search_path = other, public",
    )
    make_due(3, first=3)
    yield
    connection.close()
    execute("DROP SCHEMA other CASCADE")


@contextmanager
def by_search_path_alone(make_due: MakeDue) -> Iterator[None]:
    """Others see no such table at all."""
    with by_search_path(make_due):
        execute(f"ALTER TABLE public.{TABLE} RENAME TO elsewhere")
        yield
        execute(f"ALTER TABLE public.elsewhere RENAME TO {TABLE}")


@contextmanager
def by_policy(make_due: MakeDue) -> Iterator[None]:
    """This connection sees its tenant's accounts, others see none."""
    make_due(6)
    ConnectedAccount.objects.filter(username__lt="user-3").update(tenant_id="hidden")
    role = f"{connection.settings_dict['NAME']}_tenant"
    policy = "USING (tenant_id = current_setting('site.tenant', true))"
    execute(
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}",
        f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY of_tenant ON {TABLE} {policy}",
    )
    with changed_settings(USER=role):
        execute("SET site.tenant = 'acme'")
        yield
    execute(
        f"DROP POLICY of_tenant ON {TABLE}",
        f"ALTER TABLE {TABLE} DISABLE ROW LEVEL SECURITY",
        f"DROP OWNED BY {role}",
        f"DROP ROLE {role}",
    )


@pytest.fixture(params=[by_search_path, by_search_path_alone, by_policy])
def own_accounts(
    request: pytest.FixtureRequest, make_due: MakeDue
) -> Iterator[list[ConnectedAccount]]:
    with request.param(make_due):
        yield list(ConnectedAccount.objects.order_by("pk"))


def test_a_row_that_only_the_callers_connection_sees_is_refreshed_on_it(
    own_accounts: list[ConnectedAccount], ilert: StandIn
) -> None:
    account = own_accounts[0]
    before = account.refresh_token
    with transaction.atomic():
        token = Secret(flows.get_access_token(account))
        assert token == ConnectedAccount.objects.get(pk=account.pk).access_token
    assert sent(ilert) == [before]
    assert refreshed(own_accounts) == 1
    assert lost(ilert) == []


def test_a_run_refreshes_the_rows_that_the_callers_connection_sees(
    own_accounts: list[ConnectedAccount], ilert: StandIn
) -> None:
    before = {account.refresh_token.reveal() for account in own_accounts}
    result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=4, per_minute=0)
    assert (result.refreshed, result.failures) == (3, {})
    assert {token.reveal() for token in sent(ilert)} == before
    assert lost(ilert) == []


@pytest.fixture
def cut() -> Callable[[], None]:
    """The server ends this thread's connection; the next one begins as all others."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    return lambda: beside(lambda: execute(f"SELECT pg_terminate_backend({pid})"))


def refreshes_of_others(own_accounts: list[ConnectedAccount], ilert: StandIn) -> set[str]:
    own = {account.refresh_token.reveal() for account in own_accounts}
    return {token.reveal() for token in sent(ilert)} - own


@pytest.mark.usefixtures("impatient")
def test_a_run_whose_connection_is_cut_ends_and_asks_for_nobody_elses_account(
    own_accounts: list[ConnectedAccount],
    ilert: StandIn,
    cut: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 1)
    cuts = [cut]

    def cut_once(**_kwargs: Any) -> None:
        while cuts:
            cuts.pop()()

    account_refreshed.connect(cut_once)
    try:
        result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=1, per_minute=0)
    finally:
        account_refreshed.disconnect(cut_once)
    assert (result.refreshed, result.failures, result.stopped) == (1, {}, "database")
    assert refreshes_of_others(own_accounts, ilert) == set()
    assert ilert.lost_grants == []


@pytest.mark.usefixtures("impatient")
def test_tokens_that_a_new_connection_cannot_store_are_not_revoked(
    own_accounts: list[ConnectedAccount],
    ilert: StandIn,
    cut: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> None:
    monkeypatch.setitem(transport.adapters, settings.ILERT_OAUTH_API_URL, Acting(after=cut))
    with pytest.raises(IlertUnavailableError) as raised:
        flows.refresh(own_accounts[0])
    assert raised.value.code == "not_stored"
    assert len(ilert.ledger()) == 6
