"""A user with a UUID key and an e-mail address for a name."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models


class UUIDUser(AbstractBaseUser, PermissionsMixin):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    is_staff = models.BooleanField(default=False)

    USERNAME_FIELD = "email"

    objects = BaseUserManager["UUIDUser"]()

    class Meta:
        app_label = "uuid_users"
        swappable = "AUTH_USER_MODEL"

    def __str__(self) -> str:
        return self.email
