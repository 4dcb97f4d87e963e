"""Brokers, due accounts, and workers in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from django_ilert_oauth.models import ConnectedAccount
from ilert_standin import StandIn, serve
from tests.support.celery_app import clean_up, fleet_app
from tests.support.request_gate import RequestGate
from tests.support.require_services import accepts_connections, address_of

ROOT = Path(__file__).parents[2]
CELERY_WORKER = [sys.executable, "-m", "celery", "-A", "tests.support.celery_worker", "worker"]
BOTH = ["redis://127.0.0.1:6379/0", "amqp://guest:guest@127.0.0.1:5672//"]
BROKERS = [os.environ["CELERY_BROKER_URL"]] if "CELERY_BROKER_URL" in os.environ else BOTH


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Left out unless this folder is named, as `tox run -e celery` does: it needs the brokers."""
    is_named = any("tests/celery" in argument for argument in config.args)
    return None if is_named else True


@pytest.fixture(params=BROKERS, ids=lambda url: str(url).partition(":")[0])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.param
    host, port = address_of(url)
    if not accepts_connections((host, port)):
        pytest.fail(
            f"{host}:{port} accepts no connections: start it, or set CELERY_BROKER_URL", False
        )
    return url


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = fleet_app(broker_url, f"ilert-tests-{uuid4().hex}")
    app.set_current()
    yield app
    clean_up(app)
    app.close()


@pytest.fixture
def gate(ilert: StandIn, settings: Any) -> Iterator[RequestGate]:
    """The way to the stand-in that accounts take which are made from now on."""
    ilert.options.requests_per_minute = 0
    gate = RequestGate(ilert)
    with serve(gate) as url:
        settings.ILERT_OAUTH_API_URL = url
        try:
            yield gate
        finally:
            gate.open.set()


@pytest.fixture
def make_due(
    transactional_db: None, gate: RequestGate, ilert: StandIn, settings: Any
) -> Callable[[int], list[ConnectedAccount]]:
    """So many accounts that are due."""

    def make(count: int) -> list[ConnectedAccount]:
        user = User.objects.create_user("site-user")
        accounts = [due_account(user, f"user{n}", ilert, settings) for n in range(count)]
        return ConnectedAccount.objects.bulk_create(accounts)

    return make


def due_account(user: User, username: str, ilert: StandIn, settings: Any) -> ConnectedAccount:
    tokens = ilert.issue_tokens("acme", username)
    columns: dict[str, Any] = {
        "user": user,
        "api_url": settings.ILERT_OAUTH_API_URL,
        "tenant_id": "acme",
        "username": username,
        "access_token": tokens["access_token"],
        "refresh_token": tokens["refresh_token"],
        "access_token_expires_at": timezone.now() + timedelta(minutes=5),
    }
    return ConnectedAccount(**columns)


@dataclass
class Workers:
    """Each is the leader of a session of its own, so that its children can be killed with it."""

    environment: dict[str, str]
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def order_to_die(self) -> Path:
        return Path(self.environment["FLEET_ORDER_TO_DIE"])

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def start(self, *, pool: str = "prefork", concurrency: int = 2) -> subprocess.Popen[bytes]:
        name = f"worker{len(self.running)}"
        options = f"--pool={pool} --concurrency={concurrency} --hostname={name} --loglevel=INFO"
        quiet = "--without-mingle --without-gossip --without-heartbeat"
        with (self.folder / f"{name}.log").open("wb") as log:
            worker = subprocess.Popen(
                [*CELERY_WORKER, *f"{options} {quiet}".split()],
                cwd=ROOT,
                env=self.environment | {"FLEET_WORKER": name},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = worker
        return worker

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@pytest.fixture
def workers(
    app: Celery,
    broker_url: str,
    gate: RequestGate,
    settings: Any,
    tmp_path: Path,
    transactional_db: None,
) -> Iterator[Workers]:
    facts = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "CELERY_BROKER_URL": broker_url,
        "FLEET_NAME": app.conf.task_default_queue,
        "FLEET_DATABASE": str(connection.settings_dict["NAME"]),
        "FLEET_ILERT": settings.ILERT_OAUTH_API_URL,
        "FLEET_ORDER_TO_DIE": str(tmp_path / "die"),
        "FLEET_RATE_LIMIT": "6000",
    }
    workers = Workers(os.environ | facts, tmp_path)
    yield workers
    gate.open.set()
    for worker in workers.running.values():
        workers.kill(worker)


def eventually(condition: Callable[[], bool], workers: Workers, *, seconds: float = 90) -> None:
    """The time is for a machine that is very busy; shows what the workers said."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"in vain: the workers said\n{workers.log[-5000:]}", False)
        time.sleep(0.1)
