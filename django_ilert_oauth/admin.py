"""A panel to look after accounts with: read-only, without tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.auth import get_permission_codename, get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from . import flows
from .exceptions import IlertOAuthError
from .models import ConnectedAccount, Reason

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

    AccountAdmin = admin.ModelAdmin[ConnectedAccount]
else:
    AccountAdmin = admin.ModelAdmin


@admin.register(ConnectedAccount)
class ConnectedAccountAdmin(AccountAdmin):
    list_display = [
        "__str__",
        "user",
        "status_text",
        "granted_scope",
        "access_token_expires_at",
        "refresh_token_expires_at",
        "refreshed_at",
        "last_error",
    ]
    list_filter = ["status", "reason", "tenant_id", "last_error"]
    list_select_related = ["user"]
    date_hierarchy = "connected_at"
    actions = ["refresh_accounts", "check_accounts", "disconnect_accounts"]
    fields = [
        "user",
        "api_url",
        "tenant_id",
        "username",
        "ilert_user_id",
        "display_name",
        "email",
        "status_text",
        "status_changed_at",
        "requested_scope",
        "granted_scope",
        "access_token_expires_at",
        "refresh_token_expires_at",
        "connected_at",
        "refreshed_at",
        "last_error",
        "last_error_at",
    ]

    @admin.display(description=_("status"), ordering="status")
    def status_text(self, account: ConnectedAccount) -> StrOrPromise:
        return account.status_text

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        name_of_user = get_user_model().USERNAME_FIELD
        return ["tenant_id", "username", "display_name", f"user__{name_of_user}"]

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Nothing can be found by its ciphertext."""
        return "ciphertext" not in lookup and super().lookup_allowed(lookup, value, request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_refresh_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "refresh")

    def has_check_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "check")

    def has_disconnect_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "disconnect")

    @admin.action(description=_("Refresh now"), permissions=["refresh"])
    def refresh_accounts(self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]) -> None:
        self._each(request, queryset, lambda account: flows.refresh(account, force=True))

    @admin.action(description=_("Check with ilert"), permissions=["check"])
    def check_accounts(self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]) -> None:
        self._each(request, queryset, flows.check)

    @admin.action(description=_("Disconnect"), permissions=["disconnect"])
    def disconnect_accounts(
        self, request: HttpRequest, queryset: QuerySet[ConnectedAccount]
    ) -> None:
        self._each(
            request,
            queryset,
            lambda account: flows.disconnect(account, reason=Reason.ADMIN, request=request),
        )

    def _may(self, request: HttpRequest, action: str) -> bool:
        codename = get_permission_codename(action, self.opts)
        return request.user.has_perm(f"{self.opts.app_label}.{codename}")

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet[ConnectedAccount],
        act: Callable[[ConnectedAccount], object],
    ) -> None:
        done = 0
        for account in queryset:
            try:
                act(account)
            except IlertOAuthError as error:
                self.message_user(request, f"{account}: {error}", messages.ERROR)
            else:
                done += 1
        if done:
            report = ngettext("%(count)d account done.", "%(count)d accounts done.", done)
            self.message_user(request, report % {"count": done}, messages.SUCCESS)
