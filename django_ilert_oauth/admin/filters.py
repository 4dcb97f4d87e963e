"""Filters of the list of accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib.admin import ChoicesFieldListFilter, ModelAdmin, SimpleListFilter
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.models import ConnectedAccount, Reason, Status

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    AccountAdmin = ModelAdmin[ConnectedAccount]
    Accounts = QuerySet[ConnectedAccount]

DAY, MONTH = timedelta(days=1), timedelta(days=30)


def refresh_is_overdue() -> Q:
    """A healthy account's access ends within the hour, too, and is refreshed before."""
    return Q(status=Status.CONNECTED, access_token_expires_at__lte=timezone.now())


def grant_ends_within(time: timedelta) -> Q:
    ends_at = timezone.now() + time
    return Q(status=Status.CONNECTED, refresh_token_expires_at__lte=ends_at)


def failed_within(time: timedelta) -> Q:
    return Q(last_error_at__gte=timezone.now() - time) & ~Q(last_error="")


class ReasonFilter(ChoicesFieldListFilter):
    def choices(self, changelist: Any) -> Iterator[Any]:
        """No row has the reason that it was deleted."""
        for choice in super().choices(changelist):
            if choice["display"] != Reason.DELETED.label:
                yield choice


class ExpiryFilter(SimpleListFilter):
    title = _("expiry")
    parameter_name = "expiring"

    CHOICES: dict[str, tuple[StrOrPromise, Callable[[], Q]]] = {
        "overdue": (_("refresh is overdue"), refresh_is_overdue),
        "grant-1d": (_("grant ends within 24 hours"), lambda: grant_ends_within(DAY)),
        "grant-30d": (_("grant ends within 30 days"), lambda: grant_ends_within(MONTH)),
    }

    def lookups(
        self, request: HttpRequest, model_admin: AccountAdmin
    ) -> list[tuple[str, StrOrPromise]]:
        return [(value, title) for value, (title, _condition) in self.CHOICES.items()]

    def queryset(self, request: HttpRequest, queryset: Accounts) -> Accounts:
        chosen = self.CHOICES.get(self.value() or "")
        return queryset.filter(chosen[1]()) if chosen else queryset


class ErrorFilter(SimpleListFilter):
    title = _("last error")
    parameter_name = "error"

    def lookups(
        self, request: HttpRequest, model_admin: AccountAdmin
    ) -> list[tuple[str, StrOrPromise]]:
        failed = model_admin.get_queryset(request).exclude(last_error="").order_by("last_error")
        codes = failed.values_list("last_error", flat=True).distinct()
        return [("day", _("in the last day")), *((code, code) for code in codes)]

    def queryset(self, request: HttpRequest, queryset: Accounts) -> Accounts:
        code = self.value()
        if code == "day":
            return queryset.filter(failed_within(DAY))
        return queryset.filter(last_error=code) if code else queryset
