"""Processes of the site, forked from a server that has imported Django already."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from io import StringIO
from multiprocessing.connection import Connection
from signal import SIGKILL, Signals
from typing import Any

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertOAuthError
from django_ilert_oauth.flows import _lease, _storing
from django_ilert_oauth.models import ConnectedAccount

PATIENCE = 60
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.programs.caller", "django.test"])


class SiteProcess:
    """Carries out a call on the database and with the settings of the test."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        names = [name for name in dir(settings) if name.startswith("ILERT_OAUTH_")]
        names += ["ALLOWED_HOSTS", "ROOT_URLCONF"]
        chosen = {name: getattr(settings, name) for name in names}
        database = {name: connection.settings_dict[name] for name in ("NAME", "HOST", "PORT")}
        self._pipe, far_end = CONTEXT.Pipe()
        order = (far_end, database, chosen, call, args)
        self._process = CONTEXT.Process(target=_carry_out, args=order, daemon=True)
        self._process.start()
        far_end.close()
        self.until("ready")

    def go(self, message: object = "go") -> SiteProcess:
        self._pipe.send(message)
        return self

    def until(self, point: str) -> None:
        assert self._hear() == point

    def result(self) -> Any:
        return self._hear()

    def signal(self, number: Signals) -> None:
        assert self._process.pid is not None
        # It may have come to its end already.
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(PATIENCE)

    def end(self) -> None:
        self.kill()
        self._process.close()
        self._pipe.close()

    def _hear(self) -> Any:
        assert self._pipe.poll(PATIENCE)
        return self._pipe.recv()


@contextmanager
def site_process(call: Callable[..., Any], *args: Any) -> Iterator[SiteProcess]:
    process = SiteProcess(call, *args)
    try:
        yield process
    finally:
        process.end()


def _carry_out(
    pipe: Connection[Any, Any],
    database: dict[str, Any],
    chosen: dict[str, Any],
    call: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    connections.settings["default"].update(database)
    for name, value in chosen.items():
        setattr(settings, name, value)
    # No second copy is kept, for those who search this process for secrets.
    chosen.clear()
    _to_the_test.append(pipe)
    wait_at("ready")
    pipe.send(call(*args))


#: In a process of the site.
_to_the_test: list[Connection[Any, Any]] = []


def wait_at(point: str) -> Any:
    """Until the test lets this process go on from there: what it says."""
    [pipe] = _to_the_test
    pipe.send(point)
    return pipe.recv()


# What they do


def refresh_all(concurrency: int) -> flows.BulkResult:
    return flows.refresh_many(
        ConnectedAccount.objects.all(), concurrency=concurrency, per_minute=0, force=True
    )


def refresh_all_with_few_files(concurrency: int, files: int) -> flows.BulkResult:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return refresh_all(concurrency)


def refresh_for_ever(concurrency: int) -> None:
    while True:
        refresh_all(concurrency)


def run_command(concurrency: int) -> int:
    """Its exit status."""
    try:
        call_command(
            "refresh_ilert_tokens",
            within=timedelta(days=1),
            force=True,
            concurrency=concurrency,
            per_minute=0,
            json=True,
            stdout=StringIO(),
        )
    except CommandError as error:
        return error.returncode
    return 0


def work_off_tasks(tasks: dict[str, Any]) -> None:
    """As a worker of django-tasks-db does, until none is ready."""
    settings.TASKS = tasks
    call_command("db_worker", batch=True, interval=0.1, startup_delay=False, verbosity=0)


def refresh_with_short_leases(pks: list[int], storing_seconds: float) -> flows.BulkResult:
    """They end so long after the time of a request."""
    for module in (_lease, _storing):
        vars(module)["STORING_SECONDS"] = storing_seconds
    due = ConnectedAccount.objects.filter(pk__in=pks)
    return flows.refresh_many(due, concurrency=len(pks), per_minute=0, force=True)


def fork_after_a_refresh_in_a_transaction(pk: int) -> str:
    """What a child gets to hear that refreshes the same account in a transaction."""
    account = ConnectedAccount.objects.get(pk=pk)
    _refresh_in_a_transaction(account)
    connections.close_all()
    ours, theirs = CONTEXT.Pipe()
    child = os.fork()
    if not child:
        theirs.send(_refresh_in_a_transaction(account))
        os._exit(0)
    has_replied = ours.poll(10)
    os.kill(child, SIGKILL)
    os.waitpid(child, 0)
    return ours.recv() if has_replied else "nothing"


def _refresh_in_a_transaction(account: ConnectedAccount) -> str:
    try:
        with transaction.atomic():
            flows.refresh(account, force=True)
    except IlertOAuthError as error:
        return error.code
    return "refreshed"
