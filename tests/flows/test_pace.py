from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, pairwise

import pytest

from django_ilert_oauth.flows import pace
from django_ilert_oauth.flows.pace import Pace

MINUTE = 60.0


class Clock(threading.Event):
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self.now += timeout or 0
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def moments(clock: Clock, per_minute: int, *, seconds: float = 3 * MINUTE) -> Iterator[float]:
    """When a caller that is never late may go."""
    steady, end = Pace(per_minute, clock), clock.now + seconds
    while clock.now < end:
        steady.wait()
        yield clock.now


def most_in_a_minute(arrivals: list[float]) -> int:
    return max(sum(start <= other < start + MINUTE for other in arrivals) for start in arrivals)


@pytest.mark.parametrize("per_minute", [1, 10, 600, 700])
def test_no_rolling_minute_has_more_although_requests_arrive_late(
    clock: Clock, per_minute: int
) -> None:
    late = cycle([0.5, 0, 0.2])
    arrivals = [moment + next(late) for moment in moments(clock, per_minute)]
    assert most_in_a_minute(arrivals) <= per_minute


@pytest.mark.parametrize("per_minute", [10, 600, 700])
def test_nearly_all_of_the_pace_is_used(clock: Clock, per_minute: int) -> None:
    arrivals = list(moments(clock, per_minute))
    assert len(arrivals) >= 0.95 * 3 * per_minute


def test_requests_are_spread_evenly(clock: Clock) -> None:
    gaps = [after - before for before, after in pairwise(moments(clock, 600))]
    assert gaps == pytest.approx([0.101] * len(gaps))


def test_the_first_one_goes_at_once(clock: Clock) -> None:
    assert next(moments(clock, 1)) == 1000


def test_time_lost_is_not_caught_up_with(clock: Clock) -> None:
    steady = Pace(60, clock)
    steady.wait()
    clock.now += 10
    steady.wait()
    before = clock.now
    steady.wait()
    assert clock.now - before >= 1


def test_without_a_pace_nobody_waits(clock: Clock) -> None:
    steady = Pace(0, clock)
    for _ in range(100):
        steady.wait()
    assert clock.now == 1000


@pytest.mark.parametrize("per_minute", [0, 600])
def test_a_pause_holds_up_whoever_comes_next(clock: Clock, per_minute: int) -> None:
    steady = Pace(per_minute, clock)
    steady.pause(20)
    steady.wait()
    assert clock.now == 1020


def test_a_shorter_pause_does_not_end_a_longer_one(clock: Clock) -> None:
    steady = Pace(600, clock)
    steady.pause(20)
    steady.pause(10)
    steady.wait()
    assert clock.now == 1020


def test_after_a_pause_the_pace_is_kept(clock: Clock) -> None:
    steady = Pace(60, clock)
    steady.pause(20)
    steady.wait()
    steady.wait()
    assert clock.now >= 1021


class Interrupted(Clock):
    """Something happens while the next wait is on."""

    meanwhile: Callable[[], None] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return super().wait(timeout)


def test_a_pause_holds_up_those_who_wait_already(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Interrupted()
    monkeypatch.setattr(pace, "time", clock)
    steady = Pace(60, clock)
    steady.wait()
    clock.meanwhile = lambda: steady.pause(20)
    steady.wait()
    assert clock.now == 1020


def test_threads_share_the_pace() -> None:
    def go() -> None:
        steady.wait()
        gone.append(time.monotonic())

    steady, gone = Pace(1200, threading.Event()), list[float]()
    threads = [threading.Thread(target=go) for _ in range(6)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(gone) - started >= 5 * 0.05


def test_a_stopped_run_waits_no_longer() -> None:
    stop = threading.Event()
    steady = Pace(1, stop)
    steady.pause(3600)
    waiting = threading.Thread(target=steady.wait, daemon=True)
    waiting.start()
    stop.set()
    waiting.join(timeout=10)
    assert not waiting.is_alive()
