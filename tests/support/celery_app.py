"""The Celery app of the tests, in their own process and in the workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, _state


def fleet_app(broker_url: str, name: str) -> Celery:
    """One queue, named so; on Redis all keys begin so."""
    app = Celery("fleet", broker=broker_url)
    app.conf.update(
        task_default_queue=name,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
    )
    if broker_url.startswith("redis"):
        # So short that tasks come back while the workers that have them are still waiting.
        app.conf.broker_transport_options = {
            "global_keyprefix": name,
            "visibility_timeout": 2,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    app.autodiscover_tasks()
    return app


@contextmanager
def memory_app() -> Iterator[Celery]:
    """A broker in this process, for this thread; no worker."""
    with current_app("tests") as app:
        yield app
        with broker_channel(app) as channel:
            channel.queue_purge(app.conf.task_default_queue)


@contextmanager
def current_app(name: str, **options: Any) -> Iterator[Celery]:
    """What ``celery.current_app`` is no longer than this; the first app stays the default."""
    state: Any = _state
    before = state._tls.current_app, state.default_app
    app = Celery(name, broker="memory://", set_as_current=False, **options)
    app.set_current()
    try:
        yield app
    finally:
        state._tls.current_app, state.default_app = before


@contextmanager
def broker_channel(app: Celery) -> Iterator[Any]:
    with app.connection_for_write() as connection:
        name = app.conf.task_default_queue
        app.amqp.queues[name].bind(connection.default_channel).declare()
        yield connection.default_channel


def raw_messages(app: Celery) -> list[Any]:
    """Takes what waits in the broker."""
    with broker_channel(app) as channel:
        name = app.conf.task_default_queue
        return list(iter(lambda: channel.basic_get(name, no_ack=True), None))


def clean_up(app: Celery) -> None:
    name = app.conf.task_default_queue
    with broker_channel(app) as channel:
        if "global_keyprefix" in app.conf.broker_transport_options:
            # The client puts the prefix before the keys it deletes, not into the pattern.
            keys = channel.client.keys(f"{name}*")
            channel.client.delete(*(key.decode().removeprefix(name) for key in keys))
        else:
            channel.queue_delete(name)
            channel.exchange_delete(name)
