"""How many accounts are in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.models.signals import post_init

from django_ilert_oauth.models import ConnectedAccount


@contextmanager
def counting_alive() -> Iterator[list[int]]:
    """How many were, at each that was read from now on."""
    alive: set[int] = set()
    counts: list[int] = []

    def born(instance: ConnectedAccount, **kwargs: Any) -> None:
        alive.add(id(instance))
        counts.append(len(alive))
        weakref.finalize(instance, alive.discard, id(instance))

    post_init.connect(born, sender=ConnectedAccount)
    yield counts
    post_init.disconnect(born, sender=ConnectedAccount)
