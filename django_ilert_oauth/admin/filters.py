"""Filters of the list of accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib.admin import ChoicesFieldListFilter, ModelAdmin, SimpleListFilter
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.flows._health import (
    HAS_FAILED,
    access_has_expired,
    grant_ends_within,
    of_configured_clients,
)
from django_ilert_oauth.internal.db import database_now
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from django_ilert_oauth.models.queryset import ENDING_WITHIN

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    AccountAdmin = ModelAdmin[ConnectedAccount]
    Accounts = QuerySet[ConnectedAccount]

DAY = timedelta(days=1)


class ReasonFilter(ChoicesFieldListFilter):
    def choices(self, changelist: Any) -> Iterator[Any]:
        """No row has the reason that it was deleted."""
        for choice in super().choices(changelist):
            if choice["display"] != Reason.DELETED.label:
                yield choice


class ExpiryFilter(SimpleListFilter):
    title = _("expiry")
    parameter_name = "expiring"

    CHOICES: dict[str, tuple[StrOrPromise, Callable[[datetime], Q]]] = {
        "overdue": (
            _("refresh is overdue"),
            lambda now: access_has_expired(now) & of_configured_clients(),
        ),
        "grant-1d": (_("grant ends within 24 hours"), partial(grant_ends_within, DAY)),
        "grant-30d": (_("grant ends within 30 days"), partial(grant_ends_within, ENDING_WITHIN)),
    }

    def lookups(
        self, request: HttpRequest, model_admin: AccountAdmin
    ) -> list[tuple[str, StrOrPromise]]:
        return [(value, title) for value, (title, _condition) in self.CHOICES.items()]

    def queryset(self, request: HttpRequest, queryset: Accounts) -> Accounts:
        chosen = self.CHOICES.get(self.value() or "")
        if not chosen:
            return queryset
        return queryset.filter(chosen[1](database_now(database())), status=Status.CONNECTED)


class ErrorFilter(SimpleListFilter):
    title = _("last error")
    parameter_name = "error"

    def lookups(
        self, request: HttpRequest, model_admin: ModelAdmin[Any]
    ) -> list[tuple[str, StrOrPromise]]:
        failed = model_admin.get_queryset(request).filter(HAS_FAILED).order_by("last_error")
        codes = failed.values_list("last_error", flat=True).distinct()
        return [("any", _("any error")), *((code, code) for code in codes)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        code = self.value()
        if not code:
            return queryset
        failed = queryset.filter(HAS_FAILED)
        return failed if code == "any" else failed.filter(last_error=code)
