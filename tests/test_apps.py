from __future__ import annotations

import subprocess
import sys

from django.apps import apps

from django_ilert_oauth.models import ConnectedAccount


def test_the_app_is_known_by_its_label() -> None:
    config = apps.get_app_config("ilert_oauth")
    assert config.name == "django_ilert_oauth"
    assert config.get_model("ConnectedAccount") is ConnectedAccount


def test_a_start_of_the_site_waits_for_no_other_package() -> None:
    code = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"])
import django
django.setup()
before = set(sys.modules)
settings.INSTALLED_APPS.append("django_ilert_oauth")
django.apps.apps.set_installed_apps(settings.INSTALLED_APPS)
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(tops - set(sys.stdlib_module_names)))
"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "['django', 'django_ilert_oauth']"
