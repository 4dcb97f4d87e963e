from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth.signals import user_logged_in
from django.core import checks
from django.db.models import Model
from django.db.models.signals import class_prepared, post_save, pre_delete
from django.utils.translation import gettext_lazy as _

from .checks import check_clients, check_deployment, check_settings


def end_grant(**kwargs: Any) -> None:
    # Flows bring along requests, which a start of the site should not wait for.
    from .flows._disconnect import end_grant_of_deleted

    end_grant_of_deleted(**kwargs)


def record_handover(**kwargs: Any) -> None:
    from .flows._history import record_handover

    record_handover(**kwargs)


class IlertOAuthConfig(AppConfig):
    name = "django_ilert_oauth"
    label = "ilert_oauth"
    verbose_name = _("ilert accounts")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # It needs the models, which Django loads after this module.
        from .internal.authorization_request import mark_browser

        user_logged_in.connect(mark_browser)
        self._account = self.get_model("ConnectedAccount")
        for model in apps.get_models():
            self._follow(model)
        class_prepared.connect(self._follow)
        checks.register(check_settings)
        checks.register(check_deployment, deploy=True)
        checks.register(check_clients, checks.Tags.database)

    def _follow(self, sender: type[Model], **kwargs: Any) -> None:
        """The accounts, by whatever proxy: Django names that as the sender."""
        if sender._meta.concrete_model is self._account:
            pre_delete.connect(end_grant, sender=sender)
            post_save.connect(record_handover, sender=sender)
