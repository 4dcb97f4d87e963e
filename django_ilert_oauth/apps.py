from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import pre_delete
from django.utils.translation import gettext_lazy as _

from .checks import check_deployment, check_settings


class IlertOAuthConfig(AppConfig):
    name = "django_ilert_oauth"
    label = "ilert_oauth"
    verbose_name = _("ilert accounts")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Flows need the models, which are there only now.
        from .flows.disconnect import end_grant_of_deleted

        pre_delete.connect(end_grant_of_deleted, sender=self.get_model("ConnectedAccount"))
        checks.register(check_settings)
        checks.register(check_deployment, deploy=True)
