"""What Celery's workers of the tests run: a site whose facts come from the environment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import requests
from celery.signals import task_prerun
from django.conf import settings
from requests.adapters import HTTPAdapter

from django_ilert_oauth.oauth import transport
from tests.support.celery_app import fleet_app

settings.DATABASES["default"]["NAME"] = os.environ["FLEET_DATABASE"]
settings.ILERT_OAUTH_API_URL = os.environ["FLEET_ILERT"]
settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = int(os.environ["FLEET_RATE_LIMIT"])
settings.ILERT_OAUTH_TIMEOUT = (1, 8)


class Signing(HTTPAdapter):
    """Says whose request it is."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        request.headers["X-Worker"] = os.environ["FLEET_WORKER"]
        return super().send(request, *args, **kwargs)


transport.adapters["http://"] = Signing()
app = fleet_app(os.environ["CELERY_BROKER_URL"], os.environ["FLEET_NAME"])


@task_prerun.connect
def die_once(**kwargs: Any) -> None:
    """If the tests have left an order to, by SIGKILL: this process runs the task."""
    try:
        Path(os.environ["FLEET_ORDER_TO_DIE"]).unlink()
    except FileNotFoundError:
        return
    time.sleep(1.5)  # for the worker to acknowledge the message, were it to do so early
    os.kill(os.getpid(), signal.SIGKILL)
