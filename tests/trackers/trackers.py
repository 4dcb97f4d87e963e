"""Error trackers, set up as their makers and the guide say, sending to a sink. One a process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import elasticapm.contrib.django
import requests
import sentry_sdk
import structlog
from django.conf import settings
from elasticapm.contrib.django.apps import ElasticAPMConfig
from raygun4py.raygunprovider import RaygunHandler, RaygunSender
from rich.console import Console
from rich.logging import RichHandler

from tests.support import docs

#: Given the address of the sink; what is left is sent when it ends.
Tracker = Callable[[str], AbstractContextManager[None]]


def printed(name: str) -> dict[str, Any]:
    """What the guide has for this tracker, carried out."""
    [code] = [code for code in docs.blocks("python", "docs/guides/logging") if name in code]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    return names


@contextmanager
def elastic(sink: str) -> Iterator[None]:
    settings.ELASTIC_APM = printed("ELASTIC_APM")["ELASTIC_APM"] | {
        "SERVER_URL": sink,
        "SERVICE_NAME": "site",
        "CAPTURE_BODY": "all",
        "CENTRAL_CONFIG": False,
    }
    config = ElasticAPMConfig("elasticapm.contrib.django", elasticapm.contrib.django)
    config.ready()
    yield
    client: Any = config.client
    client.close()


@contextmanager
def raygun(sink: str) -> Iterator[None]:
    """By its logging handler: its middleware for Django does not work with Django 5."""
    config = printed("RAYGUN4PY_CONFIG")["RAYGUN4PY_CONFIG"]
    sender = RaygunSender("the-key-for-raygun", config)
    sender.endpointprotocol, sender.endpointhost = sink.split("127", 1)[0], sink.split("//")[1]
    with _logging_to(RaygunHandler.from_sender(sender)):
        yield


@contextmanager
def rich(sink: str) -> Iterator[None]:
    stream: Any = _Stream(sink)
    console = Console(file=stream, width=200)
    handler = RichHandler(console=console, rich_tracebacks=True, tracebacks_show_locals=True)
    with _logging_to(handler):
        yield


@contextmanager
def rollbar(sink: str) -> Iterator[None]:
    settings.ROLLBAR = {
        "access_token": "the-key-for-rollbar",
        "endpoint": f"{sink}/",
        "handler": "blocking",
        "include_request_body": True,
    }
    middleware = "rollbar.contrib.django.middleware.RollbarNotifierMiddleware"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, middleware]
    yield


@contextmanager
def sentry(sink: str) -> Iterator[None]:
    os.environ["SENTRY_DSN"] = sink.replace("//", "//key@") + "/1"
    printed("sentry_sdk")
    with _sending_all():
        yield


@contextmanager
def sentry_without_advice(sink: str) -> Iterator[None]:
    sentry_sdk.init(sink.replace("//", "//key@") + "/1")
    with _sending_all():
        yield


@contextmanager
def structlog_tracebacks(sink: str) -> Iterator[None]:
    processors = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    handler: Any = logging.StreamHandler(_Stream(sink))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors))
    with _logging_to(handler):
        yield


TRACKERS: dict[str, Tracker] = {
    "elastic-apm": elastic,
    "raygun4py": raygun,
    "rich": rich,
    "rollbar": rollbar,
    "sentry-sdk": sentry,
    "structlog": structlog_tracebacks,
}


@contextmanager
def _sending_all() -> Iterator[None]:
    client: Any = sentry_sdk.get_client()
    client.options |= {"traces_sample_rate": 1.0, "send_default_pii": True}
    yield
    client.close()


@contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    logging.getLogger().addHandler(handler)
    yield
    handler.flush()


class _Stream:
    def __init__(self, sink: str) -> None:
        self._sink = sink
        self._text = ""

    def write(self, text: str) -> None:
        self._text += text

    def flush(self) -> None:
        requests.post(self._sink, data=self._text.encode(), timeout=10)
        self._text = ""
