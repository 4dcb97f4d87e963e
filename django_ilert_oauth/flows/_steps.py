"""Work in steps: what touches the database runs in one thread, whatever it waits for.

A flow is a generator. It yields what it waits for, a future of the OAuth client or a number of
seconds, and returns its result. ``run_now`` does one at a time; a bulk run does many at once in
its one thread.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

Steps = Generator[Future[Any] | float, None, T]


def run_now(steps: Steps[T]) -> T:
    """The result of the steps, which this thread waits for.

    Once a request is under way, an interrupt is deferred until its response has been stored.
    """
    interrupt: BaseException | None = None
    has_asked = False
    try:
        while True:
            awaited = next(steps)
            has_asked = has_asked or isinstance(awaited, Future)
            try:
                _wait_for(awaited)
            except BaseException as error:
                if interrupt or not has_asked:
                    steps.close()
                    raise
                interrupt = error
                _wait_for(awaited)
    except StopIteration as end:
        if interrupt:
            raise interrupt from None
        result: T = end.value
        return result


def run_until_pause(steps: Steps[T]) -> T | float:
    """As ``run_now``, but leaves a pause before the first request to the caller."""
    try:
        awaited = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    return awaited if isinstance(awaited, float) else run_now(_resumed(awaited, steps))


def _resumed(awaited: Future[Any], steps: Steps[T]) -> Steps[T]:
    yield awaited
    return (yield from steps)


def _wait_for(awaited: Future[Any] | float) -> None:
    if isinstance(awaited, Future):
        wait([awaited])
    else:
        time.sleep(awaited)


def no_steps(*_args: object) -> Steps[None]:
    yield from ()
