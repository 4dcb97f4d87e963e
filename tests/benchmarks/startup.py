"""What an app adds to ``django.setup()`` of a plain project, beside its peers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from .measuring import spread
from .sizes import Sizes
from .tables import Table

PLAIN = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
APPS = {
    "ours": ["django_ilert_oauth"],
    "django-allauth": ["allauth", "allauth.account", "allauth.socialaccount"],
    "social-auth": ["social_django"],
}
SCRIPT = """
import sys
import time

import django
from django.conf import settings

# django-allauth does not start without; the others do not look at it.
middleware = ["allauth.account.middleware.AccountMiddleware"]
settings.configure(INSTALLED_APPS=sys.argv[1:], MIDDLEWARE=middleware)
started = time.perf_counter()
django.setup()
print(time.perf_counter() - started)
"""


def measure(sizes: Sizes, url: str, database: str) -> list[Table]:
    names = ["nothing", *APPS]
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(sizes.rounds * 3):
        for name in names:
            milliseconds[name].append(_set_up(APPS.get(name, [])) * 1000)
    plain = milliseconds.pop("nothing")
    table = Table("Milliseconds added to django.setup()", list(milliseconds))
    table.rows.append([_added(times, plain) for times in milliseconds.values()])
    return [table]


def _set_up(apps: Sequence[str]) -> float:
    command = [sys.executable, "-c", SCRIPT, *PLAIN, *apps]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _added(times: Sequence[float], plain: Sequence[float]) -> str:
    return spread([with_app - without for with_app, without in zip(times, plain, strict=True)])
