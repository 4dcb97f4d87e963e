"""A site with the app that the guide on organisations makes up."""

from tests.settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [*INSTALLED_APPS, "shop"]  # noqa: F405
ROOT_URLCONF = "shop.urls"
