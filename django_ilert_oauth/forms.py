from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .conf import conf, is_tenant
from .internal import account_selection, signed_scopes
from .models import ConnectedAccount


class ConnectForm(forms.Form):
    """``account`` is one of those that the user may manage, to reconnect.

    ``scopes`` is asked for besides the usual, where this site has signed it for this user. The
    client to connect by is signed with them.
    """

    account = forms.ModelChoiceField(
        ConnectedAccount.objects.none(), required=False, widget=forms.HiddenInput
    )
    next = forms.CharField(required=False, widget=forms.HiddenInput)
    scopes = forms.CharField(required=False, widget=forms.HiddenInput)
    tenant = forms.CharField(
        label=_("Your ilert address"),
        help_text=_("Optional, for example acme.ilert.com or just acme."),
        required=False,
    )

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = request.user
        accounts = account_selection.manageable_rows(request)
        self.fields["account"].queryset = accounts  # type: ignore[attr-defined]
        if conf.tenant:
            del self.fields["tenant"]

    @property
    def account_shown(self) -> ConnectedAccount | None:
        """Whether the form is valid or not; the view has dropped what the user may not manage."""
        account: ConnectedAccount | None = self.fields["account"].clean(self["account"].value())
        return account

    @property
    def asked_scopes(self) -> str:
        """Whether the form is valid or not."""
        return signed_scopes.unsign(self._user, self["scopes"].value() or "")

    @property
    def client(self) -> str:
        """Whether the form is valid or not."""
        return signed_scopes.unsign_client(self._user, self["scopes"].value() or "")

    def clean_tenant(self) -> str:
        tenant: str = self.cleaned_data["tenant"]
        tenant = _first_part(tenant)
        if tenant and not is_tenant(tenant):
            raise ValidationError(
                _("Enter your ilert address, such as acme.ilert.com, or just its first part.")
            )
        return tenant


def _first_part(address: str) -> str:
    """Of what a browser's address bar shows at ilert; empty where that names no tenant."""
    without_scheme = re.sub(r"^https?://", "", address, flags=re.IGNORECASE)
    tenant, app = (
        re.match(rf"{_pattern(url)}(?=[:/?#]|$)", without_scheme, re.IGNORECASE)
        for url in (conf.tenant_url, conf.app_url)
    )
    if tenant and conf.tenant_url.replace("{tenant}", tenant[1]).lower() != conf.app_url:
        return tenant[1]
    return "" if app else address


def _pattern(url: str) -> str:
    return re.escape(url.partition("://")[2].rstrip("/")).replace(r"\{tenant\}", "([^./:?#]+)")
