from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_permission_codename, get_user_model
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.conf import conf
from django_ilert_oauth.flows._history import By, acting
from django_ilert_oauth.internal.rows import database
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.views import outside_transactions

from . import display
from .actions import CHECK, DISCONNECT, REFRESH, Action
from .filters import ErrorFilter, ExpiryFilter, ReasonFilter
from .read_only import ReadOnlyAdmin, warn_if_read_only
from .revocations import show_pending
from .summary import summary

ACTIONS = {action.name: action for action in (REFRESH, CHECK, DISCONNECT)}

IDENTITY: list[Any] = [
    "user",
    "tenant_id",
    "username",
    "display_name",
    "email",
    "ilert_user_id",
    "api_url",
]
ACCESS: list[Any] = [
    display.state,
    "status_changed_at",
    "connected_at",
    "granted_scope",
    display.scope_sentences,
    "requested_scope",
    display.access_token,
    "access_token_expires_at",
    display.refresh_token,
    "refresh_token_expires_at",
]
HEALTH: list[Any] = ["refreshed_at", "last_error", "last_error_at"]
HISTORY: list[Any] = [display.events]


#: Where there are more, the bar of dates is left out: it reads each.
MAX_DATED = 100_000


class AccountList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        if self.result_count > MAX_DATED:
            self.date_hierarchy = None


@admin.register(ConnectedAccount)
class ConnectedAccountAdmin(ReadOnlyAdmin):
    list_display = [
        display.account,
        display.state,
        # Seen without scrolling on a screen of 1280 pixels.
        display.last_refreshed,
        display.last_error,
        "user",
        display.scope,
        display.access_expires,
        display.grant_expires,
    ]
    list_filter = ["status", ("reason", ReasonFilter), ExpiryFilter, ErrorFilter]
    list_select_related = ["user"]
    date_hierarchy = "connected_at"
    raw_id_fields = ["user"]
    actions = list(ACTIONS)
    fieldsets = [
        (_("Identity"), {"fields": IDENTITY}),
        (_("Access"), {"fields": ACCESS}),
        (_("Health"), {"fields": HEALTH}),
        (_("History"), {"fields": HISTORY}),
    ]
    readonly_fields = [*IDENTITY, *ACCESS, *HEALTH, *HISTORY]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return AccountList

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """The client only where there is more than one."""
        first, *others = self.list_display
        return [first, display.client, *others] if conf.clients else [first, *others]

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        model = get_user_model()
        fields = {field.name for field in model._meta.fields}
        names = dict.fromkeys([model.USERNAME_FIELD, model.get_email_field_name()])
        of_user = [f"user__{name}" for name in names if name in fields]
        return ["tenant_id", "username", "display_name", "email", *of_user]

    def has_refresh_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "refresh")

    def has_check_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "check")

    def has_disconnect_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "disconnect")

    @admin.action(description=REFRESH.title, permissions=["refresh"])
    def refresh_accounts(
        self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]
    ) -> HttpResponse:
        return REFRESH.respond(self, request, queryset)

    @admin.action(description=CHECK.title, permissions=["check"])
    def check_accounts(
        self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]
    ) -> HttpResponse:
        return CHECK.respond(self, request, queryset)

    @admin.action(description=DISCONNECT.title, permissions=["disconnect"])
    def disconnect_accounts(
        self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]
    ) -> HttpResponse:
        return DISCONNECT.respond(self, request, queryset)

    # ilert is asked here, and no transaction is to stay open meanwhile.
    @outside_transactions
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        warn_if_read_only(request)
        health = partial(summary, self.get_queryset(request))
        context = {"health": health, **(extra_context or {})}
        response = super().changelist_view(request, context)
        if isinstance(response, TemplateResponse) and response.context_data is not None:
            # The page that asks before many are deleted takes no context of ours.
            response.context_data.setdefault("revokes", conf.revoke_on_delete)
        return response

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        warn_if_read_only(request)
        context = {"permitted_actions": partial(self._permitted, request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"revokes": conf.revoke_on_delete, **(extra_context or {})}
        return super().delete_view(request, object_id, context)

    def save_model(self, request: HttpRequest, *args: Any) -> None:
        """Not in this panel, which is read-only, but in one that a site has made of it."""
        with acting(By.ADMIN):
            super().save_model(request, *args)

    def delete_model(self, request: HttpRequest, obj: ConnectedAccount) -> None:
        with acting(By.ADMIN):
            super().delete_model(request, obj)
        self._after_deletion(request, [obj.uuid])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]) -> None:
        uuids = list(queryset.values_list("uuid", flat=True))
        with acting(By.ADMIN):
            super().delete_queryset(request, queryset)
        self._after_deletion(request, uuids)

    def _after_deletion(self, request: HttpRequest, uuids: list[UUID]) -> None:
        """Runs after the revocations, which are sent after the commit."""
        transaction.on_commit(lambda: show_pending(request, uuids), using=database(), robust=True)

    def _permitted(self, request: HttpRequest) -> list[Action]:
        return [action for name, action in ACTIONS.items() if name in self.get_actions(request)]

    def _may(self, request: HttpRequest, action: str) -> bool:
        codename = get_permission_codename(action, self.opts)
        return request.user.has_perm(f"{self.opts.app_label}.{codename}")
