from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from django_ilert_oauth.models import ConnectedAccount


class Command(BaseCommand):
    help = "Sets the stored expiry of every access token back by hours, to see a refresh at once."

    def handle(self, *args: Any, **options: Any) -> None:
        an_hour_ago = timezone.now() - timedelta(hours=1)
        count = ConnectedAccount.objects.connected().update(access_token_expires_at=an_hour_ago)
        self.stdout.write(f"{count} set back to {an_hour_ago:%H:%M:%S} UTC")
