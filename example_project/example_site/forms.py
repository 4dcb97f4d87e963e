from __future__ import annotations

from typing import Any

from django import forms


class AlertSourceForm(forms.Form):
    name = forms.CharField(max_length=255)
    escalation_policy = forms.IntegerField(label="ID of its escalation policy", min_value=1)

    def alert_source(self) -> dict[str, Any]:
        return {
            "name": self.cleaned_data["name"],
            "integrationType": "API",
            "escalationPolicy": {"id": self.cleaned_data["escalation_policy"]},
        }
