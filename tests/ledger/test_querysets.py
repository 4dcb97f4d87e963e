"""A run asks for each account once, whatever queryset names it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import Count, F

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn
from tests.support.other_callers import at_once

from .conftest import MakeDue, lost, refreshed

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
QUERYSETS: dict[str, Callable[[Any], Any]] = {
    "all": lambda rows: rows.all(),
    "expiring": lambda rows: rows.expiring(within=HOUR),
    "of active users": lambda rows: rows.expiring(within=HOUR).filter(user__is_active=True),
    "of users in a group": lambda rows: rows.filter(user__groups__name__startswith="group"),
    "distinct": lambda rows: rows.filter(user__groups__isnull=False).distinct(),
    "slice": lambda rows: rows.order_by("-username")[:100],
    "slice of a join": lambda rows: rows.filter(user__groups__isnull=False).order_by("pk")[:100],
    "annotated": lambda rows: rows.annotate(groups=Count("user__groups")).filter(groups=2),
    "annotated by a join": lambda rows: rows.annotate(group=F("user__groups__name")),
    "union": lambda rows: rows.filter(pk__gt=0).union(rows.filter(user__is_active=True)),
    "deferred": lambda rows: rows.only("username").select_related("user"),
    "values": lambda rows: rows.filter(pk__in=rows.values("pk")),
}


@pytest.fixture
def accounts(make_due: MakeDue, user: User) -> list[ConnectedAccount]:
    user.groups.set([Group.objects.create(name=f"group-{number}") for number in (1, 2)])
    return make_due(12)


@pytest.mark.parametrize("queryset", QUERYSETS.values(), ids=QUERYSETS)
def test_each_account_is_asked_for_once(
    accounts: list[ConnectedAccount], ilert: StandIn, queryset: Callable[[Any], Any]
) -> None:
    result = flows.refresh_many(queryset(ConnectedAccount.objects), per_minute=0)
    assert (result.refreshed, result.failures) == (12, {})
    assert len(ilert.token_requests) == 12
    assert lost(ilert) == []


@pytest.mark.parametrize("queryset", [QUERYSETS["all"], QUERYSETS["slice of a join"]])
def test_four_runs_at_once_share_the_accounts(
    accounts: list[ConnectedAccount], ilert: StandIn, queryset: Callable[[Any], Any]
) -> None:
    results = at_once(
        4, lambda _n: flows.refresh_many(queryset(ConnectedAccount.objects), per_minute=0)
    )
    assert [result for result in results if isinstance(result, Exception)] == []
    assert len(ilert.token_requests) == refreshed(accounts) == 12
    assert lost(ilert) == []


def test_a_database_that_cannot_select_what_it_updates_loses_nothing(
    accounts: list[ConnectedAccount], ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.features, "update_can_self_select", False)
    due = ConnectedAccount.objects.filter(user__is_active=True)
    assert flows.refresh_many(due, per_minute=0).refreshed == 12
    assert lost(ilert) == []
