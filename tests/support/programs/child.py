"""A process with the database and the settings of the test, and nothing else of it in memory.

Forked from a server that has imported Django already, so that it starts at once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from django.conf import settings
from django.db import connection, connections

PATIENCE = 60
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.support.programs", "django.test", "django_ilert_oauth.session"]
)


def _chosen_settings() -> dict[str, Any]:
    names = [name for name in dir(settings) if name.startswith("ILERT_OAUTH_")]
    return {name: getattr(settings, name) for name in (*names, "ALLOWED_HOSTS", "ROOT_URLCONF")}


@dataclass(frozen=True)
class Surroundings:
    """Those of the test, made in its process."""

    database: str = field(default_factory=lambda: str(connection.settings_dict["NAME"]))
    settings: dict[str, Any] = field(default_factory=_chosen_settings)

    def apply(self) -> None:
        """In the other process, which keeps no second copy."""
        connections.settings["default"]["NAME"] = self.database
        for name, value in self.settings.items():
            setattr(settings, name, value)
        self.settings.clear()


class Child:
    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe

    def hear(self) -> Any:
        assert self._pipe.poll(PATIENCE)
        return self._pipe.recv()

    def tell(self, message: object) -> None:
        self._pipe.send(message)


@contextmanager
def running(target: Callable[..., None], *args: object) -> Iterator[Child]:
    """``target`` is given a ``Child``, too: its way to this process."""
    near_end, far_end = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_run, args=(target, far_end, args), daemon=True)
    process.start()
    far_end.close()
    try:
        yield Child(near_end)
    finally:
        process.kill()
        process.join(PATIENCE)
        process.close()
        near_end.close()


def _run(target: Callable[..., None], pipe: Connection[Any, Any], args: tuple[object, ...]) -> None:
    target(Child(pipe), *args)
