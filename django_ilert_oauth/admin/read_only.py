from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
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
        is_popup = not isinstance(response, HttpResponseRedirect)
        return response if is_popup else self.response_post_save_change(request, None)


def warn_if_read_only(request: HttpRequest) -> None:
    if conf.read_only and request.method == "GET":
        text = gettext(
            "ILERT_OAUTH_READ_ONLY is on: nothing is connected, refreshed or revoked here."
        )
        messages.warning(request, text)
