"""The states of an account."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    """Whether an account is connected: it has a grant that, as far as is known, is in force."""

    CONNECTED = "connected", _("connected")
    RECONNECT_REQUIRED = "reconnect_required", _("needs reconnecting")
    DISCONNECTED = "disconnected", _("disconnected")


class Reason(models.TextChoices):
    """Why a grant has ended."""

    USER = "user", _("by the user")
    ADMIN = "admin", _("by an administrator")
    REVOKED_AT_ILERT = "revoked_at_ilert", _("access was revoked at ilert")
    EXPIRED = "expired", _("access has expired")
    DELETED = "deleted", _("the account was deleted")
    INCIDENT = "incident", _("after an incident")
