from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand

from example_site.environment import env


class Command(BaseCommand):
    help = "Migrates the database and makes the users demo and admin."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=0)
        _make_user("demo", env.str("DEMO_PASSWORD"))
        _make_user("admin", env.str("ADMIN_PASSWORD"), is_staff=True, is_superuser=True)


def _make_user(username: str, password: str, **rights: bool) -> None:
    user = User.objects.get_or_create(username=username, defaults=rights)[0]
    user.set_password(password)
    user.save()
