"""Work in steps: what touches the database runs in one thread, whatever it waits for.

A flow is a generator. It yields what it waits for, a future of the OAuth client or a number of
seconds, and returns its result. ``run_now`` does one at a time; a bulk run does many at once in
its one thread.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

T = TypeVar("T")

Steps = Generator[Future[Any] | float, None, T]


def run_now(steps: Steps[T]) -> T:
    """The result of the steps, which this thread waits for.

    Once a request is under way, an interrupt is deferred until its response has been stored.
    """
    interrupt: BaseException | None = None
    has_asked = False
    while True:
        try:
            while True:
                awaited = next(steps)
                has_asked = has_asked or isinstance(awaited, Future)
                _wait_for(awaited)
        except StopIteration as end:
            if interrupt:
                raise interrupt from None
            result: T = end.value
            return result
        except BaseException as error:
            has_ended = getgeneratorstate(steps) == GEN_CLOSED
            if has_ended or interrupt or not has_asked:
                steps.close()
                raise
            interrupt = error


def run_until_pause(steps: Steps[T]) -> T | float:
    """As ``run_now``, but leaves a pause before the first request to the caller."""
    try:
        awaited = next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    return awaited if isinstance(awaited, float) else run_now(_resumed(awaited, steps))


def despite_interrupt(
    begin: Callable[[], Steps[T]], expected: tuple[type[Exception], ...]
) -> Steps[T]:
    """What the steps return. What interrupts them is raised once they were repeated.

    Not only Ctrl-C: the time limits of queues are exceptions, too, that come at any statement. The
    ``expected`` are the steps' own.
    """
    no_interrupts: tuple[type[BaseException], ...] = (GeneratorExit, *expected)
    try:
        return (yield from begin())
    except no_interrupts:
        raise
    except BaseException:
        yield from begin()
        raise


def is_interrupt(error: Exception) -> bool:
    """Whether a signal handler has raised it, as queues do for their time limits."""
    *_outer, (frame, _line) = traceback.walk_tb(error.__traceback__)
    handlers = map(signal.getsignal, signal.valid_signals())
    return frame.f_code in [getattr(handler, "__code__", None) for handler in handlers]


def _resumed(awaited: Future[Any], steps: Steps[T]) -> Steps[T]:
    yield awaited
    return (yield from steps)


def _wait_for(awaited: Future[Any] | float) -> None:
    if isinstance(awaited, Future):
        wait([awaited])
    else:
        time.sleep(awaited)


def until_done(future: Future[Any]) -> Steps[None]:
    yield future
    wait([future])


def no_steps(*_args: object) -> Steps[None]:
    yield from ()
