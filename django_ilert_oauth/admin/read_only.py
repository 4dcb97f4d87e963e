from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext

from django_ilert_oauth.conf import conf

if TYPE_CHECKING:
    AnyAdmin = admin.ModelAdmin[Any]
else:
    AnyAdmin = admin.ModelAdmin


class ReadOnlyAdmin(AnyAdmin):
    """Rows are shown and, with the permission, deleted."""

    class Media:
        css = {"all": ["ilert_oauth/admin.css"]}

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Nothing can be found by its ciphertext."""
        return "ciphertext" not in lookup and super().lookup_allowed(lookup, value, request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: Any) -> HttpResponse:
        """Back to the list: Django leads there only who may change rows."""
        response = super().response_delete(request, obj_display, obj_id)
        if not isinstance(response, HttpResponseRedirect) or not self.has_view_permission(request):
            return response
        meta, site = self.opts, self.admin_site.name
        url = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist", current_app=site)
        kept: dict[str, Any] = {
            "preserved_filters": self.get_preserved_filters(request),
            "opts": meta,
        }
        return HttpResponseRedirect(add_preserved_filters(kept, url))


def warn_if_read_only(request: HttpRequest) -> None:
    if conf.read_only and request.method == "GET":
        text = gettext(
            "ILERT_OAUTH_READ_ONLY is on: nothing is connected, refreshed or revoked here."
        )
        messages.warning(request, text)
