from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from django_ilert_oauth.flows import _steps
from django_ilert_oauth.flows._steps import Steps, run_now


def done(value: str) -> Future[str]:
    future: Future[str] = Future()
    future.set_result(value)
    return future


class Work:
    """Asks, pauses and stores."""

    def __init__(self) -> None:
        self.stored = ""
        self.is_closed = False

    def steps(self) -> Steps[str]:
        try:
            yield 0.0
            future = done("response")
            yield future
            yield 0.0
            self.stored = future.result()
            return self.stored
        finally:
            self.is_closed = True


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ctrl-C at the waits of these numbers."""

    def at(*numbers: int) -> None:
        waits: list[object] = []
        wait = _steps._wait_for

        def wait_or_raise(awaited: Any) -> None:
            waits.append(awaited)
            if len(waits) in numbers:
                raise KeyboardInterrupt
            wait(awaited)

        monkeypatch.setattr(_steps, "_wait_for", wait_or_raise)

    return at


def test_steps_are_waited_for_and_return_their_result() -> None:
    work = Work()
    assert run_now(work.steps()) == work.stored == "response"


def test_an_interrupt_before_a_request_ends_the_work(interrupt: Any) -> None:
    work = Work()
    interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        run_now(work.steps())
    assert (work.stored, work.is_closed) == ("", True)


@pytest.mark.parametrize("number", [2, 3])
def test_an_interrupt_after_it_is_deferred_until_the_response_is_stored(
    interrupt: Any, number: int
) -> None:
    work = Work()
    interrupt(number)
    with pytest.raises(KeyboardInterrupt):
        run_now(work.steps())
    assert (work.stored, work.is_closed) == ("response", True)


def test_a_second_interrupt_ends_the_work_all_the_same(interrupt: Any) -> None:
    work = Work()
    interrupt(2, 3)
    with pytest.raises(KeyboardInterrupt):
        run_now(work.steps())
    assert (work.stored, work.is_closed) == ("", True)
