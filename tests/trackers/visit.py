"""A process of a site with an error tracker, which is visited once."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from werkzeug.test import Client

from tests.support.failing_database import refused_by_database
from tests.support.site_processes import site_process

CSRF_TOKEN = "a" * 32


@dataclass(frozen=True)
class Visit:
    """``refused`` is a table that takes no new row; with ``post`` a form is sent."""

    path: str
    session: str
    post: bool = False
    refused: str = ""


def make(visit: Visit, tracker: str, sink: str) -> tuple[int, str]:
    """The status of the response, and where it leads to."""
    with site_process(_make, visit, tracker, sink) as process:
        response: tuple[int, str] = process.go().result()
        return response


def _make(visit: Visit, tracker: str, sink: str) -> tuple[int, str]:
    # Only here: they change what they are imported next to.
    from tests.trackers import trackers

    # Where the tutorial's settings have them from.
    os.environ["ILERT_CLIENT_SECRET"] = settings.ILERT_OAUTH_CLIENT_SECRET
    os.environ["ILERT_ENCRYPTION_KEYS"] = settings.ILERT_OAUTH_ENCRYPTION_KEYS[0]
    known = trackers.TRACKERS | {"sentry-sdk without advice": trackers.sentry_without_advice}
    with known[tracker](sink):
        return _visit(visit)


def _visit(visit: Visit) -> tuple[int, str]:
    """By the site's WSGI handler, which trackers wrap."""
    form = {"csrfmiddlewaretoken": CSRF_TOKEN} if visit.post else None
    failure = refused_by_database("INSERT", visit.refused) if visit.refused else nullcontext()
    with failure:
        response = Client(WSGIHandler(), use_cookies=False).open(
            visit.path,
            base_url="http://testserver",
            environ_overrides={"REMOTE_ADDR": "127.0.0.1"},
            headers={"Cookie": f"sessionid={visit.session}; csrftoken={CSRF_TOKEN}"},
            method="POST" if visit.post else "GET",
            data=form,
        )
    response.close()
    return response.status_code, response.headers.get("Location", "")
