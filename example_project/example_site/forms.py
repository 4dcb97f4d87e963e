from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _


class AlertSourceForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=255)

    def __init__(self, data: Any, sources: Iterable[dict[str, Any]]) -> None:
        super().__init__(data)
        policies = (source.get("escalationPolicy") or {} for source in sources)
        names = {policy["id"]: policy["name"] for policy in policies if "name" in policy}
        self.fields["escalation_policy"] = forms.TypedChoiceField(
            label=_("Escalation policy"),
            help_text=_("One that an alert source uses."),
            choices=list(names.items()),
            coerce=int,
        )

    def alert_source(self) -> dict[str, Any]:
        return {
            "name": self.cleaned_data["name"],
            "integrationType": "API",
            "escalationPolicy": {"id": self.cleaned_data["escalation_policy"]},
        }
