"""Ways to narrow the list of accounts down. None asks for more than a page can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.models import ConnectedAccount, Status

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    AccountAdmin = ModelAdmin[ConnectedAccount]
    Accounts = QuerySet[ConnectedAccount]

HOUR, DAY, MONTH = timedelta(hours=1), timedelta(days=1), timedelta(days=30)
#: So many tenants are listed, those with the most accounts; the others are typed in.
TENANTS = 10


def access_ends_within(time: timedelta) -> Q:
    """Or has ended, without being renewed."""
    ends_at = timezone.now() + time
    return Q(status=Status.CONNECTED, access_token_expires_at__lte=ends_at)


def grant_ends_within(time: timedelta) -> Q:
    ends_at = timezone.now() + time
    return Q(status=Status.CONNECTED, refresh_token_expires_at__lte=ends_at)


def failed_within(time: timedelta) -> Q:
    return Q(last_error_at__gte=timezone.now() - time) & ~Q(last_error="")


class TenantFilter(SimpleListFilter):
    title = _("tenant")
    parameter_name = "tenant_id"
    template = "admin/ilert_oauth/connectedaccount/tenant_filter.html"
    #: Whether there are more tenants than are listed.
    has_more = False
    #: The other parameters of the page, which a tenant that is typed in leaves as they are.
    kept: list[tuple[str, str]]

    def lookups(self, request: HttpRequest, model_admin: AccountAdmin) -> list[tuple[str, str]]:
        accounts = model_admin.get_queryset(request).order_by().values_list("tenant_id", flat=True)
        by_size = accounts.annotate(size=Count("pk")).order_by("-size", "tenant_id")
        tenants = list(by_size[: TENANTS + 1])
        self.has_more = len(tenants) > TENANTS
        del tenants[TENANTS:]
        chosen = self.value()
        if chosen and chosen not in tenants:
            tenants.append(chosen)
        return [(tenant, tenant) for tenant in tenants]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        others = {**changelist.filter_params}
        others.pop(self.parameter_name, None)
        others.pop(PAGE_VAR, None)
        self.kept = [(name, value) for name, values in others.items() for value in values]
        yield from super().choices(changelist)

    def queryset(self, request: HttpRequest, queryset: Accounts) -> Accounts:
        tenant = self.value()
        return queryset.filter(tenant_id=tenant) if tenant else queryset


class ExpiryFilter(SimpleListFilter):
    title = _("expiry")
    parameter_name = "expiring"

    CHOICES: dict[str, tuple[StrOrPromise, Callable[[], Q]]] = {
        "access-1h": (_("access ends within an hour"), lambda: access_ends_within(HOUR)),
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
